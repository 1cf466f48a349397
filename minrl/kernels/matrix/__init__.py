"""Recurrences whose state is a matrix: in torch, and compiled for a CPU."""
