"""A critic that sees more than the actor, or has another cell: states, resets, ratios, acting, export and settings."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from ppo_runs import assert_equal, full_from, weights, whole, words
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import minrl
from minrl.agents.__main__ import main
from minrl.agents.ppo import RecurrentPPO
from minrl.evaluate import evaluate
from minrl.export.onnx import export_onnx
from minrl.online.compiled.conditions import obstacle
from minrl.play import Player
from tests.helpers.recall import Recall, collected


class Beside(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Recall, with what has to be remembered as a further key that only the critic may see."""

    def __init__(self, env: Any = None) -> None:
        super().__init__(Recall() if env is None else env)
        seen = self.env.observation_space
        self.observation_space = spaces.Dict({"state": seen, "seen": seen, "step": spaces.Discrete(12, start=2)})

    def observation(self, observation: Any) -> Any:
        return {"state": self.env.unwrapped.first, "seen": observation, "step": 2 + self.env.unwrapped.left}  # type: ignore[attr-defined]


CRITICS: dict[str, dict[str, Any]] = {
    "keys": {"critic_keys": ["state"]},
    "no memory": {"critic_keys": ["state", "step"], "critic": {"cell": None, "width": 12}},
    "state alone": {"critic_keys": ["state"], "critic": {"keys": ["state"], "cell": "none", "depth": 2}},
    "other cell": {"critic": {"cell": "gru", "width": 6, "depth": 2, "conv": 0, "cell_options": {}}},
    "previous": {"critic_keys": ["state"], "previous_action": True, "critic": {"cell": "minlstm"}},
}


def model_of(name: str, **options: Any) -> RecurrentPPO:
    settings: dict[str, Any] = {"n_steps": 20, "batch_size": 20, "n_epochs": 2, "seed": 0, "device": "cpu"}
    kwargs = {"width": 8, "depth": 1, "net_arch": {"pi": [5], "vf": [7]}, **CRITICS[name]}
    return RecurrentPPO("MultiInputPolicy", Beside(), policy_kwargs=kwargs, **settings, **options)


def drawn(model: RecurrentPPO, count: int, random: np.random.Generator) -> dict[str, Any]:
    return {
        "state": random.normal(size=(count, 3)).astype(np.float32),
        "seen": random.normal(size=(count, 3)).astype(np.float32),
        "step": random.integers(2, 14, size=count),
    }


@pytest.mark.parametrize("name", CRITICS)
def test_segments_are_the_steps_with_resets_and_a_carried_state(name: str) -> None:
    # First-ratio 1: acting step by step and training by a scan agree; values of the buffer are the scan's, too.
    model = model_of(name, state_refresh="epoch")
    assert obstacle(model.policy) == "the critic has settings of its own"
    buffer = collected(model)
    policy = model.policy
    batch = next(iter(buffer.get(20)))
    values, log_prob, _ = policy.evaluate_actions(batch.observations, batch.actions.long().flatten())  # type: ignore[arg-type]
    torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values.flatten(), batch.old_values, rtol=1e-4, atol=1e-5)
    assert (buffer.episode_starts[1:] > 0).any()  # resets were among the steps
    model.train()
    assert policy.first_ratio_dev < 1e-5
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


@pytest.mark.parametrize("name", [name for name in CRITICS if "critic_keys" in CRITICS[name]])
def test_acting_never_reads_the_keys_of_the_critic(name: str) -> None:
    model, random = model_of(name), np.random.default_rng(0)
    hidden, states = CRITICS[name]["critic_keys"], [None, None, None]
    for step in range(5):
        seen = drawn(model, 4, random)
        garbage = seen | {key: np.full_like(seen[key], 2 if key == "step" else np.nan) for key in hidden}
        left_out = {key: value for key, value in seen.items() if key not in hidden}
        starts = np.array([step == 0, step == 2, False, False])
        found = []
        for i, observation in enumerate((seen, garbage, left_out)):
            action, states[i] = model.predict(observation, states[i], starts, deterministic=True)
            found.append(action)
        for i in (1, 2):
            np.testing.assert_array_equal(found[0], found[i])
            np.testing.assert_array_equal(states[0][0], states[i][0])  # type: ignore[index]
    assert states[0][0].shape == (4, model.policy.acting_size)  # type: ignore[index]
    assert model.policy.acting_size == model.policy.memory_size  # type: ignore[operator]
    one = {key: value[0] for key, value in left_out.items()}
    assert np.shape(model.predict(one)[0]) == ()
    assert evaluate_policy(model, Beside(), 2, warn=False)[0] >= 0


def test_critic_sees_what_it_is_given() -> None:
    # The value depends on the key and on no other, the distribution of actions does not depend on it.
    model, random = model_of("state alone"), np.random.default_rng(1)
    policy, seen = model.policy, drawn(model, 6, random)
    first = policy.obs_to_tensor(seen)[0]
    state, reset = policy.initial_state(6), torch.ones(6, dtype=torch.bool)

    def outputs(changed: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        tensors: Any = {**first, **policy.obs_to_tensor({**seen, **changed})[0]}  # type: ignore[dict-item]
        torch.manual_seed(0)
        _, values, log_prob, _ = policy(tensors, state, reset)
        return values, log_prob

    values, log_prob = outputs({})
    other, same = outputs({"state": seen["state"] + 1})
    assert not torch.allclose(values, other)
    assert torch.equal(log_prob, same)
    same, other = outputs({"seen": seen["seen"] + 1})
    assert torch.equal(values, same)
    assert not torch.allclose(log_prob, other)


def test_saved_model_learns_on_as_the_one_that_went_on(tmp_path: Path) -> None:
    found = []
    for saves in (False, True):
        model = model_of("no memory")
        model.learn(40)
        if saves:
            model.save(tmp_path / "model")
            model = RecurrentPPO.load(tmp_path / "model", make_vec_env(Beside, 1, seed=0))
        else:
            model.set_env(make_vec_env(Beside, 1, seed=0))
        model.learn(40, reset_num_timesteps=False)
        found.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert torch.equal(found[0], found[1])


RUN: dict[str, Any] = {
    "env": "minrl/PendulumNoVel-v1", "steps": 96, "checkpoint_every": 32, "evaluate_every": 96, "evaluate_episodes": 1,
    "evaluate_max_steps": 20, "exact_resume": True, "vectorization": "auto",
}  # fmt: skip
PRIVILEGED = ["--env-kwargs", "state=true", "--critic-keys", "state", "--critic", "cell=none", "width=6"]


def test_run_is_resumed_exactly_and_acts_without_the_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [*PRIVILEGED, "--normalize-observations"]
    assert main([*words(tmp_path / "whole", **RUN), *settings]) == 0
    with full_from(64):
        assert main([*words(tmp_path / "cut", **RUN), *settings]) == 2
    assert main(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    agent: Any = minrl.load(tmp_path / "whole")
    assert agent.task.observation_size == 2
    assert agent.state_size == agent.policy.memory_size
    # In the environment with the state beside the observation, and by the player without it.
    assert len(evaluate(agent, episodes=1, max_episode_steps=10)[0].returns) == 1
    player = Player(agent, 2)
    acted = player.act({"observation": np.zeros((2, 2), np.float32)}, np.zeros(2), np.ones(2))
    again = Player(agent, 2).act(
        {"observation": np.zeros((2, 2), np.float32), "state": np.full((2, 3), np.nan, np.float32)},
        np.zeros(2), np.ones(2),
    )  # fmt: skip
    np.testing.assert_array_equal(acted, again)


@pytest.mark.slow
def test_exported_model_has_no_input_of_the_critic(tmp_path: Path) -> None:
    assert main([*words(tmp_path / "run", **RUN), *PRIVILEGED]) == 0
    agent: Any = minrl.load(tmp_path / "run")
    exported = export_onnx(agent, tmp_path / "model.onnx", steps=60)
    assert exported.inputs["observation"] == ("batch", 2)
    assert exported.inputs["state"] == ("batch", agent.policy.memory_size)
    assert exported.agreement.action <= 1e-5


def test_bad_settings_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kwargs, message in (
        ({"critic_keys": ["stat"]}, 'no key "stat"; did you mean "state"'),
        ({"critic_keys": "state"}, "is a list of keys"),
        ({"critic_keys": ["state", "seen", "step"]}, "leave the actor nothing to observe"),
        ({"critic_keys": ["state"], "critic": {"keys": ["seen"]}}, "leave out"),
        ({"critic": {"cel": "gru"}}, 'no option "cel"'),
        ({"critic": {"cell": "grue"}}, "grue"),
        ({"critic": {"cell": None, "cell_options": {"tau": 1}}}, "has no cell_options"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            RecurrentPPO("MultiInputPolicy", Beside(), policy_kwargs=kwargs)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="name parts of a Dict observation"):
        RecurrentPPO("MlpPolicy", Recall(), policy_kwargs={"critic_keys": ["state"]})
    for flags in (["--critic-keys", "state"], ["--env-kwargs", "state=true", "--critic-keys", "stat"]):
        assert main([*words(tmp_path / "run", env="minrl/PendulumNoVel-v1"), *flags]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    whole(tmp_path / "fine", steps=32, evaluate_every=0)
