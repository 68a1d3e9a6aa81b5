"""LLM-PQ's own evaluation, repeated in the simulator and set beside what its authors measured."""
