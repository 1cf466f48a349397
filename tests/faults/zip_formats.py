"""Policies and statistics that Stable-Baselines3 saved, and mutations of what lies inside of these files."""

import io
import json
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutants import VALUES, mutate_bytes, mutate_value

from minrl.agent import Moment
from minrl.zoo import load_zip

ZIP, STATISTICS = "policy.zip", "statistics.pkl"
_PLACES = ("mean", "var", "obs_rms", "epsilon", "clip_obs", "norm_obs", "norm_obs_keys")


def make_policy(folder: Path) -> None:
    """Save a small policy with an LSTM and its statistics."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    environments = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    options: dict[str, Any] = {"lstm_hidden_size": 4, "net_arch": {"pi": [4], "vf": [4]}}
    model = RecurrentPPO("MlpLstmPolicy", environments, n_steps=8, batch_size=8, policy_kwargs=options, device="cpu")
    model.learn(8)
    model.save(folder / ZIP)
    environments.save(str(folder / STATISTICS))


def act(folder: Path) -> None:
    """Open the policy with its statistics and act once."""
    agent = load_zip(folder / ZIP, vecnormalize=folder / STATISTICS)
    rows = torch.zeros(1, agent.task.observation_size, dtype=torch.float64)
    agent.act(Moment(rows, torch.zeros(1), torch.ones(1, dtype=torch.bool)), agent.initial_state(1))


def mutate_zip(file: Path, draw: random.Random, tensors: Callable[[Any, random.Random], Any]) -> None:
    """Change a value of the settings, a text of them, a tensor, or bytes of an entry, with right checksums."""
    with zipfile.ZipFile(file) as source:
        entries = [(entry, source.read(entry)) for entry in source.namelist()]
    place = draw.choice([at for at, (name, _) in enumerate(entries) if name in ("data", "policy.pth")])
    name, content = entries[place]
    if draw.random() < 0.3:
        entries[place] = name, mutate_bytes(content, draw)
    elif name == "data":
        entries[place] = name, json.dumps(_settings(json.loads(content), draw)).encode()
    else:
        buffer = io.BytesIO()
        weights = torch.load(io.BytesIO(content), weights_only=True)
        torch.save(tensors(weights, draw) if draw.random() < 0.5 else mutate_value(weights, draw), buffer)
        entries[place] = name, buffer.getvalue()
    if draw.random() < 0.1:
        entries.insert(draw.randrange(len(entries) + 1), draw.choice(entries))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(file, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as target:
            for name, content in entries:
                target.writestr(name, content)


def _settings(data: dict[str, Any], draw: random.Random) -> Any:
    """Change what an action depends on more often than the rest: the spaces, class and options of the policy."""
    read = [key for key in ("observation_space", "action_space", "policy_kwargs", "policy_class") if key in data]
    if draw.random() < 0.3:
        return mutate_value(data, draw)
    key = draw.choice(read)
    if isinstance(data[key], dict) and draw.random() < 0.7:
        inner = draw.choice([part for part in data[key] if part != ":serialized:"])
        text = str(data[key][inner])
        changed: list[Callable[[], Any]] = [
            lambda: mutate_bytes(text.encode(), draw).decode("latin1"),
            lambda: text * draw.choice([2, 1000]),
            lambda: text.replace("1", str(draw.choice([0, -1, 10**9, "nan", "inf", "9" * 5000]))),
            lambda: draw.choice(VALUES),
        ]
        data[key][inner] = draw.choice(changed)()
    else:
        data[key] = mutate_value(data[key], draw)
    return data


def mutate_statistics(file: Path, draw: random.Random) -> None:
    """Change a number or an array of a VecNormalize, or the protocol of its pickle."""
    found = pickle.loads(file.read_bytes())
    vars(found).update(venv=None, class_attributes=None, returns=None)  # save() leaves them out
    place = draw.choice(_PLACES)
    owner = found.obs_rms if place in ("mean", "var") else found
    values = np.asarray(found.obs_rms.mean)
    arrays: list[Any] = [
        values[:-1], values[None], values.astype(draw.choice(["S8", "O", "c16", "i2", "?", "M8[s]", ">f4", "f2"])),
        values * np.nan, np.zeros(0), np.asfortranarray(np.ones((2, 3))), np.zeros(3, [("a", "f4"), ("b", "i8")]),
        np.ma.masked_array(values, values > 0), np.broadcast_to(values, (4, 3)), {"": values}, np.random.default_rng(0),
    ]  # fmt: skip
    setattr(owner, place, draw.choice([*arrays, *VALUES]))
    file.write_bytes(pickle.dumps(found, protocol=draw.randint(3, 5)))
