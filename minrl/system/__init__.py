"""Configuration, files, names, devices and processes; knows nothing of learning."""
