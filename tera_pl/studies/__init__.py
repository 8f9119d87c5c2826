"""Studies: many runs with the same learning-rate search, from one file."""
