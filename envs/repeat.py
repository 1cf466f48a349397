"""Repeat First and Repeat Previous: name the suit of a card dealt earlier.

The tasks are popgym's (Morad, Kortvelesy, Bettini, Liwicki and Prorok 2023, "POPGym: Benchmarking Partially
Observable Reinforcement Learning"; version 1.0.7 of the package), reimplemented: equal seeds give equal cards, rewards
and ends. Whole decks of 52 cards are shuffled and dealt one by one; each observation is a suit (0 to 3), each action
names one. An episode ends when the last card is dealt, after 52 · decks - 1 steps, and is never truncated. A right or
wrong answer earns ±1 / (number of answers), so that the best return is 1, the worst -1 and chance -0.5.

Shapes: N cards of an episode.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .compiled import Options, Task
from .random_streams import permutation
from .vector import CompiledVectorEnv

SUITS = 4
DECK = 52
Cards = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """Rule for the card to name: the first, or with `k` the k-th last of those seen (k = 1 is the current one)."""

    num_decks: int
    k: int | None

    def __post_init__(self) -> None:
        """Check the fields; raise ValueError if no step would have a card to name."""
        if self.num_decks < 1:
            raise ValueError(f"num_decks must be at least 1, got {self.num_decks}")
        if self.k is not None and not 1 <= self.k < self.cards:
            raise ValueError(
                f"k must lie from 1 to {self.cards - 1} ({self.num_decks} decks of {DECK} cards), got {self.k}"
            )

    @property
    def cards(self) -> int:
        """N, cards of an episode."""
        return DECK * self.num_decks

    @property
    def prize(self) -> float:
        """Reward of a right answer."""
        return 1.0 / (self.cards - (self.k or 1))

    def target(self, seen: Any) -> Any:
        """Return the index of the card to name after `seen` cards were dealt; below 0 there is none yet."""
        return seen * 0 if self.k is None else seen - self.k

    def deal(self, generator: np.random.Generator) -> Cards:
        """Return the suits of a shuffled pile in the order of dealing, (N,); popgym deals from its end."""
        suits: Cards = generator.permutation(self.cards)[::-1] % SUITS
        return suits


def previous(k: int, num_decks: int | None) -> Rule:
    """Return Repeat Previous's rule, by default with popgym's decks for k: 1 for 4, 2 for 32, 3 for 64."""
    return Rule(1 + k // 32 if num_decks is None else num_decks, k)


class RepeatEnv(gymnasium.Env[Any, Any]):
    """Gymnasium environment of either task."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own name, an instance's in its typing

    def __init__(self, rule: Rule) -> None:
        self.observation_space = spaces.Discrete(SUITS)
        self.action_space = spaces.Discrete(SUITS)
        self._rule = rule
        self._cards: list[int] = []
        self._seen = 0

    def reset(self, *, seed: int | None = None, options: Options = None) -> tuple[int, dict[str, Any]]:
        """Shuffle and deal the first card."""
        super().reset(seed=seed)
        self._cards = self._rule.deal(self.np_random).tolist()
        self._seen = 1
        return self._cards[0], {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Name a suit and deal the next card; raise ValueError if no card is left."""
        if self._seen >= len(self._cards):
            raise ValueError("no card is left: call reset")
        target = self._rule.target(self._seen)
        reward = 0.0 if target < 0 else self._rule.prize * (1 if action == self._cards[target] else -1)
        self._seen += 1
        return self._cards[self._seen - 1], reward, self._seen == len(self._cards), False, {}


def _reset(state: Any, stream: Any, settings: Any) -> None:
    """Shuffle and deal the first card; the state holds the number of dealt cards, and all suits."""
    permutation(stream, state[1:])
    first, last = 1, len(state) - 1
    while first < last:
        state[first], state[last] = state[last], state[first]
        first, last = first + 1, last - 1
    for i in range(1, len(state)):
        state[i] %= SUITS
    state[0] = 1


def _step(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Name a suit and deal the next card; the settings are k, 0 for the first card, and the prize."""
    k, prize, seen, cards = int(settings[0]), settings[1], int(state[0]), len(state) - 1
    target = seen - k if k > 0 else 0
    reward = 0.0
    if target >= 0:
        reward = prize if action[0] == state[1 + target] else -prize
    state[0] = min(seen + 1, cards)
    return reward, state[0] == cards, False


def _observe(state: Any, observation: Any, settings: Any) -> None:
    """Show the current suit."""
    observation[0] = state[int(state[0])]


def _task(rule: Rule) -> Task:
    settings = (rule.k or 0, rule.prize)
    return Task(spaces.Discrete(SUITS), spaces.Discrete(SUITS), 1 + rule.cards, _reset, _step, _observe, settings)


def repeat_first(num_decks: int = 1) -> RepeatEnv:
    """Make `minrl/RepeatFirst-v0`; popgym's Easy, Medium and Hard have 1, 8 and 16 decks."""
    return RepeatEnv(Rule(num_decks, None))


def repeat_previous(k: int = 4, num_decks: int | None = None) -> RepeatEnv:
    """Make `minrl/RepeatPrevious-v0`; popgym's Easy, Medium and Hard have k 4, 32 and 64 with 1, 2 and 3 decks."""
    return RepeatEnv(previous(k, num_decks))


def repeat_first_vector(num_envs: int = 1, num_decks: int = 1, **options: Any) -> CompiledVectorEnv:
    """Make a vectorised `minrl/RepeatFirst-v0`; `options` are those of CompiledVectorEnv."""
    return CompiledVectorEnv(_task(Rule(num_decks, None)), num_envs, **options)


def repeat_previous_vector(
    num_envs: int = 1, k: int = 4, num_decks: int | None = None, **options: Any
) -> CompiledVectorEnv:
    """Make a vectorised `minrl/RepeatPrevious-v0`; `options` are those of CompiledVectorEnv."""
    return CompiledVectorEnv(_task(previous(k, num_decks)), num_envs, **options)
