"""Rollouts of a run: calls between them, and their end after a signal."""
