"""A stack of cells is itself a cell: blocks of norm, short convolution, cell and MLP with residuals.

Shapes: B batch, T time, D width, S state size.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor, nn

from minrl.backbone import compiled_scan, compiled_step
from minrl.backbone.block import Activation, Block
from minrl.cells import CELLS, Cell
from minrl.cells.nan_masks import contained
from minrl.system.names import check_options, choose


class Backbone(Cell):
    """`depth` blocks and a final norm; the state is the blocks' states side by side.

    Args:
        width: D.
        depth: number of blocks.
        cell: a name in `minrl.cells.CELLS`, or several with commas between them, which is a pattern.
        pattern: the cells of the blocks one after another, from the first again where there are more blocks, such as
            Griffin's ("rglru", "rglru", "transformer") (arXiv 2402.19427, section 2.3); it takes the place of `cell`.
        conv, mlp, activation, dropout: as for `Block`.
        options: passed to the cells that have them.

    Raises:
        ValueError: for an unknown cell or activation, or an option that none of the cells has.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 3,
        cell: str = "mingru",
        *,
        pattern: Sequence[str] = (),
        conv: int = 4,
        mlp: float = 4.0,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        if activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, got {activation!r}")
        names = tuple(pattern) or tuple(name.strip() for name in cell.split(","))
        cells = [_cell(names[i % len(names)], width, options, names) for i in range(depth)]
        self.width = width
        parts: dict[str, Any] = {"conv": conv, "mlp": mlp, "activation": activation, "dropout": dropout}
        self.blocks = nn.ModuleList(Block(cell, **parts) for cell in cells)
        self.norm = nn.LayerNorm(width)
        self._sizes = [block.state_size for block in self._stack()]
        self.state_size = sum(self._sizes)

    def scan(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan as `Cell.scan` does; on a CPU as one node of the autograd graph if there are kernels for these cells.

        Raises:
            ValueError: if a shape or type does not fit.
        """
        self._check(x, state, reset)
        return self(x, state, reset)  # type: ignore[no-any-return]

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Step as `Cell.step` does; without gradients on a CPU as one compiled call if these cells have one."""
        # There is no compiled call for a part with hooks, so that they always fire.
        if type(self) is Backbone and (fused := compiled_step.step(self, x, state)):
            return fused
        return self(x, state)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, state: Tensor | None = None, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scan or step as `Cell.forward` does."""
        if x.dim() == 2:
            return self._run(x, state, reset)
        self._check(x, state, reset)
        return self._scan(x, state, reset)

    @contained
    def _scan(self, x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        if type(self) is Backbone and (fused := compiled_scan.scan(self, x, state, reset)):
            return fused
        return self._run(x, state, reset)

    def _run(self, x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run a scan of x (B, T, D) or a step of x (B, D) block by block."""
        states = [None] * len(self._sizes) if state is None else state.split(self._sizes, dim=1)
        lasts = []
        for block, memory in zip(self._stack(), states, strict=True):
            x, last = block(x, memory, reset)
            lasts.append(last)
        return self.norm(x), torch.cat(lasts, dim=1)

    def _check(self, x: Tensor, state: Tensor | None, reset: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[1] == 0 or x.shape[2] != self.width:
            raise ValueError(f"x must be (B, T, {self.width}) with T >= 1, got {tuple(x.shape)}")
        if state is not None and state.shape != (x.shape[0], self.state_size):
            raise ValueError(f"state must be {(x.shape[0], self.state_size)}, got {tuple(state.shape)}")
        if reset is not None and (reset.shape != x.shape[:2] or reset.dtype != torch.bool):
            raise ValueError(
                f"reset must be bool of shape {tuple(x.shape[:2])}, got {reset.dtype} {tuple(reset.shape)}"
            )

    def _stack(self) -> list[Cell]:
        return [block for block in self.blocks if isinstance(block, Cell)]


def _cell(name: str, width: int, options: dict[str, Any], pattern: Sequence[str]) -> Cell:
    """Build the cell `name` of the pattern with the options that it has."""
    families = {other: choose(CELLS, other, "cell") for other in pattern}
    own = options
    if len(families) > 1:
        known = {other: set(signature(family.__init__).parameters) for other, family in families.items()}
        own = {option: value for option, value in options.items() if option in known[name]}
        options = {option: value for option, value in options.items() if not any(option in k for k in known.values())}
    check_options(families[name].__init__, options, f"cell {name!r}")
    return families[name](width, **own)
