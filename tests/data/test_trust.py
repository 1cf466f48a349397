"""Environments that a file names run no code, open no file and allocate little, unless the user trusts the file."""

import json
import os
import pickle
import sys
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from stable_baselines3 import PPO
from worlds import TINY, cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.data.environment import EnvironmentInfo, check_trusted
from minrl.data.trust import WRAPPERS
from minrl.system.trust import trusts_files

__all__ = ["cartpole", "own_folders"]

SMALL = [str(word) for word in (*TINY, "--steps", 2, "--evaluate-episodes", 1)]
STRANGER = """
import gymnasium, pathlib
pathlib.Path({mark!r}).touch()
from gymnasium.envs.classic_control import CartPoleEnv
gymnasium.register('Evil-v0', CartPoleEnv)
def run(*words, **named):
    return CartPoleEnv()
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a file that exists once the module `stranger` has been imported."""
    mark = tmp_path / "owned"
    (tmp_path / "stranger.py").write_text(STRANGER.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("stranger", None)
    gymnasium.registry.pop("Evil-v0", None)


def metadata_of(name: str) -> Path:
    return Path(os.environ["MINARI_DATASETS_PATH"]) / name.removeprefix("minari:") / "data" / "metadata.json"


def change(name: str, spec: dict[str, Any] | None = None, without: tuple[str, ...] = (), key: str = "env_spec") -> None:
    """Change the environment that a set names, and drop entries of its metadata."""
    file = metadata_of(name)
    values = json.loads(file.read_text())
    values[key] = json.dumps({**json.loads(values["env_spec"]), **(spec or {})})
    if key == "env_spec":
        values.pop("eval_env_spec", None)  # which would be taken instead
    # A stranger writes no checksum, or the right one.
    without = {*without, "crc32"}
    file.write_text(json.dumps({key: value for key, value in values.items() if key not in without}))


def command(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    assert main([str(word) for word in words]) == code
    said = capsys.readouterr()
    if code == 2:
        assert said.err.splitlines()[-1].startswith("minrl: ")
        assert "Traceback" not in said.err
    return said.err + said.out


def grid(folder: Path, name: str, **task: str) -> Path:
    lines = [f'{key} = "{value}"' for key, value in ({"data": name} | task).items()]
    file = folder / "grid.toml"
    file.write_text(
        'cells = ["mingru"]\nseeds = 1\n[tasks.one]\n' + "\n".join(lines) + "\n"
        "[offline.train]\nsteps = 2\nbatch_size = 2\nlength = 16\nevaluate_episodes = 1\n"
        "[offline.decision]\nwidth = 8\ndepth = 1\n[online.train]\nsteps = 64\n"
    )
    return file


@pytest.mark.parametrize("key", ["env_spec", "eval_env_spec"])
@pytest.mark.parametrize("without", [(), ("observation_space", "action_space")], ids=["with spaces", "without"])
def test_a_data_set_runs_no_code(
    key: str, without: tuple[str, ...], cartpole: str, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(cartpole, {"entry_point": "stranger:run"}, without, key)
    command(capsys, "data", "list", code=0)
    command(capsys, "data", "info", cartpole, code=2 if without else 0)
    command(capsys, "compare", grid(tmp_path, cartpole), "--dry-run", "--out", tmp_path / "compared", code=0)
    said = command(capsys, "train", "decision", "--data", cartpole, *SMALL, "--out", tmp_path / "run")
    assert "--trust" in said
    assert "entry point 'stranger:run'" in said
    assert "nothing to compare" in command(capsys, "compare", grid(tmp_path, cartpole), "--out", tmp_path / "compared")
    assert not mark.exists()
    assert "stranger" not in sys.modules
    if not without:
        command(capsys, "train", "decision", "--data", cartpole, *SMALL, "--trust", "--out", tmp_path / "run", code=0)
        assert mark.exists(), "the test can fail"
        assert not trusts_files()


def test_only_reading_makes_no_environment_at_all(
    cartpole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(gymnasium, "make", lambda *words, **named: made.append(words))
    said = command(capsys, "data", "info", cartpole, code=0)
    assert "CartPole-v1" in said
    said = command(capsys, "compare", grid(tmp_path, cartpole), "--dry-run", code=0)
    assert "1 to do" in said
    said = command(capsys, "compare", grid(tmp_path, cartpole, env="Pendulum-v1"), "--dry-run", code=0)
    assert "1 to do" in said
    change(cartpole, without=("observation_space",))
    assert "--observation-space" in command(capsys, "data", "info", cartpole)
    assert not made


def test_a_resumed_run_s_data_set_runs_no_code(
    cartpole: str, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command(capsys, "train", "decision", "--data", cartpole, *SMALL, "--evaluate-every", 1, "--out", out, code=0)
    change(cartpole, {"entry_point": "stranger:run"})
    assert "stranger:run" in command(capsys, "train", "--resume", out, "--steps", 4)
    assert not mark.exists()
    command(capsys, "train", "--resume", out, "--steps", 4, "--trust", code=0)
    assert mark.exists()


@pytest.mark.parametrize("given", [("env",), ("env", "data")])
def test_a_grid_imports_no_module(
    given: tuple[str, ...], cartpole: str, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = grid(tmp_path, cartpole, env="stranger:Evil-v0")
    if given == ("env",):
        file.write_text(file.read_text().replace(f'data = "{cartpole}"\n', ""))
    out = tmp_path / "out"
    said = command(capsys, "compare", file, "--dry-run", "--out", out, code=0) + command(
        capsys, "compare", file, "--out", out
    )
    assert "nothing to compare" in said
    assert not mark.exists()


def test_a_config_imports_no_module(
    cartpole: str, mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online, offline = tmp_path / "online.toml", tmp_path / "offline.toml"
    online.write_text('[train]\nenv = "stranger:Evil-v0"\nsteps = 64\n')
    offline.write_text(f'[train]\neval_env = "stranger:Evil-v0"\ndata = "{cartpole}"\n')
    for words in (("ppo", "--config", online), ("decision", "--config", offline)):
        said = command(capsys, "train", *words, "--out", tmp_path / "run")
        assert "which no installed package registers" in said
    assert not mark.exists()


STATED = {"id": "CartPole-v1", "entry_point": "gymnasium.envs.classic_control:CartPoleEnv", "kwargs": {}}


def spec(**changes: Any) -> EnvironmentInfo:
    values = {**STATED, "additional_wrappers": [], **changes}
    return EnvironmentInfo(values["id"], values["kwargs"], spec=json.dumps(values))


def wrapped(name: str, times: int = 1, **kwargs: Any) -> EnvironmentInfo:
    wrapper = {"name": name, "entry_point": f"gymnasium.wrappers:{name}", "kwargs": kwargs}
    return spec(additional_wrappers=[wrapper] * times)


REFUSED = {
    "a file": (spec(kwargs={"xml_file": "hopper.xml"}), "xml_file"),
    "a path": (spec(kwargs={"model": "/etc/passwd"}), "/etc/passwd"),
    "a path within": (spec(kwargs={"options": {"parts": [["../../x"]]}}), "parts"),
    "a path, by id": (EnvironmentInfo("Hopper-v5", {"xml_file": "x.xml"}), "xml_file"),
    "a module": (spec(kwargs={"inner": "stranger:Evil-v0"}), "stranger:Evil-v0"),
    "a large number": (spec(kwargs={"size": 10**9}), "size"),
    "a large float": (spec(kwargs={"size": 1e9}), "size"),
    "many values": (spec(kwargs={"map": [[0] * 1000] * 1000}), "values among"),
    "a huge stack": (wrapped("FrameStackObservation", stack_size=10**6), "stack_size"),
    "a huge picture": (wrapped("ResizeObservation", shape=[10**5, 10**5]), "shape"),
    "stacks of stacks": (wrapped("FrameStackObservation", 4, stack_size=100), "stacks of"),
    "many wrappers": (wrapped("FlattenObservation", 3000), "3000 wrappers"),
    "a size by another name": (spec(kwargs={"max_size": 10**9}), "max_size"),
    "a video": (wrapped("RecordVideo", video_folder="x"), "RecordVideo"),
    "deep": (EnvironmentInfo("CartPole-v1", spec="[" * 100_000), "cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_keyword_arguments_open_no_file_and_allocate_little(kind: str) -> None:
    environment, said = REFUSED[kind]
    with pytest.raises(ValueError, match="a file") as caught:
        check_trusted(environment, "a file")
    assert said in str(caught.value)


def test_recorded_environments_pass() -> None:
    for environment in (
        spec(max_episode_steps=10**7),
        spec(kwargs={"sutton_barto_reward": True, "max_steps": 10**6, "seed": 2**31, "z_range": [0.7, float("inf")]}),
        wrapped("TimeLimit", max_episode_steps=10**6),
        wrapped("RescaleAction", min_action=-1.0, max_action=1.0),
        wrapped("FrameStackObservation", stack_size=4),
        EnvironmentInfo("minrl/CartPoleNoVel-v1"),
    ):
        assert check_trusted(environment, "a file").id == environment.id
    assert all(hasattr(gymnasium.wrappers, name) for name in WRAPPERS)


def test_the_installed_entry_point_is_made_not_the_named_one() -> None:
    moved = spec(entry_point="gymnasium.nowhere:CartPoleEnv")
    found = check_trusted(moved, "a file")
    assert json.loads(found.spec or "")["entry_point"] == gymnasium.spec("CartPole-v1").entry_point


class Evil:
    """Object that writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("flag", ["--policy", "--vecnormalize"])
def test_pickles_are_opened_only_on_trust(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, harmless = tmp_path / "owned", tmp_path / "ppo.zip"
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(harmless)
    stranger = tmp_path / ("evil.zip" if flag == "--policy" else "evil.pkl")
    if flag == "--policy":
        evil = {"policy_class": {":type:": "x", ":serialized:": b64encode(pickle.dumps(Evil(mark))).decode()}}
        with zipfile.ZipFile(harmless) as source, zipfile.ZipFile(stranger, "w") as archive:
            archive.writestr("data", json.dumps(evil))
            archive.writestr("policy.pth", source.read("policy.pth"))
    else:
        stranger.write_bytes(pickle.dumps(Evil(mark)))
    words = ["collect", "--env", "CartPole-v1", "--episodes", 1, "--out", "minari:a/b-v0", flag, stranger]
    words += [] if flag == "--policy" else ["--policy", harmless]
    said = command(capsys, *words)
    assert ("only its own code can act with it" if flag == "--policy" else "it is not opened") in said
    assert "--trust" in said
    assert not mark.exists()
    command(capsys, *words, "--trust")  # it is opened, and is no policy
    assert mark.exists(), "the test can fail"
