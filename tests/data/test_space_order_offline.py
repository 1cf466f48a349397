"""Dict spaces whose keys are not in alphabetical order: data sets, their cache and the agents that learn from them.

The references are `gymnasium.spaces.flatten` and the agent before saving.
"""

import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from roads import OBSERVED, Road, acts_alike, keys_of, reversed_keys, road  # noqa: F401
from worlds import own_folders  # noqa: F401

import minrl
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.collect.record import collect
from minrl.data import EnvironmentInfo, load
from minrl.data.space_text import from_json, to_json
from minrl.data.task import Task
from minrl.evaluate import evaluate
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT
from minrl.training.offline import TrainConfig
from minrl.training.offline import resume as resume_offline
from minrl.training.offline import train as train_offline


@pytest.mark.parametrize("backwards", [False, True])
def test_offline_agents_know_their_columns(backwards: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = collect(
        "random", "Road-v0", 4, "road/any-v0", environment_options={"observed": "nested", "acted": "pedals"},
        progress=False,
    )  # fmt: skip
    episodes = load(f"minari:{written.name}")
    assert keys_of(episodes.observation_space) == keys_of(OBSERVED["nested"])
    # The environment's draws after the same seeds, flattened by Gymnasium.
    world = gymnasium.make("Road-v0", observed="nested", acted="pedals")
    with h5py.File(written.path / "data" / "main_data.hdf5") as file:
        seed = int(file["episode_0"].attrs["seed"])
    first = spaces.flatten(OBSERVED["nested"], world.reset(seed=seed)[0])
    np.testing.assert_array_equal(episodes.observations[0], first)
    agent = _clone(episodes)
    checkpoint.save(tmp_path / "agent.pt", agent, step=0)
    loaded = minrl.load(tmp_path / "agent.pt")
    assert acts_alike(agent, loaded)
    info = EnvironmentInfo("Road-v0", {"observed": "nested", "acted": "pedals"})
    expected = evaluate(agent, info, episodes=3)[0].returns
    monkeypatch.setattr(Road, "backwards", backwards)
    assert evaluate(loaded, info, episodes=3)[0].returns == expected


def _clone(episodes: Any) -> CloneAgent:
    torch.manual_seed(0)
    agent = CloneAgent(CloneAgent.config_class(width=8, depth=1), Task.of(episodes))
    agent.fit_normalization(episodes)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that actions depend on observations
    return agent.eval()


def turn_around(file: Path, field: str) -> None:
    """Reverse the keys of a space in a set's metadata, keeping the file's size and time."""
    status, text = file.stat(), file.read_text()
    values = json.loads(text)
    values[field] = to_json(reversed_keys(from_json(values[field])))
    values.pop("crc32", None)
    file.write_text(json.dumps(values).ljust(len(text)))
    assert file.stat().st_size == status.st_size
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_cache_does_not_mix_two_orders() -> None:
    written = collect("random", "Road-v0", 2, "road/any-v0", progress=False)
    before = load(f"minari:{written.name}")
    turn_around(written.path / "data" / "metadata.json", "observation_space")
    after = load(f"minari:{written.name}")
    assert list(after.observation_space) == ["angle", "speed"]
    np.testing.assert_array_equal(np.roll(after.observations, -3, axis=1), before.observations)


def test_an_offline_run_resumes_with_its_own_columns(tmp_path: Path) -> None:
    options = {"observed": "nested", "acted": "pedals"}
    written = collect("random", "Road-v0", 4, "road/any-v0", environment_options=options, progress=False)
    settings = TrainConfig(
        data=f"minari:{written.name}", steps=4, batch_size=2, length=8, evaluate_every=0, validation=0.25, threads=1
    )
    train_offline(CloneAgent, CloneConfig(width=8, depth=1), settings, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / LAST_CHECKPOINT, weights_only=True)
    saved["training"]["config"]["steps"] = 8
    weights = []
    for number in range(2):
        folder = tmp_path / f"resumed{number}"
        folder.mkdir()
        torch.save(saved, folder / LAST_CHECKPOINT)
        resume_offline(folder)
        weights.append(checkpoint.read(folder).weights)
        for field in ("observation_space", "action_space"):
            turn_around(written.path / "data" / "metadata.json", field)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], saved["weights"][name]) for name in weights[0])
