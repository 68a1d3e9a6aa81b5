"""Pipeline of PyTorch processes, one for each stage of a plan."""
