"""Studies: many runs with the same search, from one file."""
