"""Settings of a backbone, which the configs of all agents share."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from minrl.backbone import Backbone
from minrl.backbone.block import Activation
from minrl.cells import CELLS
from minrl.system.config import check_at_least, check_at_most, check_finite, setting


@dataclass(frozen=True)
class BackboneConfig:
    """Settings of a backbone, except for its dropout.

    Raises:
        ValueError: for sizes below 1 or far beyond any memory, or a negative `conv` or `mlp`.
    """

    cell: str = setting("mingru", f"sequence model of the backbone: {', '.join(CELLS)}")
    width: int = setting(128, "width of the backbone")
    depth: int = setting(3, "blocks of the backbone")
    conv: int = setting(4, "taps of each block's short convolution, 0 for none")
    mlp: float = setting(4.0, "hidden width of each block's MLP over the width, 0 for none")
    activation: Activation = setting("gelu", "activation of each block's MLP")
    init_std: float | None = setting(
        None, "draw the weights of linear layers from N(0, std^2), with biases 0, as GPT-2 does (.02)"
    )
    cell_options: dict[str, Any] = setting({}, "options of the cell, such as expand=2 candidate=tanh")

    def __post_init__(self) -> None:
        check_finite(self)
        check_at_least(self, 1, "width", "depth")
        check_at_least(self, 0, "conv", "mlp")
        if self.init_std is not None and not self.init_std > 0:
            raise ValueError(f"init_std must be positive, got {self.init_std}")
        check_at_most(self, 1 << 16, "width", "conv")
        check_at_most(self, 10**4, "depth", "mlp")

    def backbone(self, *, dropout: float, depth: int | None = None) -> Backbone:
        """Build the backbone, of `depth` blocks if that is given."""
        backbone = Backbone(
            self.width,
            depth or self.depth,
            self.cell,
            conv=self.conv,
            mlp=self.mlp,
            activation=self.activation,
            dropout=dropout,
            **self.cell_options,
        )
        if self.init_std is not None:
            _initialise(backbone, self.init_std)
        return backbone


@torch.no_grad()
def _initialise(backbone: Backbone, std: float) -> None:
    """Draw the weights of all linear layers from N(0, std^2) and set their biases to 0."""
    for layer in backbone.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.normal_(0.0, std)
            if layer.bias is not None:
                layer.bias.zero_()
