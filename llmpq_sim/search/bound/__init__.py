"""Proven upper bounds on throughput."""
