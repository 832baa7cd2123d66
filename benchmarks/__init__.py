"""Benchmarks: every figure that the README claims, each a module to run with `python -m`."""
