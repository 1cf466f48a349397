"""Episodes check themselves, sum their returns and flatten spaces as Gymnasium does."""

import dataclasses
import itertools
import statistics
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from minrl.data import EnvironmentInfo, Episodes, build_episodes, make_environment
from minrl.data import episode as episode_module
from minrl.data.environment import from_spec
from minrl.data.episode import returns_to_go
from minrl.data.space_text import from_json, to_json
from minrl.data.spaces import flatten, leaves


def small(lengths: tuple[int, ...] = (3, 1, 4), **changes: Any) -> Episodes:
    """Build episodes whose observation at step t of episode e is 1000 e + t."""
    observations = np.concatenate([1000 * e + np.arange(n) for e, n in enumerate(lengths)])[:, None]
    fields: dict[str, Any] = {
        "name": "minari:small-v0",
        "observations": observations,
        "actions": np.repeat(observations / 1000, 2, axis=1),
        "rewards": np.arange(1, len(observations) + 1),
        "final_observations": np.array([[1000 * e + n] for e, n in enumerate(lengths)]),
        "lengths": lengths,
        "terminated": [True] * len(lengths),
        "truncated": [False] * len(lengths),
        "observation_space": spaces.Box(-np.inf, np.inf, (1,)),
        "action_space": spaces.Box(-1, 1, (2,)),
        "reference_scores": (10.0, 30.0),
    }
    return build_episodes(**{**fields, **changes})


def test_returns_to_go_are_sums_to_the_end_of_the_episode() -> None:
    episodes = small()
    np.testing.assert_array_equal(episodes.returns_to_go, [6, 5, 3, 4, 26, 21, 15, 8])
    np.testing.assert_array_equal(episodes.returns, [6, 4, 26])
    np.testing.assert_array_equal(episodes.lengths, [3, 1, 4])
    assert (len(episodes), episodes.num_steps) == (3, 8)


def test_returns_to_go_keep_small_rewards_beside_large_ones_of_other_episodes() -> None:
    rewards = np.array([1e30, 1e30, 1e-3, 1e-3], dtype=np.float32)
    result = returns_to_go(rewards, np.array([0, 2, 4]))
    np.testing.assert_allclose(result[2:], [2e-3, 1e-3], rtol=1e-6)


def test_normalized_score_runs_from_0_to_100() -> None:
    assert [small().normalized_score(value) for value in (10.0, 30.0, 20.0)] == [0.0, 100.0, 50.0]
    with pytest.raises(ValueError, match="minari:small-v0 has no reference scores"):
        small(reference_scores=None).normalized_score(1.0)


def test_select_keeps_whole_episodes_in_the_given_order() -> None:
    chosen = small().select([2, 0])
    np.testing.assert_array_equal(chosen.observations[:, 0], [2000, 2001, 2002, 2003, 0, 1, 2])
    np.testing.assert_array_equal(chosen.offsets, [0, 4, 7])
    np.testing.assert_array_equal(chosen.final_observations[:, 0], [2004, 3])
    np.testing.assert_array_equal(chosen.returns, [26, 6])
    with pytest.raises(ValueError, match="empty selection"):
        small().select([])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("actions", np.zeros((7, 2), np.float32)),
        ("observations", np.zeros((8, 2), np.float32)),
        ("terminated", np.zeros(2, bool)),
        ("final_observations", np.zeros((4, 1), np.float32)),
        ("offsets", np.array([0, 3, 3, 8])),
        ("offsets", np.array([0, 3, 4, 7])),
    ],
)
def test_lengths_that_disagree_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match="minari:small-v0"):
        dataclasses.replace(small(), **{field: value})


SPACES = [
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(0, 255, (4, 5, 3), np.uint8),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 2, 4], start=[1, 0, -1]),
    spaces.MultiDiscrete(np.array([[3, 2], [2, 5]])),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"z": spaces.Discrete(3), "a": spaces.Box(-1, 1, (2,)), "m": spaces.MultiBinary(2)}),
    spaces.Tuple((spaces.Discrete(2, start=1), spaces.Box(0, 1, (1, 2)), spaces.MultiDiscrete([2, 2]))),
    spaces.Dict(
        {
            "b": spaces.Tuple((spaces.Dict({"y": spaces.Discrete(4, start=7)}), spaces.Box(0, 9, (2,), np.int64))),
            "a": spaces.Dict({"text": spaces.Text(5), "image": spaces.Box(0, 255, (2, 2, 1), np.uint8)}),
        }
    ),
]


def stack(space: spaces.Space[Any], samples: list[Any]) -> Any:
    """Stack samples of a space into arrays in its structure, as a recording holds them."""
    if isinstance(space, spaces.Dict):
        return {key: stack(part, [sample[key] for sample in samples]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack(part, [sample[i] for sample in samples]) for i, part in enumerate(space.spaces))
    return list(samples) if isinstance(space, spaces.Text) else np.stack(samples)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_flatten_equals_gymnasium(space: spaces.Space[Any]) -> None:
    space.seed(3)
    samples = [space.sample() for _ in range(17)]
    expected = np.stack([np.asarray(spaces.flatten(space, sample)) for sample in samples])
    flat = flatten(space, stack(space, samples))
    assert flat.dtype == np.float32
    np.testing.assert_array_equal(flat, expected.astype(np.float32))
    assert leaves(space)[-1].columns.stop == spaces.flatdim(space)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space: spaces.Space[Any]) -> None:
    assert spaces.flatdim(from_json(to_json(space))) == spaces.flatdim(space)


def test_a_space_without_a_fixed_width_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequence at words"):
        leaves(spaces.Dict({"words": spaces.Sequence(spaces.Discrete(3))}))


def test_environment_from_a_specification_has_its_options_wrappers_and_limit() -> None:
    made = gymnasium.make("CartPole-v1", sutton_barto_reward=True, max_episode_steps=7)
    wrapped = gymnasium.wrappers.FrameStackObservation(made, 2)
    assert wrapped.spec is not None
    info = from_spec(wrapped.spec.to_json())
    assert (info.id, info.kwargs, info.max_episode_steps) == ("CartPole-v1", {"sutton_barto_reward": True}, 7)
    again = make_environment(info)
    assert again.observation_space == wrapped.observation_space
    observation, _ = again.reset(seed=5)
    np.testing.assert_array_equal(observation, wrapped.reset(seed=5)[0])
    first, second = again.step(0), wrapped.step(0)
    assert first[1] == second[1]
    assert again.unwrapped._sutton_barto_reward  # type: ignore[attr-defined]


def test_environment_by_id_takes_options_and_limit() -> None:
    environment = make_environment(EnvironmentInfo("CartPole-v1", max_episode_steps=3), render_mode="rgb_array")
    assert environment.render_mode == "rgb_array"
    environment.reset(seed=0)
    assert [environment.step(step % 2)[3] for step in range(3)] == [False, False, True]


def test_fields_of_older_specifications_are_left_out() -> None:
    old = '{"id": "CartPole-v1", "entry_point": "gymnasium.envs.classic_control.cartpole:CartPoleEnv", '
    old += '"max_episode_steps": 9, "order_enforce": true, "autoreset": false, "apply_api_compatibility": false, '
    old += '"kwargs": {}, "additional_wrappers": []}'
    environment = make_environment(from_spec(old))
    assert environment.spec is not None
    assert environment.spec.max_episode_steps == 9


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (EnvironmentInfo("NoSuchTask-v0"), "NoSuchTask-v0 cannot be made"),
        (from_spec('{"id": "Maze-v0", "entry_point": "d4rl_nowhere.maze:Maze"}'), "Maze-v0"),
    ],
)
def test_an_environment_that_cannot_be_made_costs_one_line(info: EnvironmentInfo, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_environment(info)
    assert "\n" not in str(caught.value)


def test_sums_over_pieces_are_those_over_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    rewards = random.normal(1e3, 1.0, 400).astype(np.float32)
    offsets = np.array([0, 3, 4, 250, 251, 400])
    bounds = list(itertools.pairwise(offsets))
    exact = [rewards[a:b].astype(np.float64) for a, b in bounds]
    to_go = np.concatenate([np.cumsum(part[::-1])[::-1] for part in exact]).astype(np.float32)
    monkeypatch.setattr(episode_module, "_STEPS_AT_ONCE", 64)
    np.testing.assert_array_equal(episode_module.returns_to_go(rewards, offsets), to_go)
    one = np.ones((400, 1))
    parts: Any = {"observations": one, "actions": one, "rewards": rewards, "final_observations": np.ones((5, 1))}
    flags: Any = {"terminated": np.ones(5, bool), "truncated": np.zeros(5, bool)}
    box = spaces.Box(-np.inf, np.inf, (1,))
    episodes = episode_module.build_episodes(
        name="x", lengths=np.diff(offsets), observation_space=box, action_space=box, **parts, **flags
    )
    np.testing.assert_allclose(episodes.returns, [part.sum() for part in exact], rtol=1e-15)
    np.testing.assert_allclose(
        episode_module.spread(rewards), statistics.pstdev(rewards.astype(float).tolist()), rtol=1e-12
    )
    chosen = episodes.select([4, 0, 2])
    expected = [rewards[slice(*bounds[i])] for i in (4, 0, 2)]
    np.testing.assert_array_equal(chosen.rewards, np.concatenate(expected))
