"""Settings that are infinite or NaN are refused, each by name, wherever they are set."""

import dataclasses
from typing import Any

import pytest

from minrl.agents.clone import CloneConfig
from minrl.agents.decision import DecisionConfig
from minrl.agents.ppo_agent import PPOOptions
from minrl.online.settings import OnlineConfig
from minrl.training.config import TrainConfig

KINDS: list[Any] = [TrainConfig, OnlineConfig, DecisionConfig, CloneConfig, PPOOptions]
FIELDS = [(kind, item.name) for kind in KINDS for item in dataclasses.fields(kind) if "float" in str(item.type)]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_setting_is_infinite(kind: Any, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite, got {value}"):
        kind(**{name: value})


def test_there_are_such_settings() -> None:
    assert {"learning_rate", "clip", "ent_coef", "dropout", "gamma"} <= {name for _, name in FIELDS}
