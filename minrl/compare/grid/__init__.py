"""What is compared: methods, tasks, settings and seeds of a grid file."""
