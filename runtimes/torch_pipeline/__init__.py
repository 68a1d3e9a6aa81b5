"""A pipeline of PyTorch processes, one for each stage of a plan."""
