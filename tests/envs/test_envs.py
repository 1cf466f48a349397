"""Registered ids: partial observations, discovery and refusals."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fresh
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from worlds import drift_episodes

from minrl.data.environment import EnvironmentInfo, check_trusted, make_environment
from minrl.data.registration import register
from minrl.data.task import Task
from minrl.envs import MaskObservation, PreviousReward
from minrl.system.mujoco import quiet_mujoco

OURS = sorted(name for name in gymnasium.registry if name.startswith("minrl/"))
BOX2D = find_spec("Box2D") is not None
# What is hidden from the observation of Gymnasium's task.
VELOCITIES = {
    "minrl/CartPoleNoVel-v1": ("CartPole-v1", [1, 3]),
    "minrl/PendulumNoVel-v1": ("Pendulum-v1", [2]),
    "minrl/MountainCarContinuousNoVel-v0": ("MountainCarContinuous-v0", [1]),
    "minrl/AcrobotNoVel-v1": ("Acrobot-v1", [4, 5]),
    "minrl/LunarLanderNoVel-v3": ("LunarLander-v3", [2, 3, 5]),
    "minrl/LunarLanderContinuousNoVel-v3": ("LunarLanderContinuous-v3", [2, 3, 5]),
}
ROBOTS = sorted({name.rsplit("-", 2)[0].removeprefix("minrl/") for name in OURS if "-P-v" in name or "-V-v" in name})


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    quiet_mujoco()


def needs(name: str) -> None:
    if "LunarLander" in name and not BOX2D:
        pytest.skip("Box2D is not installed")


@pytest.mark.parametrize("name", OURS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_s_checker_passes(name: str) -> None:
    needs(name)
    env = gymnasium.make(name)
    check_env(env, skip_render_check=True)
    assert env.spec is not None
    # The record in a data set or a checkpoint restores the same environment.
    again = make_environment(EnvironmentInfo(name, spec=env.spec.to_json()))
    assert str(again) == str(env)
    assert again.observation_space == env.observation_space


def rollouts(*envs: Any, steps: int = 30) -> Any:
    """Yield observations of several environments under the same actions, side by side."""
    envs[0].action_space.seed(0)
    yield [env.reset(seed=3)[0] for env in envs]
    for _ in range(steps):
        action = envs[0].action_space.sample()
        made = [env.step(action) for env in envs]
        assert all(step[1:4] == made[0][1:4] for step in made)
        yield [step[0] for step in made]
        if made[0][2] or made[0][3]:
            return


@pytest.mark.parametrize("name", VELOCITIES)
def test_velocities_are_cut_out_or_zeroed(name: str) -> None:
    needs(name)
    base, hidden = VELOCITIES[name]
    full, cut, zeroed = gymnasium.make(base), gymnasium.make(name), gymnasium.make(name, zeroed=True)
    assert isinstance(full.observation_space, spaces.Box)
    assert cut.observation_space == spaces.Box(
        np.delete(full.observation_space.low, hidden), np.delete(full.observation_space.high, hidden)
    )
    assert zeroed.observation_space == full.observation_space
    for everything, part, blanked in rollouts(full, cut, zeroed):
        np.testing.assert_array_equal(part, np.delete(everything, hidden))
        assert part.dtype == blanked.dtype == everything.dtype
        expected = everything.copy()
        expected[hidden] = 0
        np.testing.assert_array_equal(blanked, expected)
    assert cut.spec is not None
    assert (cut.spec.max_episode_steps, cut.spec.reward_threshold) == (
        gymnasium.spec(base).max_episode_steps,
        gymnasium.spec(base).reward_threshold,
    )


@pytest.mark.skipif(BOX2D, reason="Box2D is installed")
@pytest.mark.parametrize("name", ["minrl/LunarLanderNoVel-v3", "minrl/LunarLanderContinuousNoVel-v3"])
def test_missing_box2d_is_named_with_its_command(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^environment {name} needs box2d: pip install 'gymnasium\[box2d\]'$"):
        make_environment(EnvironmentInfo(name))
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r'pip install "gymnasium\[box2d\]"'):
        gymnasium.make(name)


def seen_by(robot: str, world: Any) -> dict[str, Any]:
    """Return positions and velocities of the simulation, in the form in which the full observation shows them."""
    qpos, qvel = world.data.qpos, world.data.qvel
    if robot == "InvertedDoublePendulum":
        positions = np.concatenate([qpos[:1], np.sin(qpos[1:]), np.cos(qpos[1:])])
        return {"P": positions, "V": np.clip(qvel, -10, 10)}
    if robot == "Reacher":
        reach = world.get_body_com("fingertip") - world.get_body_com("target")
        return {"P": np.concatenate([np.cos(qpos[:2]), np.sin(qpos[:2]), qpos[2:], reach[:2]])}
    hidden = {"Ant": 2, "Humanoid": 2, "Swimmer": 2, "InvertedPendulum": 0}.get(robot, 1)
    return {"P": qpos[hidden:], "V": np.clip(qvel, -10, 10) if robot in ("Hopper", "Walker2d") else qvel}


@pytest.mark.parametrize("robot", ROBOTS)
def test_robots_show_positions_or_velocities(robot: str) -> None:
    pytest.importorskip("mujoco")
    envs = {part: gymnasium.make(f"minrl/{robot}-{part}-v5") for part in "PV" if f"minrl/{robot}-{part}-v5" in OURS}
    full = gymnasium.make(f"{robot}-v5")
    for everything, *parts in rollouts(full, *envs.values()):
        for (name, env), part in zip(envs.items(), parts, strict=True):
            assert env.observation_space.contains(part)
            np.testing.assert_array_equal(part, seen_by(robot, env.unwrapped)[name])
            # Equal to a run with the full observation.
            width = len(part)
            runs = [everything[i : i + width] for i in range(len(everything) - width + 1)]
            assert robot == "Reacher" or any(np.array_equal(part, run) for run in runs)


def test_an_unknown_robot_is_refused() -> None:
    """Make only Gymnasium's own tasks, also where a checkpoint of unknown origin names another."""
    with pytest.raises(ValueError, match='unknown MuJoCo task "this:Evil-v0"'):
        make_environment(EnvironmentInfo("minrl/Hopper-P-v5", {"base": "this:Evil-v0"}))
    with pytest.raises(ValueError, match='unknown part "qvel"; choose from qpos'):
        gymnasium.make("minrl/Reacher-P-v5", part="qvel")


def test_ids_are_found_without_naming_the_module() -> None:
    """Find them in a process that has not imported the module, and with its name where Gymnasium alone is used."""
    program = """
import sys
import gymnasium
from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.data.task import Task
from minrl.data.environment import check_trusted
assert "minrl.envs" not in sys.modules
info = EnvironmentInfo("minrl/CartPoleNoVel-v1")
check_trusted(info)
print(make_environment(info).observation_space.shape, EnvironmentInfo("minrl/RepeatFirst-v0").to_spec()[:30])
"""
    done = fresh.run(program)
    assert done.stdout == '(2,) {"id": "minrl/RepeatFirst-v0",\n', done.stderr
    program = "import gymnasium; print(gymnasium.make('minrl.envs:minrl/RepeatFirst-v0').spec.id)"
    done = fresh.run(program)
    assert done.stdout == "minrl/RepeatFirst-v0\n", done.stderr


def test_unknown_ids_are_answered_in_one_line() -> None:
    for name, message in {
        "minrl/CartPolNoVel-v1": "CartPoleNoVel",
        "minrl/CartPoleNoVel-v7": "`v1`",
    }.items():
        with pytest.raises(ValueError, match=f"environment {name} cannot be made: .*{message}") as caught:
            make_environment(EnvironmentInfo(name))
        assert "\n" not in str(caught.value)


def test_modules_of_other_packages_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find them by their entry points; one that cannot be imported is named."""
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[minrl.environments]\nelsewhere = elsewhere_worlds\n")
    module = tmp_path / "elsewhere_worlds.py"
    module.write_text("import gymnasium\ngymnasium.register('Elsewhere-v0', 'minrl.envs.repeat:repeat_first')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        register("Elsewhere-v0")
        assert check_trusted(EnvironmentInfo("Elsewhere-v0")).id == "Elsewhere-v0"
    finally:
        gymnasium.registry.pop("Elsewhere-v0", None)
    del sys.modules["elsewhere_worlds"]
    module.write_text("import there_is_no_such_module\n")
    with pytest.raises(ValueError, match=r"environments of elsewhere \(elsewhere_worlds\) cannot be imported"):
        make_environment(EnvironmentInfo("Elsewhere-v1"))


def test_a_checkpoint_may_name_our_ids() -> None:
    name = "minrl/CartPoleNoVel-v1"
    env = gymnasium.make(name, zeroed=True)
    assert env.spec is not None
    task = Task.of(drift_episodes())
    for info in (EnvironmentInfo(name), EnvironmentInfo(name, spec=env.spec.to_json())):
        assert check_trusted(info).id == name
        read = Task.from_dict(replace(task, environment=info).to_dict())
        assert make_environment(read.known_environment()).spec is not None
    stolen = env.spec.to_json().replace("minrl.envs.classic:cartpole", "elsewhere:cartpole")
    with pytest.raises(ValueError, match="is not the registered"):
        check_trusted(EnvironmentInfo(name, spec=stolen))


@pytest.mark.skipif(find_spec("popgym") is not None, reason="popgym is installed")
def test_missing_popgym_is_named_with_its_command() -> None:
    info = EnvironmentInfo("popgym-RepeatFirstEasy-v0")
    for ask in (make_environment, check_trusted, EnvironmentInfo.to_spec):
        with pytest.raises(
            ValueError, match="environment popgym-RepeatFirstEasy-v0 needs popgym: pip install 'popgym'"
        ):
            ask(info)  # type: ignore[operator]


@pytest.mark.parametrize(("keep", "message"), [([4], "from 0 to 3"), ([-1], "from 0 to 3"), ([], "from 0 to 3")])
def test_a_mask_keeps_existing_columns_only(keep: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskObservation(gymnasium.make("CartPole-v1"), keep)
    with pytest.raises(ValueError, match="Box with one axis"):
        MaskObservation(gymnasium.make("minrl/RepeatFirst-v0"), [0])


def test_a_user_s_mask_is_in_the_specification() -> None:
    env = MaskObservation(gymnasium.make("CartPole-v1"), (3, 0))
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    full, _ = gymnasium.make("CartPole-v1").reset(seed=0)
    np.testing.assert_array_equal(again.reset(seed=0)[0], full[[3, 0]])


class Coded(gymnasium.Env[Any, Any]):
    """Environment of one observation space with rewards 1, 2, 3."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        self.observation_space = space
        space.seed(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.observation_space.sample(), float(self.count), self.count == 3, False, {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.Box(-1, 1, (2,), np.float64),
        spaces.Box(0, 255, (4, 4, 3), np.uint8),
        spaces.Discrete(5),
        spaces.Dict({"place": spaces.Discrete(3)}),
    ],
    ids=str,
)
def test_the_previous_reward_is_observed(space: gymnasium.Space[Any]) -> None:
    env = PreviousReward(Coded(space))

    def shown(observation: Any) -> float:
        assert env.observation_space.contains(observation)
        if isinstance(observation, np.ndarray):
            assert observation.shape == (space.shape[0] + 1,)  # type: ignore[index]
            return float(observation[-1])
        assert observation.keys() == (
            {"place", "reward"} if isinstance(space, spaces.Dict) else {"observation", "reward"}
        )
        return float(observation["reward"][0])

    for _ in range(2):
        assert shown(env.reset(seed=0)[0]) == 0.0
        for reward in (1.0, 2.0, 3.0):
            observation, given, *_ = env.step(0)
            assert shown(observation) == given == reward


def test_a_reward_is_not_shown_twice() -> None:
    with pytest.raises(ValueError, match='has a part "reward" already'):
        PreviousReward(PreviousReward(Coded(spaces.Discrete(2))))
