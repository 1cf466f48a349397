"""Checkpoints: written whole or not at all, refused in one line, and free of foreign code."""

import json
import os
import pickle
import resource
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from worlds import Drift, cartpole, drift_episodes, own_folders

import minrl
from minrl.agent import Agent, Moment
from minrl.agents.__main__ import main
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data import EnvironmentInfo, load
from minrl.data.task import Task
from minrl.runs import checkpoint
from minrl.training.offline import TrainConfig, train

__all__ = ["cartpole", "own_folders"]


def make_agent(environment: EnvironmentInfo | None = None) -> DecisionAgent:
    episodes = drift_episodes()
    task = Task.of(episodes)
    if environment is not None:
        task = Task(**{**vars(task), "environment": environment})
    agent = DecisionAgent(DecisionConfig(width=8, depth=1), task)
    agent.fit_normalization(episodes)
    return agent


class Evil:
    """Object that runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def with_code(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    torch.save({**content, "note": Evil(file.parent / "owned")}, file)


def bare_pickle_with_code(file: Path) -> None:
    file.write_bytes(pickle.dumps(Evil(file.parent / "owned")))


def changed(**values: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        torch.save({**torch.load(file, weights_only=True), **values}, file)

    return change


def without(*names: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        content = torch.load(file, weights_only=True)
        torch.save({name: value for name, value in content.items() if name not in names}, file)

    return change


def change_in(part: str, **values: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        content = torch.load(file, weights_only=True)
        content[part] = {**content[part], **values}
        torch.save(content, file)

    return change


def without_last_weight(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["weights"].popitem()
    torch.save(content, file)


def archive(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as other:
        other.writestr("readme.txt", "no checkpoint")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut in half": (cut_in_half, "damaged or cut short"),
    "empty": (lambda file: file.write_bytes(b""), "damaged or cut short"),
    "text": (lambda file: file.write_text("hello, world\n" * 9), "cut short"),
    "another archive": (archive, "damaged or cut short"),
    "with code": (with_code, "holds more than tensors and plain values; refused"),
    "a pickle with code": (bare_pickle_with_code, "cut short or no checkpoint"),
    "a tensor": (lambda file: torch.save(torch.zeros(3), file), "is no checkpoint of minrl"),
    "a model's weights": (lambda file: torch.save({"layer.weight": torch.zeros(3)}, file), "is no checkpoint of minrl"),
    "another format": (changed(format=99), "has format 99, this version reads 1"),
    "a tensor as format": (changed(format=torch.zeros(2)), "is no checkpoint of minrl"),
    "no weights": (without("weights"), "holds no weights of type dict"),
    "weights of another kind": (changed(weights=[1]), "holds no weights of type dict"),
    "a weight is missing": (without_last_weight, "does not fit its own configuration"),
    "unknown agent": (changed(agent="decisoin"), 'unknown agent "decisoin"; did you mean "decision"?'),
    "unknown key": (change_in("config", wdith=3), 'has no key "wdith"; did you mean "width"?'),
    "another width": (change_in("config", width=16), "does not fit its own configuration"),
    "a space that is none": (change_in("task", action_space="Box"), "does not fit its own configuration"),
    "an environment that is none": (change_in("task", environment={"name": 1}), "does not fit its own configuration"),
    "a task of another kind": (change_in("task", action_low=3), "does not fit its own configuration"),
    "not there": (lambda file: file.unlink(), "no checkpoint at"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_files_get_one_line(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(file, make_agent(), step=3)
    spoil, message = BAD[fault]
    spoil(file)
    for command in (["evaluate", str(file)], ["evaluate", str(tmp_path)], ["train", "--resume", str(tmp_path)]):
        assert main(command) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("minrl: ")
        assert "\n" not in error
        assert message in error or (command[0] == "train" and "only acts" in error)
    assert not (tmp_path / "owned").exists()


def test_the_malicious_files_do_run_code_when_unpickled(tmp_path: Path) -> None:
    for spoil in (with_code, bare_pickle_with_code):
        file = tmp_path / "checkpoint.pt"
        checkpoint.save(file, make_agent(), step=3)
        spoil(file)
        try:
            torch.load(file, weights_only=False)
        except Exception:  # torch refuses the result of a bare pickle
            pickle.loads(file.read_bytes())
        assert (tmp_path / "owned").exists()
        (tmp_path / "owned").unlink()


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    agent = make_agent()
    checkpoint.save(file, agent, step=3)
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        with pytest.raises(OSError, match=r"cannot be written|too large"):
            checkpoint.save(file, agent, step=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".pt") or "checkpoint" in path.name] == [
        "checkpoint.pt"
    ]
    assert checkpoint.read(file).step == 3


def test_a_value_that_cannot_be_saved_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(file, make_agent(), step=3)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        checkpoint.save(file, make_agent(), step=4, note={"function": lambda: None})
    assert checkpoint.read(file).step == 3
    assert len([path for path in tmp_path.iterdir() if "checkpoint" in path.name]) == 1


def test_a_loaded_agent_acts_the_same(tmp_path: Path) -> None:
    agent = make_agent()
    checkpoint.save(tmp_path / "checkpoint.pt", agent, step=3)
    loaded = minrl.load(tmp_path)
    assert isinstance(loaded, Agent)
    assert not loaded.training
    moment = Moment(torch.randn(4, 3), torch.zeros(4), torch.ones(4, dtype=torch.bool))
    ours, theirs = (each.eval().act(moment, each.initial_state(4)) for each in (agent, loaded))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_a_checkpoint_holds_all_that_acting_needs(cartpole: str, tmp_path: Path) -> None:
    """Hold normalisation, scale of returns, reference scores and environment, without the data set."""
    config = TrainConfig(data=cartpole, steps=2, batch_size=2, length=16, evaluate_every=0, threads=1)
    train(DecisionAgent, DecisionConfig(width=8, depth=1), config, tmp_path / "run")
    episodes = load(cartpole)
    loaded = minrl.load(tmp_path / "run")
    assert isinstance(loaded, DecisionAgent)
    np.testing.assert_allclose(loaded.normalizer.mean, episodes.observations.mean(0), atol=1e-5)
    np.testing.assert_allclose(loaded.normalizer.std, episodes.observations.std(0), rtol=1e-4)
    assert loaded.return_scale == pytest.approx(episodes.returns_to_go.std(), rel=1e-5)
    assert loaded.task.reference_scores == (10.0, 500.0)
    assert loaded.task.best_return == episodes.returns.max()
    assert loaded.task.environment is not None
    assert loaded.task.environment.id == "CartPole-v1"
    assert loaded.task.observation_space == gymnasium.make("CartPole-v1").observation_space


def spec_for(environment_id: str, entry_point: Any, **values: Any) -> str:
    return json.dumps(
        {"id": environment_id, "entry_point": entry_point, "kwargs": {}, "additional_wrappers": [], **values}
    )


def wrapper(entry_point: str, **options: Any) -> list[dict[str, Any]]:
    return [{"name": "W", "entry_point": entry_point, "kwargs": options}]


PENDULUM = "gymnasium.envs.classic_control:PendulumEnv"
STRANGE = {
    "a module as entry point": EnvironmentInfo("Pendulum-v1", spec=spec_for("Pendulum-v1", "stranger:run")),
    "a module before the id": EnvironmentInfo("stranger:Evil-v0"),
    "an unknown id": EnvironmentInfo("Evil-v0", spec=spec_for("Evil-v0", "stranger:run")),
    "another id within": EnvironmentInfo("Pendulum-v1", spec=spec_for("stranger:Evil-v0", PENDULUM)),
    "a module as wrapper": EnvironmentInfo(
        "Pendulum-v1", spec=spec_for("Pendulum-v1", PENDULUM, additional_wrappers=wrapper("stranger:run"))
    ),
    "a wrapper that writes files": EnvironmentInfo(
        "Pendulum-v1",
        spec=spec_for(
            "Pendulum-v1", PENDULUM, additional_wrappers=wrapper("gymnasium.wrappers:RecordVideo", video_folder="x")
        ),
    ),
    "something else of gymnasium's": EnvironmentInfo(
        "Pendulum-v1",
        spec=spec_for("Pendulum-v1", PENDULUM, additional_wrappers=wrapper("gymnasium.wrappers.common:deepcopy")),
    ),
    "an environment that takes ids": EnvironmentInfo("GymV26Environment-v0", {"env_id": "stranger:Evil-v0"}),
    "no JSON": EnvironmentInfo("Pendulum-v1", spec="{"),
    "no object": EnvironmentInfo("Pendulum-v1", spec="[1]"),
    "wrappers that are none": EnvironmentInfo(
        "Pendulum-v1", spec=spec_for("Pendulum-v1", PENDULUM, additional_wrappers=[3])
    ),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_an_untrusted_environment_is_not_imported(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "owned"
    (tmp_path / "stranger.py").write_text(f"open({str(mark)!r}, 'w')\ndef run(*a, **k): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint.save(tmp_path / "checkpoint.pt", make_agent(STRANGE[kind]), step=1)
    assert isinstance(minrl.load(tmp_path), Agent)  # to act in the caller's own environment
    assert main(["evaluate", str(tmp_path), "--episodes", "1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(("minrl: the checkpoint", "minrl: the environment that the checkpoint names"))
    assert "\n" not in error
    assert not mark.exists()


def test_an_environment_named_by_hand_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "import gymnasium\ngymnasium.register('Mine-v0', entry_point='worlds:Drift', max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint.save(tmp_path / "checkpoint.pt", make_agent(EnvironmentInfo("Unknown-v0")), step=1)
    try:
        assert main(["evaluate", str(tmp_path), "--env", "mine:Mine-v0", "--episodes", "2", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["environment"] == "mine:Mine-v0"
    finally:
        gymnasium.registry.pop("Mine-v0", None)


def test_gymnasium_s_own_are_made(tmp_path: Path) -> None:
    flat = spec_for("Pendulum-v1", PENDULUM, additional_wrappers=wrapper("gymnasium.wrappers.common:TimeLimit"))
    for environment in (EnvironmentInfo("Pendulum-v1"), EnvironmentInfo("Pendulum-v1", spec=flat)):
        checkpoint.save(tmp_path / "checkpoint.pt", make_agent(environment), step=1)
        assert minrl.load(tmp_path).task.known_environment().id == environment.id


def test_an_environment_that_code_names_needs_no_check() -> None:
    agent = make_agent(EnvironmentInfo("Drift-v0", spec=spec_for("Drift-v0", f"{Drift.__module__}:Drift")))
    assert agent.task.known_environment().id == "Drift-v0"
