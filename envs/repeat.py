"""Repeat First and Repeat Previous: name the suit of a card that was dealt before.

The tasks are popgym's (Morad, Kortvelesy, Bettini, Liwicki and Prorok 2023, "POPGym: Benchmarking Partially
Observable Reinforcement Learning"; version 1.0.7 of the package), written anew: equal seeds give equal cards, rewards
and ends. Whole decks of 52 cards are shuffled and dealt one by one; each observation is a suit (0 to 3), each action
names one. An episode ends when the last card is dealt, after 52 · decks - 1 steps, and is never truncated. Naming
right or wrong earns ±1 / (number of namings), so that the best return is 1, the worst -1 and chance -0.5.

Shapes: B environments, N cards of an episode.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .vector import Array, Dynamics, Flags, NumpyVectorEnv, Options, Rewards

SUITS = 4
DECK = 52
Cards = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """Which card is asked for: the first one, or with `k` the k-th last of those seen (k = 1 is the one in view)."""

    num_decks: int
    k: int | None

    def __post_init__(self) -> None:
        """Raises ValueError where no card could be asked for."""
        if self.num_decks < 1:
            raise ValueError(f"num_decks must be at least 1, got {self.num_decks}")
        if self.k is not None and not 1 <= self.k < self.cards:
            raise ValueError(
                f"k must lie from 1 to {self.cards - 1} ({self.num_decks} decks of {DECK} cards), got {self.k}"
            )

    @property
    def cards(self) -> int:
        """N."""
        return DECK * self.num_decks

    @property
    def prize(self) -> float:
        """Of one right naming."""
        return 1.0 / (self.cards - (self.k or 1))

    def asked(self, seen: Any) -> Any:
        """The index of the card asked for when `seen` cards have been dealt; below 0 nothing is asked yet."""
        return seen * 0 if self.k is None else seen - self.k

    def deal(self, generator: np.random.Generator) -> Cards:
        """The suits of a shuffled pile in the order of dealing, (N,); popgym deals from its end."""
        suits: Cards = generator.permutation(self.cards)[::-1] % SUITS
        return suits


def previous(k: int, num_decks: int | None) -> Rule:
    """Repeat Previous; popgym's decks for its k by default: 1 for 4, 2 for 32, 3 for 64."""
    return Rule(1 + k // 32 if num_decks is None else num_decks, k)


class RepeatEnv(gymnasium.Env[Any, Any]):
    """One row of the task."""

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
        """Name a suit, see the next card; raises ValueError where no card is left."""
        if self._seen >= len(self._cards):
            raise ValueError("no card is left: call reset")
        asked = self._rule.asked(self._seen)
        reward = 0.0 if asked < 0 else self._rule.prize * (1 if action == self._cards[asked] else -1)
        self._seen += 1
        return self._cards[self._seen - 1], reward, self._seen == len(self._cards), False, {}


class Repeat(Dynamics):
    """B rows of the task."""

    def __init__(self, num_envs: int, rule: Rule) -> None:
        self.observation_space = spaces.Discrete(SUITS)
        self.action_space = spaces.Discrete(SUITS)
        self._rule, self._prize = rule, rule.prize
        self._cards = np.zeros((num_envs, rule.cards), dtype=np.int64)
        self._starts = np.arange(num_envs) * rule.cards  # of the rows in the cards laid end to end
        self._seen = np.ones(num_envs, dtype=np.int64)

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Shuffle and deal the first card; there are no options."""
        self._cards[row] = self._rule.deal(generator)
        self._seen[row] = 1

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Name a suit, deal the next card."""
        asked = self._rule.asked(self._seen)
        # A row that asks nothing yet looks up some card; its reward is 0 whatever it finds.
        right = self._cards.take(self._starts + asked, mode="wrap") == actions
        rewards = np.where(right, self._prize, -self._prize) * (asked >= 0)
        self._seen = np.minimum(self._seen + 1, self._rule.cards)
        return rewards, self._seen == self._rule.cards

    def observe(self) -> Array:
        """(B,) the suits in view."""
        return self._cards.take(self._starts + (self._seen - 1))


def repeat_first(num_decks: int = 1) -> RepeatEnv:
    """`minrl/RepeatFirst-v0`: popgym's Easy, Medium and Hard have 1, 8 and 16 decks."""
    return RepeatEnv(Rule(num_decks, None))


def repeat_previous(k: int = 4, num_decks: int | None = None) -> RepeatEnv:
    """`minrl/RepeatPrevious-v0`: popgym's Easy, Medium and Hard have k 4, 32 and 64 with 1, 2 and 3 decks."""
    return RepeatEnv(previous(k, num_decks))


def repeat_first_vector(num_envs: int = 1, num_decks: int = 1, **options: Any) -> NumpyVectorEnv:
    """`repeat_first`, all rows at once; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(Repeat(num_envs, Rule(num_decks, None)), num_envs, **options)


def repeat_previous_vector(
    num_envs: int = 1, k: int = 4, num_decks: int | None = None, **options: Any
) -> NumpyVectorEnv:
    """`repeat_previous`, all rows at once; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(Repeat(num_envs, previous(k, num_decks)), num_envs, **options)
