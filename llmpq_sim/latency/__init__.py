"""How long kernels, layers and steps take on a device."""
