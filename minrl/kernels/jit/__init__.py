"""Compilation of CPU kernels with numba, and what they share."""
