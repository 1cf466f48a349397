"""One block of a backbone: norm, short convolution, cell and MLP with residual connections.

Shapes: B batch, T time, D width, S state size.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from minrl.cells import Cell
from minrl.cells.convolution import ShortConvolution
from minrl.cells.nan_masks import contained

Activation = Literal["gelu", "relu"]


class Block(Cell):
    """norm -> short convolution -> cell -> residual -> norm -> MLP -> residual (arXiv 2410.01201, appendix C).

    The state holds the cell's state, then the convolution's last inputs. The convolution also precedes cells that have
    one of their own (mamba, mamba2, mlstm, slstm, rglru), unlike in their papers' blocks.

    Args:
        cell: the sequence model, of width D.
        conv: taps of the short causal convolution; 0 leaves it out.
        mlp: hidden width of the MLP over D; 0 leaves it out.
        activation: of the MLP.
        dropout: probability on both residual branches.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        conv: int = 4,
        mlp: float = 4.0,
        activation: Activation = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = cell.width
        self.width = width
        self.cell = cell
        self.norm = nn.LayerNorm(width)
        self.conv = ShortConvolution(width, conv) if conv else None
        self.mlp = _mlp(width, round(mlp * width), activation) if mlp else None
        self.dropout = nn.Dropout(dropout)
        self.state_size = cell.state_size + (self.conv.state_size if self.conv else 0)

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does."""
        return self(x, state, reset)  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does."""
        return self(x, state)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan or step as `Cell.forward` does."""
        return self._run(x, state, reset) if x.dim() == 2 else self._scan(x, state, reset)

    @contained
    def _scan(self, x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._run(x, state, reset)

    def _run(self, x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run a scan of x (B, T, D) or a step of x (B, D)."""
        memory, recent = (None, None) if state is None else self._split(state)
        y = self.norm(x)
        if self.conv is not None:
            y, recent = self.conv(y, recent, reset)
        y, last = self.cell(y, memory, reset)
        if recent is not None:
            last = torch.cat([last, recent], dim=1)
        return self._mix(x + self.dropout(y)), last

    def _split(self, state: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.conv is None:
            return state, None
        size = self.cell.state_size
        return state[:, :size], state[:, size:]

    def _mix(self, x: Tensor) -> Tensor:
        return x if self.mlp is None else x + self.dropout(self.mlp(x))


def _mlp(width: int, hidden: int, activation: Activation) -> nn.Sequential:
    between = nn.GELU() if activation == "gelu" else nn.ReLU()
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), between, nn.Linear(hidden, width))
