"""Settings that are infinite or NaN are refused, each by name, wherever they are set."""

import dataclasses
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minrl.agents.__main__ import main
from minrl.agents.clone import CloneConfig
from minrl.agents.decision import DecisionConfig
from minrl.agents.ppo_agent import PPOOptions
from minrl.online.settings import OnlineConfig, ReplayConfig
from minrl.system.config import setting
from minrl.training.config import TrainConfig

KINDS: list[Any] = [TrainConfig, OnlineConfig, ReplayConfig, DecisionConfig, CloneConfig, PPOOptions]
FIELDS = [(kind, item.name) for kind in KINDS for item in dataclasses.fields(kind) if "float" in str(item.type)]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_no_setting_is_infinite(kind: Any, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite, got {value}"):
        kind(**{name: value})


def test_no_setting_is_infinite_in_32_bits() -> None:
    largest = float(np.finfo(np.float32).max)
    TrainConfig(clip=largest)
    for value in (2 * largest, -1e308):
        for kind, name in FIELDS:
            with pytest.raises(ValueError, match=f"{name} must be finite as a 32-bit float"):
                kind(**{name: value})


def test_there_are_such_settings() -> None:
    assert {"learning_rate", "clip", "ent_coef", "dropout", "gamma"} <= {name for _, name in FIELDS}


def test_no_whole_number_is_beyond_any_computer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = [(kind, item.name) for kind in KINDS for item in dataclasses.fields(kind) if "int" in str(item.type)]
    assert {"n_envs", "n_steps", "threads", "width", "depth", "context", "seed"} <= {name for _, name in whole}
    for kind, name in [*whole, (DecisionConfig, "mlp")]:
        for value in (10**18, 10**400):
            with pytest.raises(ValueError, match=f"{name} must be at most [0-9,]+, got 1"):
                kind(**{name: value})
    for kind in (TrainConfig, OnlineConfig):  # products of sizes
        sizes = {"batch_size": 10**5, "length": 10**5} if kind is TrainConfig else {"n_envs": 10**5, "n_steps": 10**5}
        with pytest.raises(ValueError, match="must be at most 1,000,000,000"):
            kind(**sizes)
    with pytest.raises(ValueError, match="net_arch reads"):
        PPOOptions(net_arch={"pi": [10**18]})
    for flags in (["ppo", "--env", "CartPole-v1", "--n-envs", str(10**18)], ["decision", "--width", "9" * 30]):
        assert main(["train", *flags, "--out", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_a_setting_has_its_help_and_a_list_or_dict_of_its_own() -> None:
    @dataclass(frozen=True)
    class Settings:
        pairs: dict[str, int] = setting({}, "pairs", instead_of="rate")
        rate: float = setting(0.5, "rate")

    first, second = Settings(), Settings()
    first.pairs["a"] = 1
    assert second == Settings(pairs={}, rate=0.5)
    assert dict(fields(Settings)[0].metadata) == {"help": "pairs", "instead_of": "rate"}
