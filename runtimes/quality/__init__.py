"""Measurement of a model's quality loss in each weight format, on this machine."""
