"""Continuous batching of the requests of a trace."""
