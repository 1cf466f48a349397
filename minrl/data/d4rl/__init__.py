"""D4RL's data sets and other flat HDF5 files."""
