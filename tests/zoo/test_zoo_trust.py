"""Files of strangers: no pickle in them runs, and what cannot be read gets one line."""

import base64
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import CrossQ
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from minrl.agent import Moment
from minrl.agents.__main__ import main
from minrl.zoo import load_zip
from minrl.zoo.archive import UnreadableError

SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu", "seed": 0}


class Evil:
    """Object whose pickle makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


class OwnPolicy(ActorCriticPolicy):
    """Policy class of one's own."""


class OwnExtractor(FlattenExtractor):
    """Extractor of one's own."""


def slow_tanh() -> nn.Module:
    return nn.Tanh()


def model(environment: Any = "Pendulum-v1", policy: Any = "MlpPolicy", **policy_kwargs: Any) -> Any:
    return PPO(policy, environment, policy_kwargs=policy_kwargs, **SMALL)


def rewritten(file: Path, to: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Write a copy of a .zip, each entry as `change` returns it."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(to, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return to


def settings(file: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write a copy of a .zip whose settings `change` has changed in place."""

    def edit(name: str, content: bytes) -> bytes:
        if name != "data":
            return content
        data = json.loads(content)
        change(data)
        return json.dumps(data).encode()

    return rewritten(file, to, edit)


def test_no_pickled_field_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Put a payload into every field and every other entry; load, evaluate, collect and export the file."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    mark = tmp_path / "owned"
    payload = base64.b64encode(pickle.dumps(Evil(mark))).decode()
    trained = model(activation_fn=nn.ReLU)
    trained.save(tmp_path / "good")

    def poison(name: str, content: bytes) -> bytes:
        if name == "data":
            data = json.loads(content)
            fields = [value for value in data.values() if isinstance(value, dict) and ":serialized:" in value]
            assert len(fields) > 6
            for value in fields:
                value[":serialized:"] = payload
            return json.dumps(data).encode()
        return content if name == "policy.pth" else pickle.dumps(Evil(mark))

    evil = rewritten(tmp_path / "good.zip", tmp_path / "evil.zip", poison)
    seen = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        load_zip(evil).predict(seen, deterministic=True)[0], trained.predict(seen, deterministic=True)[0]
    )
    assert main(["evaluate", str(evil), "--env", "Pendulum-v1", "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "PPO"
    words = ["collect", "--policy", str(evil), "--env", "Pendulum-v1", "--episodes", "1", "--out", "minari:a/b-v0"]
    assert main(words) == 0
    assert not mark.exists()
    poisoned = rewritten(
        evil, tmp_path / "worse.zip", lambda name, _: pickle.dumps(Evil(mark)) if name == "policy.pth" else _
    )
    with pytest.raises(ValueError, match=r"worse\.zip"):
        load_zip(poisoned)
    assert not mark.exists()
    pickle.loads(base64.b64decode(payload))
    assert mark.exists(), "the test can fail"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: model(policy=OwnPolicy), "policy is a class of test_zoo_trust"),
        (lambda: model(features_extractor_class=OwnExtractor), "features_extractor_class .*OwnExtractor"),
        (lambda: model(activation_fn=slow_tanh), "activation_fn .*slow_tanh"),
        (lambda: model(activation_fn=nn.PReLU), "activation_fn .*PReLU"),
        (lambda: CrossQ("MlpPolicy", "Pendulum-v1", buffer_size=9, device="cpu"), "sb3_contrib.crossq.policies"),
    ],
)
def test_what_needs_code_of_its_own_needs_trust(make: Any, words: str, tmp_path: Path) -> None:
    """Compare the trusted policy with the model."""
    file, world = tmp_path / "own.zip", gymnasium.make("Pendulum-v1")
    saved = make()
    saved.save(file)
    with pytest.raises(UnreadableError, match=rf"own\.zip: its .*{words}.*--trust") as caught:
        load_zip(file, world)
    assert "\n" not in str(caught.value)
    opened = load_zip(file, world, trust=True)
    seen = world.observation_space.sample()
    rows = torch.from_numpy(seen[None])
    action, _ = opened.act(Moment(rows, torch.zeros(1), torch.ones(1, dtype=torch.bool)), opened.initial_state(1))
    np.testing.assert_allclose(action.numpy()[0], saved.predict(seen, deterministic=True)[0], atol=1e-6)


def test_files_of_the_days_of_gym(tmp_path: Path) -> None:
    """Write a file as Stable-Baselines3 did with gym and torch 1.5: other names, weights without an archive."""
    trained = model("CartPole-v1")
    trained.save(tmp_path / "new")

    def aged(name: str, content: bytes) -> bytes:
        if name == "policy.pth":
            buffer = io.BytesIO()
            torch.save(trained.policy.state_dict(), buffer, _use_new_zipfile_serialization=False)
            return buffer.getvalue()
        return content.replace(b"gymnasium.spaces", b"gym.spaces").replace(b'"_shape"', b'"shape"')

    old = load_zip(rewritten(tmp_path / "new.zip", tmp_path / "old.zip", aged))
    seen = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        old.predict(seen, deterministic=True)[0], trained.predict(seen, deterministic=True)[0]
    )
    greedy = rewritten(tmp_path / "old.zip", tmp_path / "greedy.zip", _larger)
    with pytest.raises(ValueError, match="declares tensors"):
        load_zip(greedy)


def _larger(name: str, content: bytes) -> bytes:
    """Declare a tensor of 64 x 4 elements of the file as a million times as large."""
    if name != "policy.pth":
        return content
    assert b"K@M\x00\x01"[2:] in content  # 256 as a BININT2
    return content.replace(b"M\x00\x01", b"J\x00\x00\x00\x10", 1)


def test_statistics_run_nothing(tmp_path: Path) -> None:
    """Compare with VecNormalize's own, refuse other objects."""
    environments = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0), clip_obs=1.5)
    trained = model(environments).learn(32)
    trained.save(tmp_path / "model")
    environments.save(str(tmp_path / "statistics.pkl"))
    seen = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) * 3
    ours = load_zip(tmp_path / "model.zip", environments, vecnormalize=tmp_path / "statistics.pkl")
    expected, _ = trained.predict(environments.normalize_obs(seen), deterministic=True)
    np.testing.assert_allclose(ours.predict(seen, deterministic=True)[0], expected, atol=1e-6)
    mark = tmp_path / "owned"
    for payload in (Evil(mark), {"obs_rms": Evil(mark)}, np.random.default_rng, [np.zeros(3), os.system]):
        (tmp_path / "evil.pkl").write_bytes(pickle.dumps(payload))
        with pytest.raises(ValueError, match=r"evil\.pkl.*(--trust|no VecNormalize)"):
            load_zip(tmp_path / "model.zip", environments, vecnormalize=tmp_path / "evil.pkl")
    assert not mark.exists()


def test_faults_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut and flip a file, and give it what does not fit."""
    good = tmp_path / "good.zip"
    model().save(good)
    content = bytearray(good.read_bytes())
    random = np.random.default_rng(0)
    before, said = load_zip(good).state_dict(), list[str]()
    for trial in range(60):
        bad = tmp_path / "bad.zip"
        broken = content[: random.integers(len(content))] if trial % 3 == 0 else bytearray(content)
        if trial % 3:
            broken[random.integers(len(content))] ^= 1 << int(random.integers(8))
        bad.write_bytes(broken)
        try:
            after = load_zip(bad).state_dict()
        except ValueError as error:
            said.append(str(error))
        else:  # the flip hit an entry that is not read
            assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(said) > 20
    assert all("bad.zip" in text and "\n" not in text for text in said)
    for words, change in {
        "observation_space cannot be read from its plain text": lambda data: data["observation_space"].pop("low"),
        "a layer of 3 inputs follows 4 values": lambda data: data["observation_space"].update(
            _shape=[4], low="[0. 0. 0. 0.]", high="[1. 1. 1. 1.]"
        ),
        "last layer has 1 outputs": lambda data: data["action_space"].update(_shape=[2], low="[0. 0.]", high="[1. 1.]"),
        "name no policy_class": lambda data: data.pop("policy_class"),
        "its policy is a class of": lambda data: data["policy_class"].update(__module__=["a"]),
        "option 'wings'": lambda data: data.update(policy_kwargs={"wings": 2}),
    }.items():
        with pytest.raises(ValueError, match=words):
            load_zip(settings(good, tmp_path / "other.zip", change))
    pipe, plain = tmp_path / "pipe.zip", tmp_path / "pipe.pkl"
    os.mkfifo(pipe)
    os.mkfifo(plain)
    away = ["--env", "Pendulum-v1", "--episodes", "1", "--out", "minari:tests/never-v0"]
    for words, arguments in {
        "name the environment of its training": ["evaluate", good],
        "no file": ["export", tmp_path / "absent.zip", "--c", tmp_path / "c"],
        "trained with observation_space": ["evaluate", good, "--env", "CartPole-v1"],
        "no such file": ["evaluate", good, "--env", "Pendulum-v1", "--vecnormalize", "absent.pkl"],
        "is for a policy's .zip": ["export", tmp_path, "--env", "Pendulum-v1", "--onnx", tmp_path / "x.onnx"],
        "pipe.zip is no regular file; give a .zip": ["evaluate", pipe, "--env", "Pendulum-v1"],
        "pipe.zip is no regular file; give a .zip that": ["export", pipe, "--c", tmp_path / "c"],
        "pipe.zip' is no regular file; give a": ["collect", "--policy", pipe, *away],
        "pipe.pkl is no regular file; give a run's folder": ["evaluate", plain],
        "pipe.pkl: no regular file": ["evaluate", good, "--env", "Pendulum-v1", "--vecnormalize", plain],
        "random would ignore": ["collect", "--policy", "random", "--vecnormalize", plain, *away],
    }.items():
        assert main([str(word) for word in arguments]) == 2
        line = capsys.readouterr().err
        assert words in line
        assert line.count("\n") == 1


def test_statistics_beside_a_file_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environments = VecNormalize(make_vec_env("CartPole-v1", 1, seed=0))
    model(environments).learn(8).save(tmp_path / "policy")
    environments.save(str(tmp_path / "vec_normalize.pkl"))
    words = ["evaluate", str(tmp_path / "policy.zip"), "--env", "CartPole-v1", "--episodes", "1", "--json"]
    assert main(words) == 0
    assert "normalised by" in capsys.readouterr().err
    assert main([*words, "--vecnormalize", "none"]) == 0
    assert capsys.readouterr().err == ""
