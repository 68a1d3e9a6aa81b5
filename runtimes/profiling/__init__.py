"""Profiling of a machine's kernels, layers and links."""
