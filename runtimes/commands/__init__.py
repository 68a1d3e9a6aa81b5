"""Commands that compute: parse, call, print."""
