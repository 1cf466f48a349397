"""Independent implementations of the cells, with which ours are compared."""
