"""Search for the best plan, with a bound on how far it is from the best possible."""
