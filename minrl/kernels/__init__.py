"""Kernels for the recurrences: one file per way to compute them."""
