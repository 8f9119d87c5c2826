"""Benchmarks: time and memory of every method, and complete training runs."""
