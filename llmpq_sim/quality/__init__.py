"""Quality loss of layers by weight format."""
