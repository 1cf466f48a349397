"""Settings that runs of offline and of online agents share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from minrl.agent import Actor
from minrl.data.wrappers import DEFAULT_MAX_STEPS
from minrl.evaluate import Evaluation, evaluate
from minrl.system.config import check_at_least, check_at_most, check_finite, setting

S = TypeVar("S")


@dataclass(frozen=True)
class SharedSettings:
    """Settings of a run: seed, device, threads and evaluations."""

    seed: int = setting(0, "seed of weights, batches, dropout, actions and environments")
    device: str = setting("auto", "cpu, cuda or auto")
    threads: int = setting(0, "CPU threads, 0: one for small models, as many as torch chooses for large ones")
    tune_cpu: bool = setting(
        False, "reuse freed memory for later tensors (glibc): faster, but memory use never shrinks"
    )
    evaluate_episodes: int = setting(10, "episodes of an evaluation")
    evaluate_max_steps: int | None = setting(
        None,
        "truncate evaluation episodes after this many steps (unset: the environment's own limit, or "
        f"{DEFAULT_MAX_STEPS} if it has none)",
    )

    def __post_init__(self) -> None:
        check_finite(self)
        check_at_least(self, 1, "evaluate_episodes")
        check_at_least(self, 0, "seed", "threads")
        check_at_most(self, 2**32 - 1, "seed")  # NumPy's largest
        check_at_most(self, 10**8, "evaluate_episodes", "evaluate_max_steps")
        check_at_most(self, 4096, "threads")

    @property
    def first_episode(self) -> int:
        """Return the number, which is also the seed, of the first evaluation episode of the run.

        With n episodes each, run seed s has s n to (s + 1) n - 1, for target sweeps and videos too: runs of other seeds
        and as many episodes share none.
        """
        return self.seed * self.evaluate_episodes

    def evaluate(self, agent: Actor, targets: Sequence[float] | None = None, offset: int = 0) -> list[Evaluation]:
        """Evaluate an agent that is being trained, in the run's episodes or those with numbers higher by `offset`."""
        return evaluate(
            agent,
            episodes=self.evaluate_episodes,
            targets=targets,
            environments=10,
            seed=offset + self.first_episode,
            max_episode_steps=self.evaluate_max_steps,
            progress=True,
        )


def extended(planned: S, steps: int | None, done: int, out: Path) -> S:
    """Return the settings of a run with another last step; raise ValueError below the steps already made."""
    if steps is None:
        return planned
    if steps < done:
        raise ValueError(f"{out} has made {done} steps already: --steps N is the total number of steps, got {steps}")
    settings: Any = planned
    longer: S = replace(settings, steps=steps)
    return longer
