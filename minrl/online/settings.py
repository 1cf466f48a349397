"""Settings of an online run: table [train] of a config."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from minrl.online.distill.losses import DistillLoss
from minrl.online.inputs.segments import check_segments
from minrl.online.offpolicy.entropy import first_ent_coef
from minrl.online.offpolicy.replay import RowState, check_rows
from minrl.runs.settings import SharedSettings
from minrl.system.config import check_at_least, check_at_most, setting

LARGEST_ROLLOUT = 10**9  # steps


@dataclass(frozen=True)
class EnvironmentSettings:
    """Settings of the environments."""

    env: str = setting("", "Gymnasium id; MODULE:ID imports MODULE first")
    env_kwargs: dict[str, Any] = setting({}, "settings of gymnasium.make, such as max_episode_steps=200")
    n_envs: int = setting(8, "environments at once")
    vectorization: Literal["auto", "native", "sync", "async"] = setting(
        "auto",
        "native: the vector environment registered with the id; sync: one after another; async: in one "
        "process each; auto: native if there is one, else sync",
    )


@dataclass(frozen=True)
class AlgorithmSettings:
    """Settings of the algorithm; names and meaning are those of Stable-Baselines3's PPO."""

    n_steps: int = setting(128, "steps of a rollout in each environment")
    batch_size: int = setting(128, "steps of a minibatch, made of whole segments; 0: the whole rollout")
    n_epochs: int = setting(10, "passes over a rollout")
    segment_length: int | None = setting(
        None, "most steps of backpropagation through time (unset: as many as fit a minibatch)"
    )
    state_refresh: Literal["rollout", "epoch"] = setting(
        "rollout", "train from hidden states stored while acting, or computed each epoch"
    )
    learning_rate: float = setting(3e-4, "learning rate of Adam")
    decay: Literal["constant", "linear"] = setting(
        "constant", "the learning rate over the run: constant, or linear to zero"
    )
    gamma: float = setting(0.99, "discount factor")
    gae_lambda: float = setting(0.95, "trade-off of bias and variance of the advantages")
    clip_range: float = setting(0.2, "clipping of the probability ratio around 1")
    clip_range_vf: float | None = setting(None, "clipping of the change of a value in an update (unset: none)")
    normalize_advantage: bool = setting(True, "normalise the advantages of each minibatch")
    ent_coef: float = setting(0.0, "weight of the entropy in the loss")
    vf_coef: float = setting(0.5, "weight of the value loss")
    max_grad_norm: float = setting(0.5, "largest norm of the gradient")
    target_kl: float | None = setting(None, "stop an update once the KL divergence exceeds 1.5 times this")
    sde_sample_freq: int = setting(-1, "steps between samples of gSDE's noise, -1: once a rollout")


@dataclass(frozen=True)
class DistillSettings(AlgorithmSettings):
    """Settings of distillation beside PPO's, which are of its rollouts and of PPO's loss where that has a weight."""

    loss: DistillLoss = setting(
        "auto",
        "kl from the teacher's distribution; likelihood of its action (cross-entropy of choices); mse of "
        "real actions; auto: mse, for choices kl if the teacher has a distribution",
    )
    beta: float = setting(1.0, "share of steps in which the teacher acts, at the start")
    beta_steps: int = setting(5_000, "environment steps over which beta falls to zero")
    buffer_size: int = setting(100_000, "labelled steps that are kept to learn from")
    ppo_coef: float = setting(0.0, "weight of PPO's loss beside the teacher's")
    batch_size: int = setting(256, "steps of a minibatch, made of whole segments")
    n_epochs: int = setting(20, "passes over as many steps as a rollout has")
    learning_rate: float = setting(3e-3, "learning rate of Adam")
    state_refresh: Literal["rollout", "epoch"] = setting(
        "epoch", "train from hidden states stored while acting, or computed before each update"
    )


@dataclass(frozen=True)
class ReplaySettings:
    """Settings of the algorithm; names and meaning are those of Stable-Baselines3's SAC."""

    train_freq: int = setting(8, "steps of each environment between updates")
    gradient_steps: int = setting(-1, "gradient steps of an update; -1: as many as environment steps since the last")
    batch_size: int = setting(512, "steps of a minibatch, made of whole rows")
    segment_length: int = setting(64, "steps of a row, over which gradients flow through time")
    row_state: RowState = setting(
        "stored",
        "hidden state at the start of a row: stored while acting; burn_in: that, refreshed by a scan over "
        "the steps before; recomputed from the start of its episode; zero",
    )
    burn_in: int = setting(0, "steps before a row, for row_state=burn_in")
    buffer_size: int = setting(1_000_000, "observations that the replay buffer holds")
    learning_starts: int = setting(1000, "steps of random actions before the first update")
    n_steps: int = setting(1, "most rewards in a target, which then bootstraps")
    learning_rate: float = setting(1e-3, "learning rate of Adam")
    decay: Literal["constant", "linear"] = setting(
        "constant", "the learning rate over the run: constant, or linear to zero"
    )
    gamma: float = setting(0.99, "discount factor")
    tau: float = setting(0.01, "part of the way that the target critics move in an update")
    target_update_interval: int = setting(1, "gradient steps between moves of the targets")
    ent_coef: str = setting(
        "auto_0.1", "weight of the entropy: learned (auto), from a first value (auto_0.1), or a number"
    )
    target_entropy: str = setting(
        "auto", "entropy in nats to which the weight is steered; auto: -(number of actions) or 0.3 log(choices)"
    )
    max_grad_norm: float = setting(10.0, "largest norm of the gradient of actor and critics")


@dataclass(frozen=True)
class RunSettings(SharedSettings):
    """Settings of a run: length, device, logs, checkpoints and evaluations."""

    steps: int = setting(100_000, "environment steps, rounded up to whole rollouts")
    log_every: int = setting(5, "rollouts between rows of the log")
    checkpoint_every: int = setting(20_000, "environment steps between checkpoints")
    exact_resume: bool = setting(
        False,
        "reset all environments after each checkpoint, so that a resumed run equals an uninterrupted one, "
        "to the bit on a CPU",
    )
    evaluate_every: int = setting(
        20_000, "environment steps between evaluations, 0 for none; one follows the last step"
    )
    video: bool = setting(False, "render the first episode of each evaluation, for TensorBoard and as GIF")


@dataclass(frozen=True)
class OnlineConfig(EnvironmentSettings, AlgorithmSettings, RunSettings):
    """All settings of a run of PPO, except for the policy's."""

    algorithm: ClassVar[type[Any]] = AlgorithmSettings

    def __post_init__(self) -> None:
        _check(
            self, ("n_steps", "n_epochs"), ("batch_size", "vf_coef"),
            ("clip_range", "clip_range_vf", "target_kl", "segment_length"), ("gae_lambda",),
        )  # fmt: skip
        check_at_most(self, 10**5, "n_epochs")
        check_at_most(self, 10**8, "n_steps")
        check_segments(self.n_steps, self.segment_length, self.batch_size)
        if self.normalize_advantage and (self.n_envs * self.n_steps == 1 or self.batch_size == 1):
            raise ValueError("normalize_advantage needs minibatches of two steps or more")

    @property
    def rollout_steps(self) -> int:
        """Return the environment steps of a rollout."""
        return self.n_envs * self.n_steps


@dataclass(frozen=True)
class DistillRunConfig(DistillSettings, OnlineConfig):
    """All settings of a run of distillation, except for the student's."""

    algorithm: ClassVar[type[Any]] = DistillSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "beta", "beta_steps", "ppo_coef")
        check_at_least(self, 1, "buffer_size")
        check_at_most(self, 1, "beta")


@dataclass(frozen=True)
class ReplayConfig(EnvironmentSettings, ReplaySettings, RunSettings):
    """All settings of a run of SAC, except for the policy's."""

    algorithm: ClassVar[type[Any]] = ReplaySettings

    def __post_init__(self) -> None:
        _check(
            self, ("train_freq", "n_steps", "batch_size", "target_update_interval"), ("learning_starts",), ("tau",),
            ("tau",),
        )  # fmt: skip
        if self.gradient_steps == 0 or self.gradient_steps < -1:
            raise ValueError(f"gradient_steps must be at least 1, or -1, got {self.gradient_steps}")
        check_rows(self.row_state, self.burn_in, self.segment_length, self.buffer_size // self.n_envs)
        first_ent_coef(self.ent_coef)
        check_at_most(self, 10**8, "train_freq", "gradient_steps", "segment_length", "burn_in", "buffer_size")

    @property
    def rollout_steps(self) -> int:
        """Return the environment steps between updates."""
        return self.n_envs * self.train_freq


Config = OnlineConfig | ReplayConfig


def config_class(kind: Any) -> type[Config]:
    """Return the class of the settings of a run of an agent: PPO's, if the agent names none."""
    found: type[Config] = kind.settings_class or OnlineConfig
    return found


def _check(
    config: Any, counts: tuple[str, ...], others: tuple[str, ...], positive: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    """Raise ValueError for settings out of range: the algorithm's `counts` ≥ 1, `others` ≥ 0, `parts` in [0, 1]."""
    SharedSettings.__post_init__(config)
    check_at_least(config, 1, "n_envs", "steps", "log_every", "checkpoint_every", *counts)
    check_at_least(config, 0, "evaluate_every", *others)
    check_at_most(config, 10**5, "n_envs")
    check_at_most(config, 10**8, "batch_size")
    if config.rollout_steps > LARGEST_ROLLOUT:
        raise ValueError(f"steps of all n_envs between two updates must be at most {LARGEST_ROLLOUT:,}")
    for name in ("learning_rate", "max_grad_norm", "evaluate_max_steps", *positive):
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    for name in ("gamma", *parts):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(config, name)}")
    if config.video and not config.evaluate_every:
        raise ValueError("video shows evaluations: it needs evaluate_every above 0")
