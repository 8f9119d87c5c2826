"""Time and memory of adapters and of the whole pipeline, as ratios."""
