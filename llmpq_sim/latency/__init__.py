"""Latency models of kernels, layers and steps on a device."""
