"""Shipped settings are found by the environment's id, from any folder, and yield to the user's own."""

from pathlib import Path

import pytest
from worlds import own_folders

from minrl.agents.__main__ import main
from minrl.system.config import read_tables
from minrl.system.shipped_configs import shipped_configs

__all__ = ["own_folders"]

TABLES = {name: read_tables(path, "config") for name, path in shipped_configs().items() if name.startswith("online/")}
ONLINE = {name: tables for name, tables in TABLES.items() if "ppo" in tables}
# One rollout of 64 steps.
SHORT = ["--steps", "64", "--n-envs", "2", "--n-steps", "32", "--batch-size", "64", "--n-epochs", "1", "--width", "8"]
SHORT += ["--depth", "1", "--evaluate-every", "0", "--segment-length", "32"]


def settings_of(run: Path) -> dict[str, dict[str, object]]:
    return read_tables(run / "config.toml", "config")


@pytest.mark.parametrize("name", ONLINE)
def test_settings_are_found_by_id(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = ONLINE[name]["train"]["env"]
    assert main(["train", "ppo", "--env", environment, *SHORT, "--out", "run"]) == 0
    line = f"minrl: settings of configs/{name}.toml, with flags over them (--no-config: none)"
    assert line in capsys.readouterr().out.splitlines()
    used = settings_of(tmp_path / "run")
    flags = {word[2:].replace("-", "_") for word in SHORT if word.startswith("--")}
    for table, values in ONLINE[name].items():
        for key, value in values.items():
            if key not in flags:
                assert used[table][key] == value, key
    assert used["train"]["steps"] == 64


def test_ids_are_those_of_one_config_each() -> None:
    for agent, count in (("ppo", 6), ("sac", 3)):
        environments = [tables["train"]["env"] for tables in TABLES.values() if agent in tables]
        assert len(environments) == len(set(environments)) >= count


def test_another_agent_has_settings_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--steps", "32", "--width", "8", "--depth", "1", "--evaluate-every", "0", "--learning-starts", "64"]
    assert main(["train", "sac", "--env", "minrl/PendulumNoVel-v1", *short, "--out", str(tmp_path / "run")]) == 0
    assert "settings of configs/online/sac_pendulum.toml" in capsys.readouterr().out
    assert settings_of(tmp_path / "run")["train"]["gamma"] == TABLES["online/sac_pendulum"]["train"]["gamma"]


def test_a_module_before_the_id_finds_the_same_settings(tmp_path: Path) -> None:
    flags = ["--env", "minrl.envs:minrl/CartPoleNoVel-v1", *SHORT, "--out", str(tmp_path / "run")]
    assert main(["train", "ppo", *flags]) == 0
    assert settings_of(tmp_path / "run")["train"]["learning_rate"] == 3e-3


def test_settings_of_an_id_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Train with --no-config, with the user's config, and where no config ships."""
    own = tmp_path / "own.toml"
    own.write_text("[train]\ngamma = 0.5\n", encoding="utf-8")
    cartpole = ["--env", "minrl/CartPoleNoVel-v1"]
    for number, words in enumerate(
        ([*cartpole, "--no-config"], [*cartpole, "--config", str(own)], ["--env", "CartPole-v1"])
    ):
        assert main(["train", "ppo", *words, *SHORT, "--out", str(tmp_path / str(number))]) == 0
        assert "settings of" not in capsys.readouterr().out
        used = settings_of(tmp_path / str(number))["train"]
        assert used["learning_rate"] == 3e-4
        assert used["gamma"] == (0.5 if number == 1 else 0.99)
