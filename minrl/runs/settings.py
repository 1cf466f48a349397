"""Settings that runs of offline and of online agents share."""

from dataclasses import dataclass

from minrl.data.wrappers import DEFAULT_MAX_STEPS
from minrl.system.config import check_at_least, check_at_most, check_finite, setting


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
