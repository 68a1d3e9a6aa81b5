"""Demonstration of llmpq on this very machine."""
