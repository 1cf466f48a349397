"""Rewards as [r], arrays or tensors of one element equal plain ones."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from forked import minrl
from gymnasium import spaces
from ppo_models import small
from ppo_runs import whole
from worlds import own_folders  # noqa: F401

from minrl.agents.ppo_agent import PPOAgent, PPOConfig
from minrl.collect.record import collect
from minrl.data import EnvironmentInfo, load
from minrl.data.task import Task
from minrl.data.wrappers import scalar_reward
from minrl.evaluate import evaluate
from minrl.online.vector import as_vec_env
from minrl.play import Player
from minrl.runs.log import TIMESTEPS, read_log

FORMS: dict[str, Any] = {
    "float": float,
    "int": int,
    "list": lambda r: [r],
    "array": lambda r: np.array([r]),
    "scalar array": np.array,
    "matrix": lambda r: np.array([[r]], np.float32),
    "tensor": lambda r: torch.tensor([r]),
    "float32": np.float32,
}


class Payday(gymnasium.Env[Any, Any]):
    """Environment of five steps whose step t earns t: 1 + 2 + 3 + 4 + 5 = 15."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def __init__(self, form: str = "float") -> None:
        self.form = FORMS.get(form, lambda r: [r, r])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(2, np.float32), self.form(float(self.steps)), self.steps == 5, False, {}


@pytest.fixture(autouse=True)
def payday() -> Any:
    """Register `Payday-v0` with Gymnasium."""
    gymnasium.register("Payday-v0", entry_point=Payday, disable_env_checker=True)
    yield
    del gymnasium.registry["Payday-v0"]


def agent() -> PPOAgent:
    task = Task.in_environment(EnvironmentInfo("Payday-v0"), Payday.observation_space, Payday.action_space)
    return PPOAgent(PPOConfig(width=8, depth=1, previous_reward=True), task)


@pytest.mark.parametrize("form", FORMS)
def test_one_value_is_read_from_every_form_of_reward(form: str) -> None:
    assert scalar_reward(FORMS[form](3.0)) == 3.0


@pytest.mark.parametrize("form", ["list", "matrix", "tensor"])
def test_training_evaluation_and_collection_read_it(form: str, tmp_path: Path) -> None:
    whole(tmp_path / "run", env="Payday-v0", env_kwargs=f"form='{form}'", steps=32, log_every=1, evaluate_every=0)
    rows = read_log(tmp_path / "run", TIMESTEPS)
    assert {float(row["rollout/ep_rew_mean"]) for row in rows} == {15.0}
    info = EnvironmentInfo("Payday-v0", {"form": form})
    assert evaluate(agent(), info, episodes=2)[0].returns == (15.0, 15.0)
    written = collect("random", "Payday-v0", 2, "pay/day-v0", environment_options={"form": form}, progress=False)
    assert written.returns == (15.0, 15.0)
    np.testing.assert_array_equal(load(f"minari:{written.name}").rewards, np.tile([1, 2, 3, 4, 5], 2))


@pytest.mark.parametrize("form", ["list", "matrix"])
def test_the_python_api_reads_them_too(form: str) -> None:
    model = small("", Payday(form))
    model.learn(20)
    assert {episode["r"] for episode in model.ep_info_buffer or ()} == {15.0}
    # The value of the next state enters the rewards at time limits only.
    np.testing.assert_array_equal(
        model.rollout_buffer.rewards[:4, 0] - model.rollout_buffer.rewards[0, 0], [0, 1, 2, 3]
    )


def test_processes_of_their_own(tmp_path: Path) -> None:
    module = tmp_path / "paydays.py"
    module.write_text(
        "import gymnasium, numpy as np\n"
        "class Payday(gymnasium.Env):\n"
        "    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        self.steps = 0\n"
        "        return np.zeros(2, np.float32), {}\n"
        "    def step(self, action):\n"
        "        self.steps += 1\n"
        "        return np.zeros(2, np.float32), [float(self.steps)], self.steps == 5, False, {}\n"
        "gymnasium.register('Paydays-v0', entry_point=Payday, disable_env_checker=True)\n"
    )
    words = "train ppo --env paydays:Paydays-v0 --n-envs 2 --n-steps 16 --batch-size 16 --width 8 --depth 1 --steps 32"
    words += " --vectorization async --evaluate-every 0 --log-every 1 --threads 1 --out run"
    done = minrl(*words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(read_log(tmp_path / "run", TIMESTEPS)[-1]["rollout/ep_rew_mean"]) == 15.0


class Columns(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Vector environment of two, whose rewards are a column (2, 1)."""

    num_envs = 2
    single_observation_space, single_action_space = Payday.observation_space, Payday.action_space

    def __init__(self) -> None:
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, 2)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, 2)
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros((2, 2), np.float32), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        none = np.zeros(2, bool)
        return np.zeros((2, 2), np.float32), np.array([[1.0], [2.0]]), none, none, {}


def test_a_vector_environment_may_have_a_column_of_them() -> None:
    environments = as_vec_env(Columns())
    environments.reset()
    np.testing.assert_array_equal(environments.step(np.zeros(2, int))[1], [1.0, 2.0])


def test_a_player_reads_a_column_of_rewards() -> None:
    torch.manual_seed(0)
    actor = agent()
    results = []
    for rewards in (np.array([1.0, 2.0, 3.0]), np.array([[1.0], [2.0], [3.0]])):
        player = Player(actor, 3)
        for step in range(3):
            player.act(np.zeros((3, 2), np.float32), rewards, np.full(3, step == 0))
        results.append(player.state)
    assert torch.equal(*results)


def test_several_numbers_are_refused(tmp_path: Path) -> None:
    for bad in ([1.0, 2.0], [], None, "much", np.zeros(3)):
        if bad is not None:
            with pytest.raises(ValueError, match="a reward must be one number"):
                scalar_reward(bad)
    with pytest.raises(ValueError, match=r"gave the reward \[1.0, 1.0\]"):
        collect("random", "Payday-v0", 1, "pay/two-v0", environment_options={"form": "two"}, progress=False)
    with pytest.raises(ValueError, match=r"gave the reward \[1.0, 1.0\]"):
        evaluate(agent(), EnvironmentInfo("Payday-v0", {"form": "two"}), episodes=1)
