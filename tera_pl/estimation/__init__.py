"""Memory and compute that a run needs, from its configuration: no weights or data are read."""
