"""Sequence models as functions of (input, state): one file per family, one line each here."""

from minrl.cells.base import Cell
from minrl.cells.gru import GRU
from minrl.cells.lstm import LSTM
from minrl.cells.mamba import Mamba
from minrl.cells.mingru import MinGRU
from minrl.cells.minlstm import MinLSTM
from minrl.cells.transformer import Transformer

CELLS: dict[str, type[Cell]] = {
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "gru": GRU,
    "lstm": LSTM,
    "transformer": Transformer,
    "mamba": Mamba,
}

__all__ = ["CELLS", "Cell"]
