"""Fits of latency profiles to measured rows."""
