"""A sequence model over symbols: an embedding, a backbone and a linear head.

Shapes: B batch, T time, D width, V symbols, C classes.
"""

from typing import Any

from torch import Tensor, nn

from minrl.backbone import Backbone
from minrl.cells import CELLS

# Variants beside `minrl.cells.CELLS`: cell and options.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"signed": ("mingru", {"signed": True})}
KNOWN_CELLS = (*CELLS, *VARIANTS)
_LABELS = {
    "mingru": "minGRU", "minlstm": "minLSTM", "gru": "GRU", "lstm": "LSTM", "mamba": "Mamba", "mamba2": "Mamba-2",
    "transformer": "Transformer", "signed": "signed minGRU",
}  # fmt: skip


def label(cell: str) -> str:
    """Return the label of a cell in tables and plots."""
    return _LABELS.get(cell, cell)


class SequenceModel(nn.Module):
    """Sequence model from symbols (B, T) to logits (B, T, C).

    Args:
        vocabulary: V.
        classes: C.
        cell: one of `KNOWN_CELLS`.
        options: passed to `minrl.backbone.Backbone`: width, depth, conv, mlp, dropout, and the cell's own.
    """

    def __init__(self, vocabulary: int, classes: int, cell: str, **options: Any) -> None:
        super().__init__()
        cell, own = VARIANTS.get(cell, (cell, {}))
        self.backbone = Backbone(cell=cell, **{**own, **options})
        self.embedding = nn.Embedding(vocabulary, self.backbone.width)
        self.head = nn.Linear(self.backbone.width, classes)

    def forward(self, symbols: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> Tensor:
        """Predict logits: symbols (B, T) int64, initial state (B, S), resets (B, T) bool -> (B, T, C)."""
        hidden, _ = self.backbone.scan(self.embedding(symbols), state, reset)
        logits: Tensor = self.head(hidden)
        return logits
