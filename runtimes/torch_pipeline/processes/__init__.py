"""Processes of a deployment: launch, watch, stop."""
