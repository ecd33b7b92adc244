"""How many requests are refused, how old are the keys? A module each for Prometheus and OpenTelemetry."""
