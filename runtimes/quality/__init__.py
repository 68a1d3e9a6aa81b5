"""How much quality a model loses in which weight format: measured on this machine."""
