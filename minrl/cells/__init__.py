"""Sequence models as functions of (input, state): one file per family, one line each here.

Other packages add theirs by the entry point group `minrl.cells`: see `minrl.cells.table`.
"""

from minrl.cells.aaren import Aaren
from minrl.cells.base import Cell
from minrl.cells.gru import GRU
from minrl.cells.lru import LRU
from minrl.cells.lstm import LSTM
from minrl.cells.mamba import Mamba
from minrl.cells.mamba2 import Mamba2
from minrl.cells.mingru import MinGRU
from minrl.cells.minlstm import MinLSTM
from minrl.cells.mlstm import MLSTM
from minrl.cells.qrnn import QRNN
from minrl.cells.rglru import RGLRU
from minrl.cells.rwkv4 import RWKV4
from minrl.cells.rwkv6 import RWKV6
from minrl.cells.s4d import S4D
from minrl.cells.s5 import S5
from minrl.cells.slstm import SLSTM
from minrl.cells.sru import SRU
from minrl.cells.table import CellTable
from minrl.cells.transformer import Transformer

CELLS = CellTable(
    {
        "mingru": MinGRU,
        "minlstm": MinLSTM,
        "gru": GRU,
        "lstm": LSTM,
        "transformer": Transformer,
        "mamba": Mamba,
        "aaren": Aaren,
        "mamba2": Mamba2,
        "mlstm": MLSTM,
        "rwkv4": RWKV4,
        "slstm": SLSTM,
        "lru": LRU,
        "s4d": S4D,
        "s5": S5,
        "rglru": RGLRU,
        "qrnn": QRNN,
        "sru": SRU,
        "rwkv6": RWKV6,
    }
)

__all__ = ["CELLS", "Cell"]
