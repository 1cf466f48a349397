"""Registered Gymnasium ids and wrappers."""
