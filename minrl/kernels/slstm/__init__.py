"""The sLSTM over whole sequences: in torch, and compiled for a CPU."""
