"""Plan, simulate, replay, verify and predict: what scripts import."""
