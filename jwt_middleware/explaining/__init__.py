"""Words for refusals: what can be read of a token, and cause and cure for each code."""
