"""Minari's sets: reading, writing and download."""
