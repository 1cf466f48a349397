"""Recurrent policies that learn while they act, on Stable-Baselines3."""
