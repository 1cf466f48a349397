"""Training settings of offline agents: table [train] of a config."""

from dataclasses import dataclass
from typing import Any, Literal

from minrl.runs.settings import SharedSettings
from minrl.system.config import check_at_least, check_at_most, setting

LARGEST_BATCH = 10**9  # steps


@dataclass(frozen=True)
class OfflineSettings:
    """Settings of offline training besides the shared ones."""

    data: str = setting("", "data set: minari:NAME, d4rl:NAME or hdf5:FILE")
    eval_env: str = setting(
        "",
        "environment to evaluate in, instead of the data set's own; MODULE:ID imports MODULE. It gives a "
        "flat HDF5 file without spaces its own",
    )
    env_kwargs: dict[str, Any] = setting({}, "settings of the evaluation environment, such as level=hard")
    observation_space: str = setting("", "space of the recorded observations, such as 'Box(-inf, inf, (3,))'")
    action_space: str = setting("", "space of the recorded actions, such as 'Discrete(3)' or 'Box(-1, 1, (2,))'")
    steps: int = setting(10_000, "gradient steps")
    batch_size: int = setting(6, "rows of a batch, per process")
    length: int = setting(500, "steps of a row, which holds trajectories end to end")
    carry: bool = setting(True, "carry the hidden state where a trajectory is cut between two batches")
    learning_rate: float = setting(3e-3, "peak learning rate of AdamW")
    warmup: float = setting(0.05, "share of the steps in which the learning rate rises")
    decay: Literal["cosine", "constant"] = setting(
        "cosine", "the learning rate after the warm-up: half a cosine to zero, or constant"
    )
    weight_decay: float = setting(1e-4, "weight decay of AdamW")
    clip: float = setting(0.25, "largest norm of the gradient")
    average: float = setting(0.0, "decay of averaged weights (EMA), 0 for none")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "precision of matmuls; auto: bfloat16 on a GPU that has it"
    )
    log_every: int = setting(100, "steps between rows of the log")
    checkpoint_every: int = setting(1000, "steps between checkpoints")
    evaluate_every: int = setting(1000, "steps between evaluations, 0 for none; one follows the last step")
    target_sweep: Literal["last", "all", "none"] = setting(
        "last",
        "evaluations of a return-conditioned agent that also try five target returns, from the worst "
        "to the best return of the data (targets.json)",
    )
    validation: float = setting(0.0, "share of the episodes held out for validation of loss and action errors")
    validate_every: int = setting(1000, "steps between passes over held-out episodes; one follows the last step")
    relabel_returns: bool = setting(False, "raise returns-to-go to a value function learned from the data (QDT)")
    choose_target: bool = setting(
        False,
        "after the last step choose the target return, of a few between mean and best of the data, that "
        "scores best in episodes of other seeds than the evaluation's",
    )
    video: bool = setting(False, "record one episode of each evaluation as an animated GIF")


@dataclass(frozen=True)
class TrainConfig(SharedSettings, OfflineSettings):
    """Settings of offline training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "steps", "batch_size", "length", "log_every", "checkpoint_every", "validate_every")
        check_at_least(self, 0, "evaluate_every", "weight_decay")
        check_at_most(self, 10**6, "batch_size")
        check_at_most(self, 10**8, "length")
        if self.batch_size * self.length > LARGEST_BATCH:
            raise ValueError(f"batch_size times length must be at most {LARGEST_BATCH:,} steps")
        if self.evaluate_max_steps is not None:
            check_at_least(self, 1, "evaluate_max_steps")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "average", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.choose_target and not self.evaluate_every:
            raise ValueError("choose_target evaluates the agent: it needs evaluate_every above 0")
        if self.video and not self.evaluate_every:
            raise ValueError("video records evaluations: it needs evaluate_every above 0")
