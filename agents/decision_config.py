"""Settings of a decision agent: table [decision] of a config."""

import math
from dataclasses import dataclass
from typing import Literal

from minrl.models.backbone_config import BackboneConfig
from minrl.models.context_window import refeeds
from minrl.models.heads import ContinuousLoss
from minrl.system.config import check_at_least, check_at_most, setting


@dataclass(frozen=True)
class DecisionConfig(BackboneConfig):
    """Settings of a decision agent."""

    dropout: float = setting(0.1, "dropout on embeddings and residual branches")
    tokens: Literal["step", "triple"] = setting("step", "one token a step, or return-to-go, observation and action")
    context: int | None = setting(None, "train on windows of this many steps instead of whole trajectories")
    # True or False after `__post_init__` wherever there is a choice; see `refeeds`.
    refeed: bool | None = setting(
        None, "act by rescanning the last `context` steps, as Decision Transformer (default: wherever there is context)"
    )
    previous_action: bool = setting(False, "the previous action as an input (tokens=step)")
    time_embedding: bool = setting(False, "a learned embedding of the time step; later steps share the last one")
    embed_norm: bool = setting(False, "layer norm of each token before dropout, as Decision Transformer")
    action_loss: ContinuousLoss = setting(
        "mse", "loss of continuous actions, in units of their std; discrete actions have cross-entropy"
    )
    tanh_actions: bool = setting(
        False, "continuous actions in units of their bounds, through tanh, as Decision Transformer"
    )
    target_return: float | None = setting(None, "target return when acting; the data set's best by default")
    cap_return: bool = setting(
        True,
        "cap target returns at the best return of the data, and predicted ones at its largest "
        "return-to-go: training has none beyond",
    )
    return_scale: float | None = setting(None, "unit of returns; the std of the data's returns-to-go by default")
    return_expectile: float | None = setting(
        None,
        "such as 0.99: predict the return-to-go at every step as this expectile of those in the data, "
        "close to the largest (Reinformer), instead of a target return",
        instead_of="target_return",  # over one of a lower layer, see minrl.compare.grid.settings
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "dropout")
        check_at_most(self, 10**6, "context")
        if self.tokens not in ("step", "triple"):
            raise ValueError(f'tokens must be "step" or "triple", got "{self.tokens}"')
        if self.context is not None and self.context < 1:
            raise ValueError(f"context must be at least 1 step, got {self.context}")
        object.__setattr__(self, "refeed", refeeds(self.context, self.refeed))
        if self.target_return is not None and not math.isfinite(self.target_return):
            raise ValueError(f"target_return must be finite, got {self.target_return}")
        if self.return_scale is not None and not self.return_scale > 0:
            raise ValueError(f"return_scale must be positive, got {self.return_scale}")
        if self.return_expectile is not None and not 0.5 <= self.return_expectile < 1:
            raise ValueError(f"return_expectile must lie in [0.5, 1), got {self.return_expectile}")
        if self.return_expectile is not None and self.target_return is not None:
            raise ValueError("return_expectile predicts the return-to-go: leave target_return out, or return_expectile")
