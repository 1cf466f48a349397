"""Settings of a backbone, which the configs of all agents share."""

from dataclasses import dataclass, field
from typing import Any

from minrl.backbone import Backbone
from minrl.cells import CELLS
from minrl.system.config import check_at_least, check_finite


@dataclass(frozen=True)
class BackboneConfig:
    """Settings of a backbone, except for its dropout.

    Raises:
        ValueError: for sizes below 1, or a negative `conv` or `mlp`.
    """

    cell: str = field(default="mingru", metadata={"help": f"sequence model of the backbone: {', '.join(CELLS)}"})
    width: int = field(default=128, metadata={"help": "width of the backbone"})
    depth: int = field(default=3, metadata={"help": "blocks of the backbone"})
    conv: int = field(default=4, metadata={"help": "taps of each block's short convolution, 0 for none"})
    mlp: float = field(default=4.0, metadata={"help": "hidden width of each block's MLP over the width, 0 for none"})
    cell_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "options of the cell, such as expand=2 candidate=tanh"}
    )

    def __post_init__(self) -> None:
        check_finite(self)
        check_at_least(self, 1, "width", "depth")
        check_at_least(self, 0, "conv", "mlp")

    def backbone(self, *, dropout: float, depth: int | None = None) -> Backbone:
        """Build the backbone, of `depth` blocks if that is given."""
        return Backbone(
            self.width,
            depth or self.depth,
            self.cell,
            conv=self.conv,
            mlp=self.mlp,
            dropout=dropout,
            **self.cell_options,
        )
