"""D4RL's sets and other flat HDF5 files."""
