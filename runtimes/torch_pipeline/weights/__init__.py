"""Weights: checkpoints, quantizers, kernels, layers as stored."""
