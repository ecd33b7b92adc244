"""Open connections end with their token."""
