"""Files and screens of others: one module a file kind."""
