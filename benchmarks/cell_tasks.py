"""Learning within a small budget: two experiments of `minrl reproduce`, and memory tasks by cloning.

A memory task is cloned from episodes of an expert, as a sequence model over observations, and scored by acting in the
environment step by step from the carried state.

Shapes: N episodes or sequences, T time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.reproduce import chomsky, selective_copy
from minrl.reproduce.sequence_model import SequenceModel
from minrl.reproduce.training import Training, train

Whole = npt.NDArray[np.int64]
IGNORED = -100  # target that cross_entropy ignores
RIGHT, UP, DOWN, CUE_UP, JUNCTION = 0, 1, 3, 2, 1  # as in envs/tmaze.py
TRAINING = Training(1000, 32, 3e-3, clip=1.0, evaluate_every=1, weight_decay=0.0, warmup=0.05, decay="cosine")


@dataclass(frozen=True)
class Outcome:
    """Result of a budget: score, training steps and their CPU seconds."""

    score: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class Task:
    """Learning task: its score, the score that solves it, the CPU seconds allowed, and how it is learned."""

    score: str
    bar: float
    seconds: float
    training: Training
    learn: Callable[[str, Training, int], Outcome]


def within(task: Task, cell: str) -> Outcome:
    """Learn `task` for its steps, or for as many as its seconds allow by what a few of them cost."""
    for few in (3, 20):  # the first steps are slow
        trial = replace(task.training, steps=few, evaluate_every=few, warmup=0.0)
        each = task.learn(cell, trial, 2).seconds / few
        if 20 * each > task.seconds / 5:
            break
    steps = max(3, min(task.training.steps, int(task.seconds / each)))
    return task.learn(cell, replace(task.training, steps=steps, evaluate_every=steps), 256)


def parity(cell: str, training: Training, tests: int) -> Outcome:
    """Train two layers of width 32 on lengths up to 40; return the accuracy at 256 in %."""
    config = chomsky.Config(40, 256, 8 * tests, 32, 2, training)
    numbers: Any = chomsky.learn(cell, "parity", 0, config, "cpu", f"parity, {cell}", None)
    return Outcome(numbers["accuracy_by_length"][-1], training.steps, numbers["curve"][-1]["seconds"])


def copying(cell: str, training: Training, tests: int) -> Outcome:
    """Train three layers of width 64 on 4 tokens of 8 kinds in 16 symbols of noise; return the accuracy in %."""
    noise, tokens, vocabulary = 16, 4, 10
    length = noise + 2 * tokens
    torch.manual_seed(0)
    model = _model(cell, vocabulary, vocabulary, depth=3, width=64, conv=0, mlp=0, length=length)

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        return selective_copy.sequences(count, noise, tokens, vocabulary, np.random.default_rng((seed, 4)))

    def right(symbols: Tensor, wanted: Tensor) -> Tensor:
        return (model(symbols)[:, -tokens:].argmax(-1) == wanted).double().mean()

    def loss(step: int) -> Tensor:
        symbols, wanted = draw(training.batch_size, step + 1)
        return F.cross_entropy(model(symbols)[:, -tokens:].flatten(0, 1), wanted.flatten())

    def score() -> dict[str, float]:
        return {"score": 100 * right(*draw(tests, 0)).item()}

    return _outcome(train(model, training, loss, score, name=f"copying, {cell}", seed=0), training)


@dataclass(frozen=True)
class Cloned:
    """A memory task: the environment, and the right actions of whole observation sequences, (N, T) -> (N, T)."""

    environment: str
    options: dict[str, Any]
    right: Callable[[Whole], Whole]

    def __call__(self, cell: str, training: Training, tests: int) -> Outcome:
        """Train two of the library's default blocks of width 64; return the mean return of `tests` new episodes."""
        seen = self._observed(1024)
        observations, actions = torch.from_numpy(seen), torch.from_numpy(self.right(seen))
        vector = self._vector(tests)
        torch.manual_seed(0)
        model = _model(
            cell, int(vector.single_observation_space.n), int(vector.single_action_space.n), depth=2, width=64
        )

        def loss(step: int) -> Tensor:
            rows = torch.from_numpy(np.random.default_rng(step).integers(len(seen), size=training.batch_size))
            return F.cross_entropy(
                model(observations[rows]).flatten(0, 1), actions[rows].flatten(), ignore_index=IGNORED
            )

        def score() -> dict[str, float]:
            return {"score": _played(model, vector)}

        name = f"{self.environment}, {cell}"
        return _outcome(train(model, training, loss, score, name=name, seed=0), training)

    def _vector(self, count: int) -> Any:
        return gymnasium.make_vec(f"minrl.envs:{self.environment}", count, **self.options)

    def _observed(self, count: int) -> Whole:
        """Record the observations of `count` expert episodes, all of one length."""
        vector = self._vector(count)
        seen = [vector.reset(seed=10_000)[0]]
        while True:
            actions = np.maximum(self.right(np.stack(seen, axis=1))[:, -1], 0)
            observation, _, terminated, truncated, _ = vector.step(actions)
            if (terminated | truncated).all():
                return np.stack(seen, axis=1)
            seen.append(observation)


def previous(k: int) -> Callable[[Whole], Whole]:
    """Label with the k-th last card; before there is one, any is right."""

    def right(seen: Whole) -> Whole:
        unasked = np.full((len(seen), k - 1), IGNORED)
        return np.concatenate([unasked, seen], axis=1)[:, : seen.shape[1]]

    return right


def cue(seen: Whole) -> Whole:
    """Label every step with the sign of the first one."""
    return np.repeat(seen[:, :1], seen.shape[1], axis=1)


def turn(seen: Whole) -> Whole:
    """Label with the way to the junction, and there to the cue's side."""
    side = np.where(seen[:, :1] == CUE_UP, UP, DOWN)
    actions: Whole = np.where(seen == JUNCTION, side, RIGHT)
    return actions


def _model(cell: str, symbols: int, classes: int, *, length: int | None = None, **options: Any) -> SequenceModel:
    """Build a model; a Transformer attends to all of `length` if it is given."""
    if cell == "transformer" and length is not None:
        options["context"] = length
    return SequenceModel(symbols, classes, cell, **options)


def _outcome(curve: list[dict[str, Any]], training: Training) -> Outcome:
    return Outcome(curve[-1]["score"], training.steps, curve[-1]["seconds"])


@torch.no_grad()
def _played(model: SequenceModel, vector: Any) -> float:
    """Act from the carried state and return the mean return, one episode in each environment."""
    observation, _ = vector.reset(seed=0)
    state = model.backbone.initial_state(vector.num_envs)
    returns, over = np.zeros(vector.num_envs), np.zeros(vector.num_envs, dtype=np.bool_)
    while not over.all():
        hidden, state = model.backbone.step(model.embedding(torch.from_numpy(observation)), state)
        observation, rewards, terminated, truncated, _ = vector.step(model.head(hidden).argmax(-1).numpy())
        returns += np.where(over, 0.0, rewards)
        over |= terminated | truncated
    return float(returns.mean())


def _cloning(environment: str, right: Callable[[Whole], Whole], bar: float, **options: Any) -> Task:
    return Task("return", bar, 6.0, replace(TRAINING, steps=500, batch_size=16), Cloned(environment, options, right))


TASKS = {
    "parity, 40 to 256": Task("accuracy, %", 99.0, 8.0, replace(TRAINING, batch_size=64), parity),
    "selective copy": Task("accuracy, %", 99.0, 10.0, replace(TRAINING, steps=1500), copying),
    "RepeatPrevious 4": _cloning("minrl/RepeatPrevious-v0", previous(4), 0.95),
    "RepeatPrevious 16": _cloning("minrl/RepeatPrevious16-v0", previous(16), 0.95),
    "DelayedCue 20": _cloning("minrl/DelayedCue-v0", cue, 0.99),
    "T-Maze 50": _cloning("minrl/TMaze-v0", turn, 0.99, length=50),
}
