"""Library interface: plan, simulate, replay, verify and predict."""
