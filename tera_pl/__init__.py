"""Experiments with TeRA and other methods of parameter-efficient fine-tuning."""

__version__ = "0.1.0"
