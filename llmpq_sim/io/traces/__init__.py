"""How the files in which services record their requests become workloads."""
