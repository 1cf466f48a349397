"""A run's folder: checkpoints, logs, figures, dashboard and videos."""
