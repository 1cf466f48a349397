"""Running the trainings of a comparison, here or on Ray."""
