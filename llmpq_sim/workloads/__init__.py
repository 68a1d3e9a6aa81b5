"""How workloads are cut, scaled and made up."""
