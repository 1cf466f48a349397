"""An environment whose Dict spaces have their keys in any order, for tests of matching by name."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from minrl.agent import Moment
from minrl.data.spaces import flatten

SPEED, ANGLE = spaces.Box(-3, 3, (2,), np.float32), spaces.Discrete(3)
CAMERA = spaces.Box(0, 255, (6, 5, 3), np.uint8)
OBSERVED: dict[str, spaces.Dict] = {
    "keywords": spaces.Dict(speed=SPEED, angle=ANGLE),
    "pairs": spaces.Dict([("speed", SPEED), ("angle", ANGLE), ("limit", SPEED)]),
    "ordered": spaces.Dict(OrderedDict(speed=SPEED, angle=ANGLE)),
    "unsorted": spaces.Dict({"speed": SPEED, "angle": ANGLE}, sort_keys=False),
    "image": spaces.Dict(speed=SPEED, camera=CAMERA, angle=ANGLE, back=CAMERA),
    "nested": spaces.Dict(
        zone=spaces.Dict(y=SPEED, x=ANGLE), body=spaces.Tuple([ANGLE, spaces.Dict(b=SPEED, a=SPEED)])
    ),
}
ACTED: dict[str, gymnasium.Space[Any]] = {
    "plain": spaces.Discrete(3),
    "pedals": spaces.Dict(gas=spaces.Discrete(4), brake=spaces.Discrete(2), aim=spaces.MultiDiscrete([3, 2])),
}


class Road(gymnasium.Env[Any, Any]):
    """Environment whose reward depends on every part of action and observation by its name."""

    backwards = False  # True: all Dicts have their keys in reverse order

    def __init__(self, observed: str = "keywords", acted: str = "plain") -> None:
        given = OBSERVED[observed], ACTED[acted]
        self.observation_space, self.action_space = map(reversed_keys, given) if self.backwards else given
        self._drawn = given[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._drawn.seed(seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.steps += 1
        parts = action if isinstance(action, dict) else {"": action}
        reward = sum(float(np.sum(parts[key])) * weight for weight, key in enumerate(sorted(parts), 1))
        return self._look(), reward, False, self.steps == 12, {}

    def _look(self) -> Any:
        return self._drawn.sample()


def reversed_keys(space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, reversed_keys(part)) for key, part in reversed(space.spaces.items())])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([reversed_keys(part) for part in space.spaces])
    return space


@pytest.fixture(autouse=True)
def road(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register `Road-v0` with Gymnasium, and restore the order of its keys after a test."""
    monkeypatch.setattr(Road, "backwards", False)
    gymnasium.register("Road-v0", entry_point=Road)
    yield
    del gymnasium.registry["Road-v0"]


def keys_of(space: gymnasium.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return [(key, keys_of(part)) for key, part in space.spaces.items()]
    return [keys_of(part) for part in space.spaces] if isinstance(space, spaces.Tuple) else None


def stacked(space: gymnasium.Space[Any], count: int) -> tuple[Any, list[Any]]:
    """Return a batch of samples, and the samples one by one."""
    space.seed(0)
    samples = [space.sample() for _ in range(count)]
    return _batch(samples), samples


def _batch(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: _batch([sample[key] for sample in samples]) for key in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(_batch(list(parts)) for parts in zip(*samples, strict=True))
    return np.stack(samples)


def acts_alike(first: Any, second: Any, count: int = 5) -> bool:
    space = first.task.observation_space
    rows = torch.from_numpy(flatten(space, stacked(space, count)[0]))
    states = [agent.initial_state(count) for agent in (first, second)]
    for step in range(4):
        moment = Moment(rows.roll(step, 0), torch.zeros(count), torch.full((count,), step == 0))
        results = [agent.act(moment, state) for agent, state in zip((first, second), states, strict=True)]
        if not all(torch.equal(a, b) for a, b in zip(*results, strict=True)):
            return False
        states = [state for _, state in results]
    return True
