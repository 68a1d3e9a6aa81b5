"""How a machine's kernels, layers and links are timed."""
