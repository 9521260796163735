"""Measurements through real calls; run them as modules: `python -m benchmarks.turn_latency`."""
