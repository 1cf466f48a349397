"""Parts of distillation: the teacher among environments, its labelled trajectories, losses."""
