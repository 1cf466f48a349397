"""Peers of PPO's speed: equal results, and messages for missing ones."""

import importlib.util
from typing import Any

import gymnasium
import numpy as np
import ppo_loops
import pytest
from ppo_cleanrl import CleanPPO
from ppo_loops import CLEAN, CONTRIB, JAX, JAX_GRU, OURS, OURS_GRU, Loop, compare_loops, lines_of


def test_a_missing_peer_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(ppo_loops.importlib.util, "find_spec", lambda name: None if name == "jax" else real(name))
    results = compare_loops([Loop(2, 8, 16, 1, 16)], 1)
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said == [f'{name}: left out, jax is not installed: pip install "minrl[bench]"' for name in (JAX, JAX_GRU)]
    heads, (line,) = lines_of(results)
    assert len(heads) == len(line)
    shown = dict(zip(heads, line, strict=True))
    assert shown[f"{JAX}, steps/s"] is shown["÷ JAX"] is shown["JAX compiles, s"] is None
    for name in (OURS, OURS_GRU, CLEAN, CONTRIB):
        assert shown[f"{name}, steps/s"] > 0


@pytest.mark.slow
def test_the_loop_in_cleanrl_style_learns_to_push_one_way() -> None:
    """Learn a task that rewards one of two actions, in episodes of four steps."""
    gymnasium.register("Push-v0", lambda: Push())
    try:
        model = CleanPPO("Push-v0", n_envs=4, n_steps=32, batch_size=64, n_epochs=10, width=16)
        for group in model.optimizer.param_groups:
            group["lr"] = 3e-3
        model.learn(20 * 128)
    finally:
        gymnasium.registry.pop("Push-v0")
    assert float((model.rollout["actions"] == 1).float().mean()) > 0.9
    # An episode has four steps, and the return of the first is the largest.
    opens = model.rollout["reset"].bool()
    assert float(opens.float().mean()) == 0.25
    assert model.rollout["returns"][opens].mean() > model.rollout["returns"][~opens].mean() + 0.5


class Push(gymnasium.Env[Any, Any]):
    """Four steps, each of which rewards action 1."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(1, np.float32), float(action == 1), self.time == 4, False, {}
