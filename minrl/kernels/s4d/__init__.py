"""The recurrence of S4D: in torch, and compiled for a CPU."""
