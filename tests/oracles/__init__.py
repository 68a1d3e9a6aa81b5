"""Plain models that only tests call."""
