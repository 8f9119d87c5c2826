"""What a run would take, from its configuration alone: no weights or data are read."""
