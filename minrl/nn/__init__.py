"""Recurrent layers in the form of `torch.nn.GRU` and `torch.nn.LSTM`, for agents of other packages."""

from minrl.nn.min_layers import MinGRU, MinLSTM

__all__ = ["MinGRU", "MinLSTM"]
