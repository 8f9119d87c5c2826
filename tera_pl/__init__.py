"""A PyTorch Lightning bench for TeRA and its rivals."""

__version__ = "0.1.0"
