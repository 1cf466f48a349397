"""Checkpoints whose fields were changed: a resumed run ends well or with one line, and crashes no process."""

import random
import shutil

import pytest
import torch
from foreign_state import fields, mutant
from kills import Killer
from scenarios import Scenario

from minrl.runs.folder import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT

# Fields of Adam's fused steps whose mutants once crashed the process or were loaded without an error.
ADAM = {"flat", "larger", "empty", "double", "whole", "sparse", "nan", "text"}
STEPS = ("training", "config", "steps")


def resumed(killer: Killer, kind: str, mutants: int, seed: int) -> list[str]:
    """Resume mutants of a run's checkpoint and list what went wrong."""
    whole, _, _ = killer.reference(Scenario(kind, "mingru", 1))
    content = torch.load(whole / LAST_CHECKPOINT, weights_only=True)
    choice, wrong = random.Random(seed), []
    places = list(fields(content))
    for _ in range(mutants):
        at = choice.choice(places)
        changed, name = mutant(content, at, choice)
        wrong += outcome(killer, kind, changed, f"{at} {name}")
    return wrong


def outcome(killer: Killer, kind: str, content: object, what: str) -> list[str]:
    """Resume a run with this content of its checkpoint; return `what` if that ends in another way than it may."""
    whole, _, _ = killer.reference(Scenario(kind, "mingru", 1))
    out = killer.folder / "mutant"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    (out / PREVIOUS_CHECKPOINT).unlink()
    torch.save(content, out / LAST_CHECKPOINT)
    # Without the number of steps a run has the default one, 10,000.
    bound = ["--steps", "128"] if what == f"{STEPS} dropped" else []
    done = killer.server.run(["train", "--resume", str(out), *bound], out, after=100)
    lines = [line for line in done["said"].splitlines() if line.startswith("minrl: ")]
    if done["code"] == 0 or (done["code"] == 2 and len(lines[-1]) < 600 and "Traceback" not in done["said"]):
        return []
    return [f"{what}: exit code {done['code']}: {done['said'][-300:]}"]


@pytest.mark.parametrize("kind", ["decision", "ppo"])
def test_a_changed_field_is_one_line(kind: str, killer: Killer) -> None:
    assert resumed(killer, kind, 3, seed=0) == []


def test_counts_and_row_of_another_type_are_one_line(killer: Killer) -> None:
    """Put values there of which older checkpoints have none."""
    whole, _, _ = killer.reference(Scenario("ppo", "mingru", 1))
    for name, value in {"row": [torch.zeros(2), {}], "rollouts": [[1], 0]}.items():
        content = torch.load(whole / LAST_CHECKPOINT, weights_only=True)
        content["training"][name] = value
        assert outcome(killer, "ppo", content, name) == []
        del content["training"][name]
        assert outcome(killer, "ppo", content, f"no {name}") == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["decision", "clone", "ppo"])
def test_two_hundred_changed_fields(kind: str, killer: Killer) -> None:
    assert resumed(killer, kind, 200, seed=1) == []
