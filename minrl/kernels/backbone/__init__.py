"""Compiled training, acting and stepping of a whole block stack on a CPU."""
