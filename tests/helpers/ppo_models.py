"""Tiny models of recurrent PPO, of sb3-contrib's policies and our own."""

from typing import Any

import numpy as np
import pytest

from minrl.agents.ppo import RecurrentPPO

SMALL: dict[str, dict[str, Any]] = {"Lstm": {"lstm_hidden_size": 8}, "": {"width": 8, "depth": 1}}
every_policy = pytest.mark.parametrize("family", SMALL, ids=["lstm", "mingru"])


def small(family: str, env: Any = "CartPole-v1", kind: str = "Mlp", **options: Any) -> RecurrentPPO:
    """Build a tiny model of a policy like `MlpLstmPolicy` or `MlpPolicy`."""
    options["policy_kwargs"] = {**SMALL[family], **options.get("policy_kwargs", {})}
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
    return RecurrentPPO(f"{kind}{family}Policy", env, **{**settings, **options})


def acts_alike(first: Any, second: Any, observation: Any, rounding: float = 0.0) -> bool:
    """Return True if two models (or policies) take the same actions for three steps, from states equal to rounding."""
    states: list[Any] = [None, None]
    for _ in range(3):
        actions = []
        for i, model in enumerate((first, second)):
            action, states[i] = model.predict(observation, states[i], deterministic=True)
            actions.append(action)
        if not np.array_equal(*actions) or not np.allclose(states[0][0], states[1][0], rtol=0.0, atol=rounding):
            return False
    return True
