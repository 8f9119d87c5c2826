"""MiniWorld: a small invented world, its benchmark, and the documents its base learns from."""
