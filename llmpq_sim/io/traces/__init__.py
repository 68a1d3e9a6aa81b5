"""Readers of trace files: rows of services become workloads."""
