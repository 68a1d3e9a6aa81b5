"""Experiments with measured quality, on a model trained for the purpose."""
