"""The outcome of an offline run."""

from dataclasses import dataclass

from minrl.agent import Agent
from minrl.data.episode import Episodes
from minrl.evaluate import Evaluation


@dataclass(frozen=True)
class RunResult:
    """Outcome of a training run."""

    agent: Agent
    step: int
    evaluation: Evaluation | None  # of the last weights; None if stopped or without environment
    signal: int | None  # that stopped it
    seconds: float  # of gradient steps alone, over the whole run
    cpu_seconds: float  # the same, of all threads; NaN if an older version started the run
    held_out: int  # episodes
    is_first: bool  # of the processes that trained together: the one that writes and prints
    failure: str | None = None  # error of the evaluation of the last weights
    data: Episodes | None = None  # trained on and held out

    @property
    def seconds_per_step(self) -> float | None:
        """Mean seconds of a gradient step; None without any."""
        return self.seconds / self.step if self.step else None

    @property
    def exit_code(self) -> int:
        """Exit code: 0, 1 if the last evaluation failed, 128 + n after signal n."""
        if self.signal is not None:
            return 128 + self.signal
        return 0 if self.failure is None else 1
