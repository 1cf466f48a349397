"""Mamba's selective scan: in torch, and compiled for a CPU."""
