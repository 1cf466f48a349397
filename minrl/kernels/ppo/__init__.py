"""Compiled update and action of recurrent PPO: matmul, trunks, heads, loss and Adam over preallocated buffers."""
