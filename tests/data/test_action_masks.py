"""Action masks stored with a data set: recorded, read in every format, trained on and acted by."""

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

from minrl.agent import Batch, Moment
from minrl.agents.__main__ import main
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.collect.record import collect
from minrl.data import load
from minrl.data.batches import Packed, Windows
from minrl.data.episode import Episodes, build_episodes
from minrl.data.masks.action_masks import choices, forbidden
from minrl.data.minari.load import load_folder
from minrl.data.task import Task
from minrl.export.onnx import export_onnx
from tests.helpers.masked_world import Masked, drawn_masks

SPACE = spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])))
gymnasium.register("MaskedData-v0", lambda: Masked(SPACE), max_episode_steps=6)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Record ten episodes of random allowed actions; the environment fails on a masked one."""
    folder = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        patch.setenv("MINRL_CACHE", str(folder / "cache"))
        collect("random", "MaskedData-v0", 10, "minari:masked/data-v0", seed=3, progress=False)
        yield folder / "masked" / "data-v0"


def flags(episodes: Episodes) -> Any:
    assert episodes.action_masks is not None
    return np.asarray(episodes.action_masks)


def test_masks_are_recorded_and_read(recorded: Path, tmp_path: Path) -> None:
    name = "minari:masked/data-v0"
    first, again, plain = load(name), load(name), load(name, cache=False)  # converted, from the cache, in memory
    masks = flags(first)
    assert masks.shape == (60, 12)
    with h5py.File(recorded / "data" / "main_data.hdf5") as file:
        np.testing.assert_array_equal(masks[6:12], file["episode_1/infos/action_masks"])
    assert not forbidden(SPACE, first.actions, masks).any()
    assert 0.4 < masks.mean() < 0.9
    for other in (again, plain):
        np.testing.assert_array_equal(flags(other), masks)
    np.testing.assert_array_equal(flags(first.select([2, 0]))[:6], masks[12:18])
    # Minari records the info of `reset` too: one row more than actions.
    later = tmp_path / "main_data.hdf5"
    shutil.copy(recorded / "data" / "metadata.json", tmp_path)
    shutil.copy(recorded / "data" / "main_data.hdf5", later)
    with h5py.File(later, "r+") as file:
        for group in file.values():
            rows = np.concatenate([group["infos/action_masks"], np.zeros((1, 12), bool)])
            del group["infos/action_masks"]
            group["infos/action_masks"] = rows.astype(np.int64)
    np.testing.assert_array_equal(flags(load_folder(tmp_path, "set", cache=False)), masks)


def test_masks_of_flat_files_and_bad_ones(recorded: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    masks = drawn_masks(spaces.Discrete(4), random, 20)
    actions = np.array([random.choice(np.flatnonzero(row)) for row in masks])

    def written(key: str, stored: Any) -> Path:
        path = tmp_path / f"{key.replace('/', '_')}_{stored.shape[-1]}_{int(stored.sum())}.hdf5"
        with h5py.File(path, "w") as file:
            file["observations"], file["actions"] = random.normal(size=(20, 3)).astype(np.float32), actions
            file["rewards"], file["terminals"] = np.zeros(20, np.float32), np.arange(20) % 5 == 4
            file[key] = stored
        return path

    space = spaces.Discrete(4)
    for key in ("action_masks", "infos/action_masks"):
        np.testing.assert_array_equal(flags(load(f"hdf5:{written(key, masks)}", action_space=space)), masks)
    wrong = masks.copy()
    wrong[7, actions[7]] = False
    with pytest.raises(ValueError, match="episode 1, step 2: the recorded action is not allowed"):
        load(f"hdf5:{written('action_masks', wrong)}", action_space=space)
    with pytest.raises(ValueError, match="flags a step, expected 4"):
        load(f"hdf5:{written('action_masks', masks[:, :3])}", action_space=space)


def made(space: Any, count: int = 30) -> Episodes:
    random, steps = np.random.default_rng(1), 6
    masks = drawn_masks(space, random, count * steps)
    actions = []
    for row in masks:
        hot = []
        for part in np.split(row, np.cumsum(choices(space))[:-1]):
            hot.append(np.zeros(len(part)))
            hot[-1][random.choice(np.flatnonzero(part))] = 1
        actions.append(np.concatenate(hot))
    return build_episodes(
        name="made",
        observations=random.normal(size=(count * steps, 3)),
        actions=np.array(actions),
        rewards=np.ones(count * steps),
        final_observations=np.zeros((count, 3)),
        lengths=np.full(count, steps),
        terminated=np.ones(count, bool),
        truncated=np.zeros(count, bool),
        observation_space=spaces.Box(-9, 9, (3,)),
        action_space=space,
        action_masks=masks,
    )


@pytest.mark.parametrize(
    "kind", [(CloneAgent, CloneConfig), (DecisionAgent, DecisionConfig)], ids=["clone", "decision"]
)
def test_loss_and_actions_are_of_the_masked_distribution(kind: Any) -> None:
    space = spaces.MultiDiscrete([3, 2])
    episodes = made(space)
    torch.manual_seed(0)
    agent = kind[0](kind[1](width=8, depth=1, dropout=0.0), Task.of(episodes))
    assert agent.task.masked
    features: list[torch.Tensor] = []
    agent.head.linear.register_forward_hook(lambda _, __, out: features.append(out))
    for sampler in (Packed(episodes, 2, 9), Windows(episodes, 4, 8)):
        batch = Batch.from_numpy(next(sampler))
        assert batch.action_masks is not None
        loss = agent.loss(batch)
        # An independent form: the softmax over the allowed choices alone.
        p = torch.exp(features[-1].detach()) * batch.action_masks
        parts = zip(p.split([3, 2], -1), batch.actions.split([3, 2], -1), strict=True)
        wanted = sum(-torch.log((q * a).sum(-1)[batch.mask] / q.sum(-1)[batch.mask]).sum() for q, a in parts)
        torch.testing.assert_close(loss.total, wanted, rtol=1e-4, atol=1e-4)
        loss.total.backward()
    for deterministic in (True, False):
        state = agent.initial_state(40)
        for step in range(3):
            masks = torch.from_numpy(drawn_masks(space, np.random.default_rng(step), 40))
            moment = Moment(torch.randn(40, 3), torch.zeros(40), torch.full((40,), step == 0), masks)
            with torch.inference_mode():
                action, state = agent.act(moment, state, deterministic=deterministic)
            assert not forbidden(space, action.numpy(), masks.numpy()).any()


def test_run_on_masked_data(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--width",
        "8",
        "--depth",
        "1",
        "--steps",
        "4",
        "--length",
        "12",
        "--batch-size",
        "2",
        "--evaluate-every",
        "4",
    ]
    flags += ["--evaluate-episodes", "2", "--threads", "1", "--eval-env", "MaskedData-v0"]
    assert main(["train", "clone", "--data", "minari:masked/data-v0", "--out", str(tmp_path / "run"), *flags]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--env", "MaskedData-v0", "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 3


@pytest.mark.slow
def test_exported_clone_has_the_masks_as_input(recorded: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    agent = CloneAgent(CloneConfig(width=8, depth=1), Task.of(load("minari:masked/data-v0"))).eval()
    exported = export_onnx(agent, tmp_path / "clone.onnx", steps=60)
    assert exported.inputs["action_masks"] == ("batch", 12)
    assert exported.agreement.action == 0
