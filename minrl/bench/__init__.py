"""Benchmarks of `minrl bench`: ratios to peer implementations, timed in turn within one run."""
