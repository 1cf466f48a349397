"""Policies read without their pickles act as Stable-Baselines3's and sb3-contrib's own, likeliest and drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from zoo_cases import CASES, Case, World, batches

from minrl.data.masks.action_masks import mask_size
from minrl.play import Player
from minrl.zoo import load_zip

COUNT, STEPS = 6, 8


# These have every kind of layer and action; all run in `make test-all`.
FAST = 4, 7, 13, 22, 29, 34


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (i not in FAST), id=c.name) for i, c in enumerate(CASES)],
)
def test_actions_are_equal(case: Case, tmp_path: Path) -> None:
    """Compare batches over some steps with episode ends, and single observations."""
    model = case.train()
    model.save(tmp_path / "model")
    ours = load_zip(tmp_path / "model.zip", model.get_env())
    alone = load_zip(tmp_path / "model.zip")
    assert ours.algorithm.replace("-", "") == case.algorithm
    reach = 1e-5 * (case.actions.high - case.actions.low).max() if isinstance(case.actions, spaces.Box) else 0.0
    draw = batches(case.observations, COUNT)
    seen = set()
    for deterministic in (True, False):
        states: list[Any] = [None, None, None]
        for step in range(STEPS):
            observation, starts = draw(), np.arange(COUNT) == step % COUNT
            actions = []
            for i, policy in enumerate((model, ours, alone)):
                torch.manual_seed(step)
                if case.options.get("use_sde") and not deterministic and i == 0:
                    model.policy.reset_noise(COUNT)  # ours does so where an episode starts
                action, states[i] = policy.predict(observation, states[i], starts, deterministic=deterministic)
                actions.append(action)
            if case.algorithm in ("DQN", "QRDQN") and not deterministic:
                continue  # Stable-Baselines3 explores with NumPy's generator
            for action in actions[1:]:
                assert action.dtype == case.actions.dtype
                np.testing.assert_allclose(action, actions[0], rtol=0, atol=reach)
            seen |= {row.tobytes() for row in actions[0]}
    assert len(seen) > 1
    one = case.observations.sample()
    alike = (policy.predict(one, deterministic=True)[0] for policy in (ours, model))
    np.testing.assert_allclose(*alike, rtol=0, atol=reach)


def test_masks_rule_choices_out(tmp_path: Path) -> None:
    """Compare with MaskablePPO's own, for flags and choices, in `predict` and as an agent of this package."""
    for case in (each for each in CASES if each.algorithm == "MaskablePPO"):
        model = case.train()
        model.save(tmp_path / "model")
        ours = load_zip(tmp_path / "model.zip", World(case.observations, case.actions))
        assert ours.task.masked
        seen = batches(case.observations, 40)()
        masks = np.random.default_rng(0).random((40, mask_size(case.actions))) < 0.5
        masks[:, ::2] |= ~masks[:, 1::2] if masks.shape[1] % 2 == 0 else True
        expected, _ = model.predict(seen, action_masks=masks, deterministic=True)
        actions, _ = ours.predict(seen, action_masks=masks, deterministic=True)
        np.testing.assert_array_equal(actions, expected)
        assert not np.array_equal(ours.predict(seen, deterministic=True)[0], expected)
        player = Player(ours, 40)
        np.testing.assert_array_equal(player.act(seen, np.zeros(40), np.ones(40), masks), expected)
