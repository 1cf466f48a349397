"""Comparisons: methods on tasks over seeds, each run a normal run folder."""
