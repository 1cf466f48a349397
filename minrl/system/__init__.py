"""Configuration, files, names, devices and processes; nothing about learning."""
