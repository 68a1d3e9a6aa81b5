"""Search for the plan and the limits of continuous batching that serve a trace best."""
