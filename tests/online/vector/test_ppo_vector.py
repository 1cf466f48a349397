"""Recurrent PPO on natively vectorised environments: equal episodes in every autoreset mode."""

from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from recall import Recall, collected

from minrl.agents.ppo import RecurrentPPO
from minrl.online.vector import as_vec_env

ENVIRONMENTS, STEPS = 3, 60


def model_on(env: Any, **options: Any) -> RecurrentPPO:
    """Build a model whose actions hardly depend on chance."""
    settings: dict[str, Any] = {"n_steps": STEPS, "batch_size": 30, "segment_length": 7, "n_epochs": 1, "seed": 0}
    model = RecurrentPPO("MlpPolicy", env, device="cpu", policy_kwargs={"width": 16}, **{**settings, **options})
    with torch.no_grad():
        model.policy.action_net.weight.mul_(1e5)
    return model


def episodes(model: RecurrentPPO) -> list[list[dict[str, Any]]]:
    """Return the complete episodes of each environment as training sees them, without fillers."""
    buffer = collected(model)
    result = []
    for row in range(ENVIRONMENTS):
        kept = ~buffer.fillers[:, row]
        starts = np.flatnonzero(buffer.episode_starts[kept, row])
        names = ("rewards", "values", "log_probs", "advantages", "returns")
        columns = {name: getattr(buffer, name)[kept, row] for name in names}
        columns |= {"observations": buffer.observations[kept, row], "actions": buffer.actions[kept, row]}
        pieces = pairwise(starts)
        result.append([{name: values[a:b] for name, values in columns.items()} for a, b in pieces])
    return result


@pytest.mark.parametrize("mode", AutoresetMode)
def test_every_way_of_resetting_gives_the_same_episodes(mode: AutoresetMode) -> None:
    vector = as_vec_env(SyncVectorEnv([Recall] * ENVIRONMENTS, autoreset_mode=mode))
    plain = as_vec_env(SyncVectorEnv([Recall] * ENVIRONMENTS, autoreset_mode=AutoresetMode.SAME_STEP))
    compared = 0
    for ours, theirs in zip(episodes(model_on(vector)), episodes(model_on(plain)), strict=True):
        for one, other in zip(ours, theirs, strict=False):
            compared += 1
            for name, values in one.items():
                np.testing.assert_allclose(values, other[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert compared >= 3 * 5


def test_fillers_are_in_no_minibatch() -> None:
    model = model_on(as_vec_env(SyncVectorEnv([Recall] * ENVIRONMENTS, autoreset_mode=AutoresetMode.NEXT_STEP)))
    buffer = collected(model)
    fillers = int(buffer.fillers.sum())
    assert fillers > 10
    buffer.advantages[:] = np.where(buffer.fillers, np.nan, 1.0)
    counted = 0
    for batch in buffer.get(30):
        assert torch.isfinite(batch.advantages).all()
        values, log_prob, entropy = model.policy.evaluate_actions(batch.observations, batch.actions.long().flatten())
        assert entropy is not None
        assert len(values) == len(log_prob) == len(entropy) == len(batch.advantages)
        counted += len(values)
    assert counted == STEPS * ENVIRONMENTS - fillers
    model = model_on(model.get_env())
    model.learn(STEPS * ENVIRONMENTS)
    assert model.policy.first_ratio_dev <= 1e-5


@pytest.mark.parametrize("mode", AutoresetMode)
def test_returns_are_counted_once(mode: AutoresetMode) -> None:
    vector = gymnasium.make_vec("minrl.envs:minrl/RepeatFirst-v0", num_envs=2, autoreset_mode=mode)
    model = model_on(as_vec_env(vector), n_steps=160)
    model.learn(300)  # one rollout, however many of its 320 rows are fillers
    infos = list(model.ep_info_buffer or ())
    assert [info["l"] for info in infos] == [51] * 6
    assert all(abs(info["r"]) < 1.0001 for info in infos)
