"""Servers to compare with, each in a process of its own that imports nothing of ours."""
