"""Policies that start from an agent trained offline and are held near it by a KL divergence."""
