"""What carries a plan out; the first runtimes are yet to come."""
