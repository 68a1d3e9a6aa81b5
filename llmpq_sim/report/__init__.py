"""What the user sees of a search or a simulation."""
