"""MiniWorld: a small invented world, its benchmark, and the base model that has read about it."""
