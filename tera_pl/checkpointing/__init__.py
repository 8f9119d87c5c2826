"""How runs are written and read back: atomic writes, checkpoints, run directories, resume."""
