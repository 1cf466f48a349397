"""Observations whose offset is far larger than their spread keep their precision, from the file to the action.

Shapes: N steps, O flat observation width.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from worlds import own_folders

from minrl.agent import Agent, Batch, Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.agents.ppo_agent import PPOAgent, PPOConfig
from minrl.data import EnvironmentInfo, Episodes, build_episodes, load
from minrl.data.moments import Rounding
from minrl.data.space_text import to_json
from minrl.data.task import Task
from minrl.export.onnx import export_onnx
from minrl.models.encoders import Normalizer
from minrl.play import Player

__all__ = ["own_folders"]

EPISODES, STEPS = 5, 40
# Northing in metres, seconds since 1970, and a column that needs no float64.
OFFSET = np.array([5_412_345.0, 1.7e9, 0.0])
WIDE = spaces.Box(-np.inf, np.inf, (3,), np.float64)
AGENTS: dict[str, Any] = {
    "clone": lambda task: CloneAgent(CloneConfig(width=16, depth=1, dropout=0.0), task),
    "decision": lambda task: DecisionAgent(DecisionConfig(width=16, depth=1, dropout=0.0), task),
    "expectile": lambda task: DecisionAgent(DecisionConfig(width=16, depth=1, return_expectile=0.9), task),
}


def seen() -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).uniform(-1, 1, size=(EPISODES * STEPS, 3))


def surveyed(offset: npt.ArrayLike = OFFSET) -> Episodes:
    rows = seen()
    return build_episodes(
        name="survey", observations=rows + offset, actions=np.sin(3 * rows[:, :2]), rewards=rows[:, 0],
        final_observations=rows[:EPISODES] + offset, lengths=[STEPS] * EPISODES, terminated=[False] * EPISODES,
        truncated=[True] * EPISODES, observation_space=WIDE, action_space=spaces.Box(-1, 1, (2,)),
    )  # fmt: skip


def agent_of(kind: str, episodes: Episodes, steps: int = 0) -> Agent:
    torch.manual_seed(0)
    agent: Agent = AGENTS[kind](Task.from_dict(Task.of(episodes).to_dict()))
    agent.fit_normalization(episodes)
    adam = torch.optim.SGD(agent.parameters(), lr=1e-2)
    sampler = agent.sampler(episodes, batch_size=4, length=STEPS, seed=0)
    for _ in range(steps):
        loss = agent.loss(Batch.from_numpy(next(sampler)))
        adam.zero_grad()
        (loss.total / loss.count).backward()
        adam.step()
    torch.nn.init.normal_(agent.head.linear.weight, std=0.05)  # type: ignore[union-attr, arg-type]
    return agent.eval()


def flat_file(folder: Path, dtype: npt.DTypeLike, actions: npt.NDArray[Any] | None = None) -> str:
    rows = np.floor((seen() + 1) * 1000) + OFFSET if np.issubdtype(dtype, np.integer) else seen() + OFFSET
    with h5py.File(folder / "own.hdf5", "w") as file:
        file["observations"] = rows.astype(dtype)
        ends = np.arange(len(rows)) % STEPS == STEPS - 1
        file["next_observations"] = np.where(ends[:, None], rows, np.roll(rows, -1, axis=0)).astype(dtype)
        file["actions"] = np.sin(3 * seen()[:, :2]).astype(np.float32) if actions is None else actions
        file["rewards"] = seen()[:, 0]
        file["terminals"] = ends
    return f"hdf5:{folder / 'own.hdf5'}"


def minari_folder(space: Any, dtype: npt.DTypeLike, actions: npt.NDArray[Any] | None = None) -> str:
    """Write Minari's own layout; the observation is a part of a Dict where the space is one."""
    data = Path(os.environ["MINARI_DATASETS_PATH"]) / "own/survey-v0" / "data"
    data.mkdir(parents=True, exist_ok=True)
    rows = seen() + OFFSET
    taken = np.zeros((len(rows), 2), np.float32) if actions is None else actions
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for episode in range(EPISODES):
            group, at = file.create_group(f"episode_{episode}"), slice(episode * STEPS, (episode + 1) * STEPS)
            name = "observations/place" if isinstance(space, spaces.Dict) else "observations"
            group[name] = np.concatenate([rows[at], rows[at][-1:]]).astype(dtype)
            if isinstance(space, spaces.Dict):
                group["observations/choice"] = np.ones(STEPS + 1, np.int64)
            group["actions"], group["rewards"] = taken[at], np.zeros(STEPS)
            group["terminations"], group["truncations"] = np.zeros(STEPS, bool), np.zeros(STEPS, bool)
    entries = {"total_episodes": EPISODES, "total_steps": EPISODES * STEPS, "data_format": "hdf5"}
    entries |= {"observation_space": to_json(space), "action_space": to_json(spaces.Box(-np.inf, np.inf, (2,)))}
    (data / "metadata.json").write_text(json.dumps(entries))
    return "minari:own/survey-v0"


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_a_flat_file_keeps_every_value(tmp_path: Path, dtype: Any, cache: bool) -> None:
    episodes = load(flat_file(tmp_path, dtype), cache=cache)
    rows = np.floor((seen() + 1) * 1000) + OFFSET if dtype is np.int64 else seen() + OFFSET
    assert episodes.observations.dtype == np.float64
    np.testing.assert_array_equal(episodes.observations, rows)
    np.testing.assert_array_equal(episodes.final_observations, rows[STEPS - 1 :: STEPS])
    assert load(flat_file(tmp_path, np.float32)).observations.dtype == np.float32


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("declared", [np.float64, np.float32])
def test_a_minari_set_keeps_every_value(declared: Any, nested: bool) -> None:
    """Take the precision of the file, not that of the declared space."""
    box: Any = spaces.Box(-np.inf, np.inf, (3,), declared)
    space = spaces.Dict({"choice": spaces.Discrete(3), "place": box}) if nested else box
    episodes = load(minari_folder(space, np.float64))
    np.testing.assert_array_equal(episodes.observations[:, -3:], seen() + OFFSET)
    np.testing.assert_array_equal(episodes.select([1]).observations[:, -3:], (seen() + OFFSET)[STEPS : 2 * STEPS])
    if nested:
        np.testing.assert_array_equal(episodes.observations[:, :3], [[0, 1, 0]] * EPISODES * STEPS)


def test_a_set_that_float32_holds_stays_float32(tmp_path: Path) -> None:
    """Keep float32 where an offset of 3, or of 3e6 in steps of a quarter, loses nothing, whatever the file's type."""
    for rows in (seen() + 3, np.round(40 * seen()) / 4 + 3e6, np.full((9, 3), 5_412_345.1), 0.1 + 1e-17 * seen()):
        rounding = Rounding(3)
        rounding.add(rows[:5])
        rounding.add(rows[5:])
        assert not rounding.lost
    assert surveyed(0.0).observations.dtype == np.float32
    assert not Task.of(surveyed(0.0)).wide_observations


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
@pytest.mark.parametrize("source", [flat_file, minari_folder])
def test_actions_that_float32_cannot_tell_apart_are_refused(source: Any, dtype: Any, tmp_path: Path) -> None:
    """Refuse them at 1e6, where float32 has steps of 1/16, and at 1e9 (64); at 20 they are precise enough."""
    sine = np.sin(3 * seen()[:, :2])
    near, far = (20 + sine / 50, 1e6 + sine / 50) if dtype is np.float64 else (2**24 + 40 * sine, 1e9 + 40 * sine)
    given = (tmp_path, np.float32) if source is flat_file else (WIDE, np.float64)
    kept = load(source(*given, actions=near.astype(dtype)))
    np.testing.assert_array_equal(kept.actions, near.astype(dtype).astype(np.float32))
    with pytest.raises(ValueError, match=r"column 0 of actions lies so close to [0-9]+\S* that float32") as caught:
        load(source(*given, actions=far.astype(dtype)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offset", [0.0, 5_412_345.0, 1.7e9])
def test_normalisation_against_extended_precision(offset: float) -> None:
    episodes = surveyed(offset)
    exact = episodes.observations.astype(np.longdouble)
    wanted = (exact - exact.mean(0)) / exact.std(0)
    normalizer = Normalizer(3)
    normalizer.fit(episodes)
    found = normalizer(torch.from_numpy(episodes.observations))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted.astype(np.float64), atol=1e-6)


def test_a_float32_column_with_an_offset_is_centred() -> None:
    """Centre on a mean that lies between two of its steps of half a metre."""
    rows = (seen() + 5_412_345.0).astype(np.float32)
    normalizer = Normalizer(3)
    normalizer.fit(replace(surveyed(0.0), observations=rows))
    found = normalizer(torch.from_numpy(rows)).double()
    assert found.mean(0).abs().max() < 1e-5
    assert found.std(0, correction=0).numpy() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", AGENTS)
def test_an_offset_does_not_change_training(kind: str) -> None:
    """Compare with seconds since 1970, which float64 holds to 2e-7."""
    plain, wide = agent_of(kind, surveyed(0.0), steps=5), agent_of(kind, surveyed(), steps=5)
    others = dict(wide.named_parameters())
    for name, value in plain.named_parameters():
        assert torch.allclose(value, others[name], atol=1e-5), name


@pytest.mark.parametrize("kind", AGENTS)
def test_acting_sees_the_observations_of_training(kind: str) -> None:
    """Act through the player, by hand, with and without the compiled call, and in batches."""
    plain, wide = agent_of(kind, surveyed(0.0)), agent_of(kind, surveyed())
    players = Player(plain, 7), Player(wide, 7)
    by_hand, start = wide.initial_state(7), np.ones(7, dtype=np.bool_)
    for step in range(3):
        rows = seen()[step * 7 : step * 7 + 7]
        wanted = players[0].act(rows, np.zeros(7), start)
        assert np.ptp(wanted, axis=0).min() > 0.01
        np.testing.assert_allclose(players[1].act(rows + OFFSET, np.zeros(7), start), wanted, atol=1e-5)
        # With gradients on, torch's operations run.
        moment = Moment(torch.from_numpy(rows + OFFSET), torch.zeros(7), torch.from_numpy(start))
        action, by_hand = wide.act(moment, by_hand)
        np.testing.assert_allclose(action.detach().numpy(), wanted, atol=1e-5)
        start = np.zeros(7, dtype=np.bool_)


@pytest.mark.slow
def test_an_exported_model_takes_float64(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    agent = agent_of("decision", surveyed())
    written = export_onnx(agent, tmp_path / "a.onnx", steps=20)
    assert written.agreement.action <= 1e-5
    session = runtime.InferenceSession(str(tmp_path / "a.onnx"))
    assert next(x.type for x in session.get_inputs() if x.name == "observation") == "tensor(double)"
    rows = seen()[:4] + OFFSET
    feed = {"observation": rows, "reward": np.zeros(4, np.float32), "episode_start": np.ones(4, bool)}
    action, _ = session.run(None, feed | {"state": agent.initial_state(4).numpy()})
    wanted = Player(agent_of("decision", surveyed(0.0)), 4).act(seen()[:4], np.zeros(4), np.ones(4, bool))
    np.testing.assert_allclose(action, wanted, atol=1e-5)


def test_an_exported_action_with_an_offset(tmp_path: Path) -> None:
    """Export actions at 20, where two digits of float32 are more than 1e-5 of a range of .04."""
    pytest.importorskip("onnxruntime")
    episodes = surveyed(0.0)
    moved = Episodes(
        **{**vars(episodes), "actions": 20 + episodes.actions / 50, "action_space": spaces.Box(0, 99, (2,))}
    )
    assert export_onnx(agent_of("clone", moved), tmp_path / "a.onnx", steps=50).agreement.action <= 1e-5


class Survey(gymnasium.Env[Any, Any]):
    """Environment of random places about the offset."""

    observation_space, action_space = WIDE, spaces.Box(-1, 1, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3) + OFFSET, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.np_random.uniform(-1, 1, 3) + OFFSET, 0.0, False, False, {}


def test_a_ppo_policy_acts_on_vecnormalize_s_observations() -> None:
    vector = VecNormalize(DummyVecEnv([Survey]))
    vector.seed(0)
    vector.reset()
    for _ in range(50):
        vector.step([np.zeros(2)])
    config = PPOConfig(width=16, depth=1, normalize_observations=True)
    agent = PPOAgent(config, Task.in_environment(EnvironmentInfo("Survey-v0"), WIDE, Survey.action_space))
    agent.copy_normalization(vector)
    rows = seen()[:9] + OFFSET
    start = np.ones(9, dtype=np.bool_)
    wanted, _ = agent.eval().policy.predict(vector.normalize_obs(rows), None, start, deterministic=True)
    found = Player(agent, 9).act(rows, np.zeros(9), start)
    assert np.ptp(wanted, axis=0).min() > 1e-4
    np.testing.assert_allclose(found, wanted, atol=1e-6)
