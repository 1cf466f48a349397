"""Inputs of a policy: images, segments of a rollout, action masks."""
