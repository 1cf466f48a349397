"""Settings of an online run: table [train] of a config."""

from dataclasses import dataclass, field
from typing import Any, Literal

from minrl.online.inputs.segments import check_segments
from minrl.runs.settings import SharedSettings
from minrl.system.config import check_at_least, check_finite


@dataclass(frozen=True)
class EnvironmentSettings:
    """Settings of the environments."""

    env: str = field(default="", metadata={"help": "Gymnasium id; MODULE:ID imports MODULE first"})
    env_kwargs: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of gymnasium.make, such as max_episode_steps=200"}
    )
    n_envs: int = field(default=8, metadata={"help": "environments at once"})
    vectorization: Literal["auto", "native", "sync", "async"] = field(
        default="auto",
        metadata={
            "help": "native: the vector environment registered with the id; sync: one after another; async: in one "
            "process each; auto: native if there is one, else sync"
        },
    )


@dataclass(frozen=True)
class AlgorithmSettings:
    """Settings of the algorithm; names and meaning are those of Stable-Baselines3's PPO."""

    n_steps: int = field(default=128, metadata={"help": "steps of a rollout in each environment"})
    batch_size: int = field(
        default=128, metadata={"help": "steps of a minibatch, made of whole segments; 0: the whole rollout"}
    )
    n_epochs: int = field(default=10, metadata={"help": "passes over a rollout"})
    segment_length: int | None = field(
        default=None,
        metadata={"help": "most steps of backpropagation through time (unset: as many as fit a minibatch)"},
    )
    state_refresh: Literal["rollout", "epoch"] = field(
        default="rollout", metadata={"help": "train from hidden states stored while acting, or computed each epoch"}
    )
    learning_rate: float = field(default=3e-4, metadata={"help": "learning rate of Adam"})
    decay: Literal["constant", "linear"] = field(
        default="constant", metadata={"help": "the learning rate over the run: constant, or linear to zero"}
    )
    gamma: float = field(default=0.99, metadata={"help": "discount factor"})
    gae_lambda: float = field(default=0.95, metadata={"help": "trade-off of bias and variance of the advantages"})
    clip_range: float = field(default=0.2, metadata={"help": "clipping of the probability ratio around 1"})
    clip_range_vf: float | None = field(
        default=None, metadata={"help": "clipping of the change of a value in an update (unset: none)"}
    )
    normalize_advantage: bool = field(default=True, metadata={"help": "normalise the advantages of each minibatch"})
    ent_coef: float = field(default=0.0, metadata={"help": "weight of the entropy in the loss"})
    vf_coef: float = field(default=0.5, metadata={"help": "weight of the value loss"})
    max_grad_norm: float = field(default=0.5, metadata={"help": "largest norm of the gradient"})
    target_kl: float | None = field(
        default=None, metadata={"help": "stop an update once the KL divergence exceeds 1.5 times this"}
    )
    sde_sample_freq: int = field(
        default=-1, metadata={"help": "steps between samples of gSDE's noise, -1: once a rollout"}
    )


@dataclass(frozen=True)
class RunSettings(SharedSettings):
    """Settings of a run: length, device, logs, checkpoints and evaluations."""

    steps: int = field(default=100_000, metadata={"help": "environment steps, rounded up to whole rollouts"})
    log_every: int = field(default=5, metadata={"help": "rollouts between rows of the log"})
    checkpoint_every: int = field(default=20_000, metadata={"help": "environment steps between checkpoints"})
    exact_resume: bool = field(
        default=False,
        metadata={
            "help": "reset all environments after each checkpoint, so that a resumed run equals an uninterrupted one, "
            "to the bit on a CPU"
        },
    )
    evaluate_every: int = field(
        default=20_000,
        metadata={"help": "environment steps between evaluations, 0 for none; one follows the last step"},
    )
    video: bool = field(
        default=False, metadata={"help": "render the first episode of each evaluation, for TensorBoard and as GIF"}
    )


@dataclass(frozen=True)
class OnlineConfig(EnvironmentSettings, AlgorithmSettings, RunSettings):
    """All settings of a run, except for the policy's."""

    def __post_init__(self) -> None:
        check_finite(self)
        check_at_least(self, 1, "n_envs", "n_steps", "n_epochs", "steps")
        check_at_least(self, 1, "log_every", "checkpoint_every", "evaluate_episodes")
        check_at_least(self, 0, "batch_size", "seed", "threads", "evaluate_every", "vf_coef")
        for name in (
            "learning_rate", "clip_range", "max_grad_norm", "clip_range_vf", "target_kl", "segment_length",
            "evaluate_max_steps",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        check_segments(self.n_steps, self.segment_length, self.batch_size)
        if self.normalize_advantage and (self.n_envs * self.n_steps == 1 or self.batch_size == 1):
            raise ValueError("normalize_advantage needs minibatches of two steps or more")
        if self.video and not self.evaluate_every:
            raise ValueError("video shows evaluations: it needs evaluate_every above 0")

    @property
    def rollout_steps(self) -> int:
        """Return the environment steps of a rollout."""
        return self.n_envs * self.n_steps
