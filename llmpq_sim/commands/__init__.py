"""Commands of the planner: parse, call, print."""
