"""Runs killed before chosen writing calls and at random moments go on to the same bits as runs that were not killed."""

import random

import pytest
from kills import ALL, ONLINE, Killer, table
from scenarios import Scenario

FEW = {kind: Scenario(kind, cell, 1) for kind, cell in (("decision", "mingru"), ("clone", "gru"), ("ppo", "mingru"))}


@pytest.mark.parametrize("kind", FEW)
def test_a_kill_before_a_writing_call(kind: str, killer: Killer) -> None:
    """Draw one place for each kind; `make test-all` has a hundred."""
    _, calls, _ = killer.reference(FEW[kind])
    call = random.Random(kind).randrange(calls)
    assert killer.kill(FEW[kind], [call]) == [], call


def test_a_kill_at_a_random_moment(killer: Killer) -> None:
    assert killer.kill(FEW["decision"], [None]) == []


@pytest.mark.slow
def test_a_kill_of_distillation(killer: Killer) -> None:
    """Compare a run whose checkpoints hold labelled trajectories."""
    scenario = Scenario("distill", "mingru", 1)
    _, calls, _ = killer.reference(scenario)
    for call in (calls // 3, 2 * calls // 3, None):
        assert killer.kill(scenario, [call]) == [], call


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONLINE)
def test_kills_of_masks_critics_and_replays(kind: str, killer: Killer) -> None:
    """Compare a run killed before a writing call, and one killed at a random moment and again as it goes on."""
    scenario = Scenario(kind, "mingru", 1)
    _, calls, _ = killer.reference(scenario)
    for places in ([random.Random(kind).randrange(calls)], [None, None]):
        assert killer.kill(scenario, places) == [], places


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_kills(killer: Killer) -> None:
    while sum(tally.kills for tally in killer.tallies.values()) < 100:
        scenario = killer.random.choice(ALL)
        killer.kill(scenario, killer.places(scenario))
    failures = [line for tally in killer.tallies.values() for line in tally.failures]
    assert failures == [], table(killer.tallies)
