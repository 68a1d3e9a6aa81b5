"""Genetic search of plans with DEAP."""
