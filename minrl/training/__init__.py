"""Training of agents on recorded trajectories."""
