"""Simulators of plans, one for each batching policy."""
