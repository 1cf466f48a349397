"""The short causal convolution with resets, compiled for a CPU."""
