"""Spaces of a flat HDF5 file: flags, attributes and an environment come before a guess, which is reported."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from test_data_d4rl import write
from test_data_minari import folders  # noqa: F401

from minrl.data import EnvironmentInfo, load, make_environment
from minrl.data.listing import import_file
from minrl.data.space_text import parse_space, to_json
from minrl.data.task import Task

pytestmark = pytest.mark.usefixtures("folders")
STEPS = 12
ROWS = np.arange(STEPS)


class Dial(gymnasium.Env[Any, Any]):
    """Environment of four choices whose observation is the number of the step."""

    observation_space = spaces.Discrete(64)
    action_space = spaces.Discrete(4)

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.first, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.first, 1.0, True, False, {}


@pytest.fixture
def dial() -> Iterator[str]:
    gymnasium.register("Dial-v0", entry_point=Dial, kwargs={"first": 3}, max_episode_steps=7)
    yield "Dial-v0"
    del gymnasium.registry["Dial-v0"]


def flat(path: Path, **fields: Any) -> str:
    return f"hdf5:{write(path, STEPS, next_observations=None, **fields)}"


def test_the_environment_s_space_includes_choices_that_the_data_lack(tmp_path: Path, dial: str) -> None:
    name = flat(tmp_path / "flat.hdf5", observations=ROWS, actions=ROWS % 3)
    guessed = load(name)
    assert guessed.action_space == spaces.Discrete(3)
    assert isinstance(guessed.observation_space, spaces.Box)
    episodes = load(name, environment=dial)
    assert (episodes.observation_space, episodes.action_space) == (Dial.observation_space, Dial.action_space)
    np.testing.assert_array_equal(episodes.observations, np.eye(64)[ROWS])
    np.testing.assert_array_equal(episodes.actions, np.eye(4)[ROWS % 3])
    Task.of(episodes).check_fits(Dial.observation_space, Dial.action_space, dial)
    # The user's statement comes before the environment's.
    said = load(name, environment=dial, action_space="Discrete(9)", observation_space=spaces.Discrete(50))
    assert (said.observation_space, said.action_space) == (spaces.Discrete(50), spaces.Discrete(9))


def test_attributes_of_the_file_state_spaces_and_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "flat.hdf5", observations=ROWS - 2, actions=ROWS % 3 - 1, next_observations=None)
    with h5py.File(path, "a") as file:
        file.attrs["observation_space"] = to_json(spaces.Discrete(20, start=-2))
        file.attrs["action_space"] = "Discrete(5, start=-2)"
        file.attrs["env_id"] = "CartPole-v1"
        file.attrs["env_kwargs"] = json.dumps({"sutton_barto_reward": True})
        file.attrs["ref_min_score"], file.attrs["ref_max_score"] = 1.0, 3.0
    episodes = load(f"hdf5:{path}")
    np.testing.assert_array_equal(episodes.observations, np.eye(20)[ROWS])
    np.testing.assert_array_equal(episodes.actions, np.eye(5)[ROWS % 3 + 1])
    assert episodes.environment == EnvironmentInfo("CartPole-v1", {"sutton_barto_reward": True})
    assert episodes.reference_scores == (1.0, 3.0)


def test_a_file_names_no_code_to_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('run')")
    path = write(tmp_path / "flat.hdf5")
    sys.path.insert(0, str(tmp_path))
    try:
        for attributes in (
            {"env_id": "stranger:Any-v0"},
            {"env_spec": json.dumps({"id": "CartPole-v1", "entry_point": "stranger:Any", "kwargs": {}})},
        ):
            with h5py.File(path, "a") as file:
                file.attrs.update(attributes)
            assert load(f"hdf5:{path}").environment is None
            assert "environment is ignored" in caplog.text
            caplog.clear()
    finally:
        sys.path.remove(str(tmp_path))
    assert "stranger" not in sys.modules


@pytest.mark.parametrize(
    ("actions", "space"),
    [
        (ROWS % 5, spaces.Discrete(5)),
        ((ROWS % 5)[:, None].astype(np.uint8), spaces.Discrete(5)),
        (ROWS % 3 - 1, spaces.Box(-1, 1, (1,), np.int64)),
        (ROWS % 3 + 1, spaces.Box(1, 3, (1,), np.int64)),
        (np.minimum(ROWS * 40, 255).astype(np.uint8), spaces.Box(0, 255, (1,), np.uint8)),
        (ROWS * 20_000, spaces.Box(0, 220_000, (1,), np.int64)),
        (np.full(STEPS, 7), spaces.Box(7, 8, (1,), np.int64)),
        (np.stack([ROWS % 2, -(ROWS % 4)], 1), spaces.Box(np.array([0, -3]), np.array([1, 0]), (2,), np.int64)),
        ((ROWS % 2).astype(np.bool_), spaces.MultiBinary((1,))),
    ],
)
def test_few_whole_numbers_from_zero_alone_are_choices(tmp_path: Path, actions: np.ndarray, space: Any) -> None:
    episodes = load(flat(tmp_path / "flat.hdf5", actions=actions))
    assert episodes.action_space == space
    expected = np.eye(5)[ROWS % 5] if space == spaces.Discrete(5) else actions.reshape(STEPS, -1).astype(np.float64)
    np.testing.assert_array_equal(episodes.actions, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64])
def test_whole_observations_are_numbers_whatever_their_size(tmp_path: Path, dtype: Any) -> None:
    values = np.linspace(0, min(200_000, np.iinfo(dtype).max), STEPS).astype(dtype)
    observations = np.stack([values, values[::-1]], axis=1)
    episodes = load(flat(tmp_path / "flat.hdf5", observations=observations))
    assert isinstance(episodes.observation_space, spaces.Box)
    assert episodes.observations.shape == (STEPS, 2)
    np.testing.assert_array_equal(episodes.observations, observations)
    assert episodes.observation_space.contains(episodes.observation_space.sample())


def test_a_guess_is_reported_with_its_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture, dial: str) -> None:
    name = flat(tmp_path / "flat.hdf5", observations=ROWS, actions=ROWS % 3)
    load(name)
    (line,) = [text for text in caplog.messages if "guessed" in text]
    assert "actions Discrete(3)" in line
    assert "--action-space" in line
    caplog.clear()
    load(name, environment=dial)
    assert not [text for text in caplog.messages if "guessed" in text]


def test_the_user_s_statement_replaces_a_faulty_attribute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dial: str
) -> None:
    path = write(tmp_path / "flat.hdf5", observations=ROWS, actions=ROWS % 3, next_observations=None)
    with h5py.File(path, "a") as file:
        file.attrs.update({"action_space": "Discreet(3)", "env_id": "Nowhere-v0", "env_kwargs": "{"})
    with pytest.raises(ValueError, match=r"attribute action_space: 'Discreet\(3\)' is not a space"):
        load(f"hdf5:{path}")
    assert load(f"hdf5:{path}", action_space="Discrete(4)").action_space == spaces.Discrete(4)
    assert any(f"{path}: attribute env_kwargs: '{{' is no JSON" in text for text in caplog.messages)
    (line,) = [text for text in caplog.messages if "guessed" in text]
    assert "does not state its observation space, guessed: observations Box" in line
    assert "--action-space" not in line
    caplog.clear()
    assert load(f"hdf5:{path}", environment=dial).action_space == Dial.action_space
    assert not [text for text in caplog.messages if "attribute" in text or "guessed" in text]
    with h5py.File(path, "a") as file:
        file.attrs.update({"action_space": "Discrete(3)", "env_id": "CartPole-v1", "env_kwargs": "[1]"})
    assert load(f"hdf5:{path}").environment is None
    assert any("attribute env_kwargs: '[1]' is no JSON object" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"action_space": "Discrete(2)"},
            r"episode 0, step 2: \[2\] outside the declared space in actions, Discrete\(2\)$",
        ),
        ({"action_space": "Box(-1, 1, (3,))"}, r"actions has 1 values a step, the stated space Box.* has 3"),
        ({"action_space": "Discreet(2)"}, r"action space: 'Discreet\(2\)' is not a space, which reads like \"Discrete"),
        ({"action_space": "__import__('os').abort()"}, "is not a space"),
        ({"observation_space": "Box(low, 1)"}, "observation space: .* is not a space"),
        ({"environment": "Nowhere-v0"}, "environment Nowhere-v0 cannot be made"),
    ],
)
def test_a_statement_that_does_not_fit_is_one_line(tmp_path: Path, said: dict[str, str], message: str) -> None:
    name = flat(tmp_path / "flat.hdf5", actions=ROWS % 3)
    with pytest.raises(ValueError, match=message) as caught:
        load(name, **said)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("actions", [ROWS % 3 + 0.5, np.where(ROWS == 4, 1e20, ROWS % 3)])
def test_a_real_number_is_refused_as_a_choice(tmp_path: Path, actions: np.ndarray) -> None:
    with pytest.raises(ValueError, match="outside the declared space in actions"):
        load(flat(tmp_path / "flat.hdf5", actions=actions), action_space="Discrete(4)")
    whole = load(flat(tmp_path / "whole.hdf5", actions=(ROWS % 3).astype(np.float32)), action_space="Discrete(4)")
    np.testing.assert_array_equal(whole.actions, np.eye(4)[ROWS % 3])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 4]),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2,)),
        spaces.Box(np.array([-1.0, 0.5]), np.array([1.0, np.inf]), dtype=np.float64),
        spaces.Box(0, 255, (4, 4, 3), np.uint8),
    ],
    ids=str,
)
def test_a_space_is_read_as_gymnasium_prints_it(space: spaces.Space[Any]) -> None:
    assert parse_space(str(space), "here") == space
    assert parse_space(to_json(space), "here") == space
    assert parse_space("spaces.Box(low=-np.inf, high=2, shape=(1,), dtype=np.float32)", "") == spaces.Box(
        -np.inf, 2, (1,)
    )


def test_an_imported_file_keeps_its_environment(tmp_path: Path, dial: str) -> None:
    path = write(tmp_path / "mine.hdf5", STEPS, next_observations=None, observations=ROWS, actions=ROWS % 3)
    imported = import_file(path, environment=EnvironmentInfo(dial, {"first": 5}))
    assert (imported.observation_space, imported.action_space) == (Dial.observation_space, Dial.action_space)
    again = load(imported.name)
    assert again.environment is not None
    with_kwargs = make_environment(again.environment)
    assert with_kwargs.reset()[0] == 5
    assert with_kwargs.spec is not None
    assert with_kwargs.spec.max_episode_steps == 7


def test_a_module_beside_is_imported_only_where_its_name_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owntasks.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv as Own\n"
        "gymnasium.register('Own-v0', entry_point='owntasks:Own')\n"
    )
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(Path.cwd()))])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="environment Own-v0 cannot be made"):
        make_environment(EnvironmentInfo("Own-v0"))
    assert make_environment(EnvironmentInfo("owntasks:Own-v0")).unwrapped.spec is not None
    del gymnasium.registry["Own-v0"]
