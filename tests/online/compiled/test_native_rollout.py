"""Rollouts of compiled environments as one call against the same rollouts step by step, with equal random numbers."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback

import minrl.envs
from minrl.agents.ppo import RecurrentPPO
from minrl.envs.compiled import Task
from minrl.envs.random_streams import uniform
from minrl.envs.vector import CompiledVectorEnv
from minrl.online.compiled.rollout import native_rollout
from minrl.online.vector import as_vec_env

__all__ = ["minrl"]

ENVS, STEPS, ROLLOUTS = 3, 24, 3


class EachStep(BaseCallback):
    """A callback that wants every step, which is then taken one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[Any] = []

    def _on_step(self) -> bool:
        self.rewards.append(self.locals["rewards"].copy())  # values are added in place
        return True


def start(state: Any, stream: Any, settings: Any) -> None:
    state[0] = uniform(stream, 0.0, 3.0)


def drift(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Move by all parts of an action; end beyond the border, and at times give up."""
    total = 0.0
    for i in range(len(action)):
        total += (i + 1) * action[i]
    state[0] += 0.2 + 0.1 * total
    return total, state[0] > 6.0, 4.0 < state[0] < 4.5


def digits(state: Any, observation: Any, settings: Any) -> None:
    observation[0], observation[1] = int(state[0]) % 4, int(state[0] * 5) % 6


def task(action_space: Any) -> Task:
    return Task(spaces.MultiDiscrete([4, 6]), action_space, 1, start, drift, digits)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "numbers and choices": ("minrl/CartPoleNoVel-v1", {"max_episode_steps": 9}),
    "numbers and a Box": ("minrl/PendulumNoVel-v1", {"max_episode_steps": 10}),
    "choices": ("minrl/RepeatPrevious-v0", {"max_episode_steps": 7}),
    "several choices": (task(spaces.MultiDiscrete([3, 2])), {}),
    "yes and no": (task(spaces.MultiBinary(3)), {"max_episode_steps": 11}),
}


def learned(case: str, policy: str, callback: Any = None, **settings: Any) -> RecurrentPPO:
    """Return a model after some rollouts, without learning from them; `policy` is a policy's name or a cell's."""
    made, options = CASES[case]
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP, **options}
    if isinstance(made, str):
        envs: Any = gymnasium.make_vec(made, ENVS, vectorization_mode="vector_entry_point", **same_step)
    else:
        envs = CompiledVectorEnv(made, ENVS, **same_step)
    kwargs = {"lstm_hidden_size": 16} if policy == "MlpLstmPolicy" else {"width": 16}
    kwargs |= {} if policy.endswith("Policy") else {"cell": policy}
    name = policy if policy.endswith("Policy") else "MlpPolicy"
    model = RecurrentPPO(
        name, as_vec_env(envs), learning_rate=0.0, n_steps=STEPS, batch_size=STEPS, n_epochs=1, seed=3, device="cpu",
        gamma=0.9, policy_kwargs=kwargs, **settings,
    )  # fmt: skip
    # Values that a time limit adds to rewards, large enough to be seen.
    with torch.no_grad():
        model.policy.value_net.bias += 2.0
    return model.learn(ROLLOUTS * STEPS * ENVS, callback=callback)


# Kernels of its own for each environment and policy.
@pytest.mark.parametrize(
    ("case", "policy"),
    [
        *((case, "MlpPolicy") for case in CASES if case != "choices"),
        *(("numbers and choices", policy) for policy in ("MlpLstmPolicy", "minlstm", "gru", "lstm")),
        pytest.param("choices", "MlpPolicy", marks=pytest.mark.slow),
        *(
            pytest.param(case, "MlpLstmPolicy", marks=pytest.mark.slow)
            for case in CASES
            if case != "numbers and choices"
        ),
    ],
)
def test_one_call_fills_the_buffer_as_single_steps_do(case: str, policy: str) -> None:
    each = EachStep()
    ours = learned(case, policy, segment_length=10)
    drawn = torch.get_rng_state()
    theirs = learned(case, policy, each, segment_length=10)
    # So that a run may change from one way to the other.
    assert torch.equal(drawn, torch.get_rng_state())
    got, wanted = ours.rollout_buffer, theirs.rollout_buffer
    for name in ("observations", "actions", "episode_starts"):
        assert getattr(got, name).dtype == getattr(wanted, name).dtype
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), rtol=1e-6, atol=1e-6, err_msg=name)
    for name in ("values", "log_probs", "rewards", "advantages", "returns"):
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), rtol=1e-5, atol=1e-5, err_msg=name)
    torch.testing.assert_close(torch.stack(got.states), torch.stack(wanted.states), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours._last_state, theirs._last_state, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours._last_obs, theirs._last_obs, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours._last_episode_starts, theirs._last_episode_starts)
    assert ours.num_timesteps == theirs.num_timesteps == ROLLOUTS * STEPS * ENVS
    # A time limit was reached in the last rollout, and its reward holds a value.
    assert np.abs(wanted.rewards - np.stack(each.rewards[-STEPS:])).max() > 0
    for mine, other in zip(ours.ep_info_buffer, theirs.ep_info_buffer, strict=True):
        assert mine["l"] == other["l"]
        assert mine["r"] == pytest.approx(other["r"], rel=1e-6)


def setup(model: RecurrentPPO, callback: Any = None) -> Any:
    return native_rollout(model, model.env, model._setup_learn(1, callback)[1])


def test_what_needs_single_steps_gets_them() -> None:
    model = learned("numbers and choices", "MlpPolicy")
    assert setup(model) is not None
    assert setup(model, CallbackList([ProgressBarCallback()])) is not None
    assert setup(model, EachStep()) is None
    assert setup(model, [EachStep()]) is None
    assert setup(model, lambda local, world: True) is None
    reads = RecurrentPPO("MlpPolicy", model.env, policy_kwargs={"width": 16, "previous_action": True}, device="cpu")
    assert setup(reads) is None
    for envs in (
        gymnasium.make_vec("minrl/CartPoleNoVel-v1", 2, vectorization_mode="vector_entry_point"),
        gymnasium.make_vec("minrl/CartPoleNoVel-v1", 2, vectorization_mode="sync"),
    ):
        assert setup(RecurrentPPO("MlpPolicy", as_vec_env(envs), policy_kwargs={"width": 16}, device="cpu")) is None


def broken(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    state[0] += 1.0
    return np.nan if state[0] > 7.0 else 0.0, False, False


def test_a_reward_that_is_not_finite_is_named_with_its_step() -> None:
    made = Task(spaces.MultiDiscrete([4, 6]), spaces.Discrete(2), 1, start, broken, digits)
    envs = as_vec_env(CompiledVectorEnv(made, 2, autoreset_mode="SameStep"))
    messages = []
    for callback in (None, EachStep()):
        model = RecurrentPPO("MlpPolicy", envs, n_steps=16, seed=0, policy_kwargs={"width": 16}, device="cpu")
        with pytest.raises(ValueError, match="finite") as error:
            model.learn(32, callback=callback)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
