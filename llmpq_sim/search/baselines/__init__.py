"""Baseline planners: the plans that others would make."""
