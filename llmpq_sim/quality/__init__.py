"""How much a weight format damages a layer."""
