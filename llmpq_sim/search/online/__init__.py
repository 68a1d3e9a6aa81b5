"""Which plan serves a trace best, and with which limits of continuous batching."""
