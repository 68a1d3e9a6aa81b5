"""Runtimes, which execute plans, and the commands that compute on this machine."""
