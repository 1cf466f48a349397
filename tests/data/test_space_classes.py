"""Spaces of different classes with equal content: a set's Text and an environment's own space of strings."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from forked import minrl
from gymnasium import spaces
from worlds import own_folders  # noqa: F401

from minrl.agent import Batch
from minrl.agents.clone import CloneAgent
from minrl.data import EnvironmentInfo, build_episodes
from minrl.data.space_match import mismatch
from minrl.data.spaces import flatten, is_text, leaves
from minrl.data.task import Task
from minrl.evaluate import evaluate

MISSIONS = ("get the key", "open a door")


class Missions(gymnasium.Space[str]):
    """Space of strings like MiniGrid's MissionSpace, which is no Text and has no length."""

    def __init__(self, typed: bool = True) -> None:
        super().__init__(dtype=str if typed else None, seed=0)

    def __repr__(self) -> str:
        """Return a name without an address: names of tests must be the same in every process."""
        return f"Missions({self.dtype})"

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return MISSIONS[int(self.np_random.integers(2))]

    def contains(self, x: Any) -> bool:
        return x in MISSIONS


class OwnBox(spaces.Box):
    """Subclass of Box without a change."""


PICTURE = spaces.Box(0, 255, (3, 3, 3), np.uint8)
RECORDED = spaces.Dict(mission=spaces.Text(14, charset="abcdefghijklmnopqrstuvwxyz "), image=PICTURE)


class Room(gymnasium.Env[Any, Any]):
    """Environment whose mission names the rewarded one of two actions."""

    observation_space: Any = spaces.Dict(image=PICTURE, mission=Missions())
    action_space = spaces.Discrete(2)
    missions = MISSIONS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.right = 0, int(self.np_random.integers(2))
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._look(), float(action == self.right), False, self.steps == 5, {}

    def _look(self) -> Any:
        return {"image": np.zeros((3, 3, 3), np.uint8), "mission": self.missions[self.right]}


class Harder(Room):
    """`Room` with missions that no set has recorded."""

    missions = ("get the key!", "open a door, then another")


@pytest.fixture(autouse=True)
def rooms() -> Any:
    """Register `Room-v0` and `Harder-v0` with Gymnasium."""
    gymnasium.register("Room-v0", entry_point=Room)
    gymnasium.register("Harder-v0", entry_point=Harder)
    yield
    del gymnasium.registry["Room-v0"], gymnasium.registry["Harder-v0"]


def expert() -> CloneAgent:
    """Build a clone of an agent that obeys the mission, fitted by hand: its head reads one letter."""
    rights = np.arange(40) % 2
    batch = {"mission": [MISSIONS[right] for right in rights], "image": np.zeros((40, 3, 3, 3), np.uint8)}
    rows = flatten(RECORDED, batch)
    episodes = build_episodes(
        name="rooms", observations=rows, actions=np.eye(2)[rights], rewards=np.ones(40), final_observations=rows,
        lengths=np.ones(40, int), terminated=np.ones(40, bool), truncated=np.zeros(40, bool),
        observation_space=RECORDED, action_space=Room.action_space,
    )  # fmt: skip
    torch.manual_seed(0)
    agent = CloneAgent(CloneAgent.config_class(width=16, depth=1), Task.of(episodes))
    agent.fit_normalization(episodes)
    optimizer = torch.optim.Adam(agent.parameters(), 1e-2)
    sampler = agent.sampler(episodes, batch_size=4, length=8, seed=0)
    for _ in range(40):
        loss = agent.loss(Batch.from_numpy(next(sampler)))
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    return agent.eval()


def test_an_agent_reads_its_environment_s_strings() -> None:
    # Five rewards of 1 where every mission is read correctly.
    assert evaluate(expert(), EnvironmentInfo("Room-v0"), episodes=6)[0].returns == (5.0,) * 6


def test_text_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"the text '.*' does not fit Text\(1, 14"):
        evaluate(expert(), EnvironmentInfo("Harder-v0"), episodes=2)


@pytest.mark.parametrize("space", [Missions(), Missions(typed=False), spaces.Text(3)], ids=str)
def test_strings_are_text(space: Any) -> None:
    state = space.np_random.bit_generator.state
    assert is_text(space)
    assert space.np_random.bit_generator.state == state
    assert not is_text(PICTURE)
    assert not is_text(spaces.Sequence(PICTURE))


BYTES, ROW = spaces.Box(0, 255, (4,), np.uint8), spaces.Box(-1, 1, (4,), np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "fits"),
    [
        (spaces.Text(4), spaces.Text(9, charset="xyz"), "observation", True),
        (spaces.Text(4), Missions(), "observation", True),
        (spaces.Text(4), BYTES, "observation", False),
        (ROW, OwnBox(-2, 2, (4,), np.float64), "action", True),
        (ROW, BYTES, "observation", True),
        (ROW, spaces.Box(-1, 1, (2, 2), np.float32), "action", True),
        (ROW, spaces.Box(-1, 1, (5,), np.float32), "observation", False),
        (PICTURE, spaces.Box(0, 255, (3, 9, 1), np.uint8), "observation", False),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), spaces.Box(0, 255, (3, 7, 7), np.uint8), "observation", False),
        (spaces.Box(0, 255, (1, 7, 7), np.uint8), spaces.Box(0, 255, (7, 7, 1), np.uint8), "observation", True),
        (spaces.Box(0, 1, (4,), np.int8), spaces.MultiBinary(4), "action", True),
        (ROW, spaces.MultiBinary(4), "action", False),
        (spaces.Discrete(3), spaces.Discrete(3, start=1), "action", False),
        (spaces.Discrete(3), spaces.Discrete(4), "action", False),
        (spaces.Discrete(3), spaces.MultiDiscrete([3]), "observation", True),
        (spaces.Discrete(3), spaces.MultiDiscrete([3]), "action", False),
        (spaces.MultiDiscrete([2, 4]), spaces.MultiDiscrete([3, 3]), "action", False),
        (spaces.MultiDiscrete([2, 4]), spaces.MultiDiscrete([4, 2]), "observation", False),
        (spaces.Discrete(6), spaces.MultiBinary(6), "observation", False),
        (spaces.Tuple([ROW, BYTES]), spaces.Tuple([ROW]), "observation", False),
        (spaces.Dict(a=ROW), spaces.Tuple([ROW]), "observation", False),
    ],
    ids=str,
)
def test_spaces_match_by_content(ours: Any, theirs: Any, kind: Any, fits: bool) -> None:
    for first, second in ((ours, theirs), (theirs, ours)):
        assert (mismatch(first, second, kind) is None) == fits


def test_errors_name_the_environment() -> None:
    agent = expert()
    other = spaces.Dict(mission=spaces.Sequence(PICTURE), image=PICTURE)
    with pytest.raises(ValueError, match=r"^Maze-v3: its observation space .* at mission the agent has Text"):
        agent.task.check_fits(other, Room.action_space, "Maze-v3")
    with pytest.raises(ValueError, match="Missions at mission cannot be flattened: it does not say how long"):
        leaves(Room.observation_space)


def test_ppo_names_a_text_space_it_cannot_read(tmp_path: Any) -> None:
    (tmp_path / "rooms.py").write_text(
        "import gymnasium\n"
        "class Room(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Dict(mission=gymnasium.spaces.Text(9))\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "gymnasium.register('Text-v0', entry_point=Room)\n"
    )
    done = minrl("train", "ppo", "--env", "rooms:Text-v0", "--out", "run", cwd=tmp_path)
    assert done.returncode == 2
    expected = "environment rooms:Text-v0: the observation space holds a Text at mission, which PPO cannot take"
    assert f"{expected}; leave it out with a wrapper" in done.stderr
