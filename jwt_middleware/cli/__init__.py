"""The command line: why was this token refused, is this service set up well, and tokens and keys to try things out."""
