"""Which plan is best, and how far from the best possible it is."""
