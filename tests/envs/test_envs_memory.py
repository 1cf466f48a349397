"""Repeat First and Repeat Previous: a policy with memory earns 1, one without does not; popgym's are equal."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest

from minrl.data.environment import EnvironmentInfo, make_environment

FIRST, PREVIOUS = "minrl/RepeatFirst-v0", "minrl/RepeatPrevious-v0"
Policy = Callable[[list[int]], int]
# Ours, popgym's, and k.
LEVELS = [
    (FIRST, {}, "RepeatFirstEasy", None),
    (FIRST, {"num_decks": 8}, "RepeatFirstMedium", None),
    (FIRST, {"num_decks": 16}, "RepeatFirstHard", None),
    (PREVIOUS, {}, "RepeatPreviousEasy", 4),
    ("minrl/RepeatPrevious32-v0", {}, "RepeatPreviousMedium", 32),
    ("minrl/RepeatPrevious64-v0", {}, "RepeatPreviousHard", 64),
]


def play(env: Any, remember: Policy, seed: int) -> tuple[list[int], list[float]]:
    """Play one episode of a policy that sees all cards so far; return the cards and the rewards."""
    card, _ = env.reset(seed=seed)
    cards, rewards, over = [card], [], False
    while not over:
        card, reward, over, truncated, _ = env.step(remember(cards))
        assert not truncated
        cards.append(card)
        rewards.append(reward)
    return cards, rewards


def right(k: int | None) -> Policy:
    """Return the policy that names the k-th last card, or the first one."""
    return lambda cards: cards[0] if k is None else cards[-k] if len(cards) >= k else 0


def wrong_suit(k: int | None) -> Policy:
    return lambda cards: (right(k)(cards) + 1) % 4


def late(k: int | None) -> Policy:
    """Return a policy that is off by one card."""
    return lambda cards: cards[min(1, len(cards) - 1)] if k is None else right(k + 1)(cards)


def in_view(k: int | None) -> Policy:
    return lambda cards: cards[-1]


@pytest.mark.parametrize(("name", "options", "_theirs", "k"), LEVELS, ids=str)
def test_a_policy_with_memory_earns_one(name: str, options: dict[str, Any], _theirs: str, k: int | None) -> None:
    env = gymnasium.make(name, **options)
    for seed in range(3):
        cards, rewards = play(env, right(k), seed)
        assert sum(rewards) == pytest.approx(1.0, abs=1e-12)
        assert len(cards) % 52 == 0
        assert len(set(Counter(cards).values())) == 1  # as many of each suit
        # No reward before the k-th card, equal rewards from then on.
        waiting = (k or 1) - 1
        assert rewards == [0.0] * waiting + [1.0 / (len(cards) - (k or 1))] * (len(cards) - 1 - waiting)


@pytest.mark.parametrize(("name", "options", "_theirs", "k"), LEVELS, ids=str)
def test_a_policy_without_memory_does_not(name: str, options: dict[str, Any], _theirs: str, k: int | None) -> None:
    env = gymnasium.make(name, **options)
    # Wrong throughout; one card too late; the visible card, which carries no information.
    wrong, *rest = (policy(k) for policy in (wrong_suit, late, in_view))
    assert sum(play(env, wrong, 0)[1]) == pytest.approx(-1.0, abs=1e-12)
    for policy in rest:
        mean = sum(sum(play(env, policy, seed)[1]) for seed in range(20)) / 20
        assert -0.75 < mean < -0.25


def test_equal_seeds_give_equal_cards() -> None:
    env = gymnasium.make(PREVIOUS)
    once, again, other = (play(env, right(4), seed)[0] for seed in (3, 3, 4))
    assert once == again != other


@pytest.mark.parametrize(("name", "options", "theirs", "k"), LEVELS, ids=str)
def test_popgym_s_cards_and_rewards_are_equal(name: str, options: dict[str, Any], theirs: str, k: int | None) -> None:
    pytest.importorskip("popgym")
    ours, reference = gymnasium.make(name, **options), make_environment(EnvironmentInfo(f"popgym-{theirs}-v0"))
    assert (ours.observation_space, ours.action_space) == (reference.observation_space, reference.action_space)
    for seed in range(5):
        for policy in (right(k), wrong_suit(k), in_view(k)):
            assert play(ours, policy, seed) == play(reference, policy, seed)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (PREVIOUS, {"k": 0}, "k must lie from 1 to 51"),
        (PREVIOUS, {"k": 52, "num_decks": 1}, r"k must lie from 1 to 51 \(1 decks of 52 cards\), got 52"),
        (FIRST, {"num_decks": 0}, "num_decks must be at least 1, got 0"),
    ],
)
def test_impossible_tasks_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gymnasium.make(name, **options)
    with pytest.raises(ValueError, match=message):
        gymnasium.make_vec(name, 2, **options)


def test_no_step_follows_the_last_card() -> None:
    env = gymnasium.make(FIRST)
    play(env, right(None), 0)
    with pytest.raises(ValueError, match="no card is left: call reset"):
        env.step(0)
