"""The LSTM policies against sb3-contrib's: equal actions, states, gradients and updates on equal weights.

Shapes: B environments or segments, T time, L layers, H hidden width.
"""

import inspect
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent import policies as contrib
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from minrl.agents.ppo import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy, RecurrentPPO
from minrl.online.inputs.segments import Segments

CRITICS: dict[str, dict[str, Any]] = {
    "own": {},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "none": {"enable_critic_lstm": False},
    "unshared features": {"share_features_extractor": False},
}
FLAT, IMAGE = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (1, 36, 36), np.uint8)
# Policy, sb3-contrib's, observations, options.
INPUTS: dict[str, tuple[Any, Any, spaces.Space[Any], dict[str, Any]]] = {
    "mlp": (MlpLstmPolicy, contrib.RecurrentActorCriticPolicy, FLAT, {"net_arch": {"pi": [7], "vf": [6, 5]}}),
    "cnn": (
        CnnLstmPolicy, contrib.RecurrentActorCriticCnnPolicy, IMAGE, {"features_extractor_kwargs": {"features_dim": 4}}
    ),
    "dict": (
        MultiInputLstmPolicy, contrib.RecurrentMultiInputActorCriticPolicy,
        spaces.Dict({"a": FLAT, "b": spaces.Discrete(4)}), {"net_arch": []},
    ),
}  # fmt: skip
BOX = spaces.Box(-1, 1, (2,), np.float32)
ACTIONS: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "box": (BOX, {}),
    "discrete": (spaces.Discrete(3), {}),
    "multidiscrete": (spaces.MultiDiscrete([2, 3]), {}),
    "multibinary": (spaces.MultiBinary(2), {}),
    # A wide distribution, so that log-likelihoods of sampled actions stay within single precision.
    "gsde": (BOX, {"use_sde": True, "log_std_init": 1.0}),
    "squashed gsde": (BOX, {"use_sde": True, "log_std_init": 1.0, "squash_output": True}),
}
# Every input with every critic and depth, and every kind of action with every critic: a distribution depends on input
# and depth through the LSTM's output alone.
COMBINATIONS = [
    *((kind, list(ACTIONS)[i % len(ACTIONS)], critic, layers)
      for i, (kind, critic, layers) in enumerate(product(INPUTS, CRITICS, [1, 2]))),
    *product(["mlp"], ACTIONS, CRITICS, [1]),
]  # fmt: skip
combined = pytest.mark.parametrize(("kind", "actions", "critic", "layers"), list(dict.fromkeys(COMBINATIONS)))


def twins(kind: str, actions: str, critic: str, layers: int, **options: Any) -> tuple[Any, Any]:
    """Build our policy and sb3-contrib's with the same weights, far from the initial ones."""
    ours, theirs, observations, of_kind = INPUTS[kind]
    space, of_actions = ACTIONS[actions]
    options = {"lstm_hidden_size": 6, "n_lstm_layers": layers, **of_kind, **of_actions, **CRITICS[critic], **options}
    first, second = (policy(observations, space, lambda _: 1e-3, **options) for policy in (ours, theirs))
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    first.load_state_dict(second.state_dict())
    return first, second


def sampled(space: spaces.Space[Any], *shape: int) -> Any:
    """Stack samples of `space`."""
    space.seed(0)
    rows = [space.sample() for _ in range(int(np.prod(shape)))]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([row[key] for row in rows]).reshape(*shape, *part.shape) for key, part in space.items()}
    return np.stack(rows).reshape(*shape, *(space.shape or ()))


@combined
def test_predict_gives_equal_actions_and_states(kind: str, actions: str, critic: str, layers: int) -> None:
    ours, theirs = twins(kind, actions, critic, layers)
    observations = sampled(ours.observation_space, 5, 3)
    starts = np.random.default_rng(0).random((5, 3)) < 0.3
    state, expected_state = None, None
    for t in range(5):
        step = {key: x[t] for key, x in observations.items()} if kind == "dict" else observations[t]
        action, state = ours.predict(step, state, starts[t], deterministic=True)
        expected, expected_state = theirs.predict(step, expected_state, starts[t], deterministic=True)
        np.testing.assert_allclose(action, expected, atol=1e-6, rtol=1e-6)
        assert len(state) == 2
        for part, expected_part in zip(state, expected_state, strict=True):
            assert part.shape == (layers, 3, 6)
            assert part.dtype == np.float32
            np.testing.assert_allclose(part, expected_part, atol=1e-6)


def packed(states: tuple[Tensor, Tensor]) -> Tensor:
    """Pack h and c (L, B, H) as our state: h | c of each layer in turn."""
    return torch.cat([part[layer] for layer in range(len(states[0])) for part in states], dim=1)


def loss_of(values: Tensor, log_prob: Tensor, entropy: Tensor | None, numbers: Tensor) -> Tensor:
    """Compute PPO's loss with advantages, returns and old log-likelihoods `numbers` (3, N)."""
    advantages, returns, old = numbers
    ratio = torch.exp(log_prob - old)
    gain = torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
    bonus = (-log_prob if entropy is None else entropy).mean()
    return -gain + 0.5 * (returns - values.flatten()).square().mean() - 0.01 * bonus


@combined
def test_segments_give_the_same_values_likelihoods_and_gradients(
    kind: str, actions: str, critic: str, layers: int
) -> None:
    ours, theirs = twins(kind, actions, critic, layers)
    count, steps = 3, 7
    observations = sampled(ours.observation_space, count, steps)
    tensors = (
        {key: torch.from_numpy(x) for key, x in observations.items()}
        if kind == "dict"
        else torch.from_numpy(observations)
    )
    flat = {key: x.flatten(0, 1) for key, x in tensors.items()} if kind == "dict" else tensors.flatten(0, 1)
    taken = torch.from_numpy(sampled(ours.action_space, count * steps)).float()
    reset = torch.rand(count, steps) < 0.3
    of_actor, of_critic = ((torch.randn(layers, count, 6), torch.randn(layers, count, 6)) for _ in range(2))
    memory = packed(of_actor)
    if ours.lstm_critic is not None:
        memory = torch.cat([memory, packed(of_critic)], dim=1)
    found = ours.evaluate_actions(Segments(tensors, torch.zeros(count, steps, 0), memory, reset), taken)
    expected = theirs.evaluate_actions(flat, taken, RNNStates(of_actor, of_critic), reset.flatten().float())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=2e-6)
    numbers = torch.randn(3, count * steps)
    numbers[2] = expected[1].detach() + 0.1 * numbers[2]
    for policy, evaluated in ((ours, found), (theirs, expected)):
        loss_of(*evaluated, numbers).backward()
        assert policy.lstm_actor.weight_hh_l0.grad.abs().max() > 1e-4
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-5, msg=name)


def collected(model: Any) -> Any:
    """Return the buffer after one rollout, without an update."""
    _, callback = model._setup_learn(10**6)
    callback.on_training_start({}, {})
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model.rollout_buffer


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("critic", CRITICS)
def test_a_rollout_and_an_update_are_equal(critic: str, env: str, optimizer: str) -> None:
    """Compare from the seed on: initial weights, actions, advantages with bootstraps, and the updated weights."""
    options = {"optimizer_class": torch.optim.SGD} if optimizer == "sgd" else {"optimizer_kwargs": {"fused": False}}
    models = [
        algorithm(
            "MlpLstmPolicy", make_vec_env(env, 3, seed=0, env_kwargs={"max_episode_steps": 16}), n_steps=32,
            batch_size=96, n_epochs=1, learning_rate=0.1 if optimizer == "sgd" else 1e-3, ent_coef=0.01, seed=3,
            device="cpu", clip_range_vf=0.2,
            policy_kwargs={"lstm_hidden_size": 8, "n_lstm_layers": 2, **options, **CRITICS[critic]},
        )
        for algorithm in (RecurrentPPO, sb3_contrib.RecurrentPPO)
    ]  # fmt: skip
    ours, theirs = [], []
    for model, arrays in zip(models, (ours, theirs), strict=True):
        torch.manual_seed(5)
        buffer = collected(model)
        names = ("actions", "rewards", "values", "log_probs", "advantages", "returns", "episode_starts")
        arrays += [np.array(getattr(buffer, name)).reshape(32, 3, -1) for name in names]
    for name, one, other in zip(names, ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5, err_msg=name)
    ends = int(ours[-1][1:].sum())
    bootstrapped = (ours[1] != 1).sum() if env == "CartPole-v1" else ends
    assert bootstrapped > 1
    assert ends > bootstrapped or env != "CartPole-v1"  # some episodes terminate
    before = {name: x.clone() for name, x in models[0].policy.state_dict().items()}
    for model in models:
        # sb3-contrib rotates the rollout by a random number of steps: here by whole environments.
        np.random.seed(next(i for i in range(999) if np.random.RandomState(i).randint(96) % 32 == 0))  # noqa: NPY002
        model.train()
    after, wanted = (model.policy.state_dict() for model in models)
    for name, parameter in after.items():
        torch.testing.assert_close(parameter, wanted[name], atol=1e-5, rtol=1e-5, msg=name)
    assert max(float((after[name] - before[name]).abs().max()) for name in after) > 5e-4


def test_a_model_of_sb3_contrib_loads_and_continues(tmp_path: Path) -> None:
    theirs = sb3_contrib.RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", n_steps=32, n_epochs=1, policy_kwargs={"lstm_hidden_size": 8}, device="cpu"
    )
    theirs.learn(64).save(tmp_path / "theirs")
    kind = {"policy_class": MlpLstmPolicy}
    obs = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    for objects in (None, kind):
        ours = RecurrentPPO.load(tmp_path / "theirs", env=theirs.get_env(), device="cpu", custom_objects=objects)
        np.testing.assert_array_equal(ours.predict(obs, None, None, True)[0], theirs.predict(obs, None, None, True)[0])
        for one, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(ours.policy.optimizer.state[one], theirs.policy.optimizer.state[other])
    ours.learn(32, reset_num_timesteps=False)
    assert ours.num_timesteps == 96


@pytest.mark.parametrize("kind", INPUTS)
def test_keywords_and_defaults_are_sb3_contribs(kind: str) -> None:
    ours, theirs, observations, _ = INPUTS[kind]
    wanted = inspect.signature(contrib.RecurrentActorCriticPolicy).parameters
    found = inspect.signature(MlpLstmPolicy).parameters
    assert [(p.name, p.default) for p in found.values()] == [(p.name, p.default) for p in wanted.values()]
    first, second = (policy(observations, BOX, lambda _: 1e-3) for policy in (ours, theirs))
    assert isinstance(first.features_extractor, type(second.features_extractor))
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in second.named_parameters()]
    for name in ("lstm_hidden_state_shape", "lstm_output_dim", "shared_lstm", "enable_critic_lstm", "lstm_kwargs"):
        assert getattr(first, name) == getattr(second, name)


def test_a_saved_policy_is_built_again_with_its_options(tmp_path: Path) -> None:
    options = {"lstm_kwargs": {"bias": False, "dropout": 0.1}, "log_std_init": -1.0}
    policy, _ = twins("mlp", "box", "none", 2, **options)
    policy.save(tmp_path / "policy.pth")
    loaded = MlpLstmPolicy.load(tmp_path / "policy.pth")
    observation = np.ones((2, 3), np.float32)
    action, state = policy.predict(observation, deterministic=True)
    again, state_again = loaded.predict(observation, deterministic=True)
    np.testing.assert_array_equal(action, again)
    np.testing.assert_array_equal(state[0], state_again[0])
    assert loaded.lstm_kwargs == options["lstm_kwargs"]


def test_dropout_acts_between_layers_while_training_only() -> None:
    policy, _ = twins("mlp", "box", "own", 2, lstm_kwargs={"dropout": 0.5})
    segments = Segments(torch.randn(2, 6, 3), torch.zeros(2, 6, 0), policy.initial_state(2), torch.zeros(2, 6).bool())
    actions = torch.zeros(12, 2)
    policy.set_training_mode(False)
    still = [policy.evaluate_actions(segments, actions)[0] for _ in range(2)]
    assert torch.equal(*still)
    policy.set_training_mode(True)
    drawn = torch.stack([policy.evaluate_actions(segments, actions)[0] for _ in range(2)])
    assert (drawn[0] != drawn[1]).all()
    # All of the first layer's output dropped is a second layer fed zeros, as torch's own LSTM does it.
    policy.lstm_actor.dropout = 1.0
    latent, _, _ = policy._scan_segments(segments)
    features = torch.zeros(2, 6, 6)
    last = torch.nn.LSTM(6, 6, batch_first=True)
    last.load_state_dict({n.replace("l1", "l0"): p for n, p in policy.lstm_actor.state_dict().items() if "l1" in n})
    torch.testing.assert_close(latent, last(features)[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shared_lstm": True}, AssertionError, "You must choose between shared LSTM, seperate or no LSTM"),
        (
            {**CRITICS["shared"], "share_features_extractor": False},
            AssertionError,
            "If the features extractor is not shared, the LSTM cannot be shared",
        ),
        ({"lstm_kwargs": {"proj_size": 2}}, ValueError, "lstm_kwargs: proj_size can only be 0 here, got 2"),
        ({"lstm_kwargs": {"bidirectional": True}}, ValueError, "bidirectional can only be False"),
        ({"lstm_kwargs": {"batch_first": True}}, ValueError, "batch_first can only be False"),
        ({"lstm_kwargs": {"num_layers": 2}}, ValueError, "n_lstm_layers"),
        ({"lstm_kwargs": {"dropuot": 0.1}}, ValueError, 'did you mean "dropout"'),
        ({"lstm_kwargs": {"dropout": 1.5}}, ValueError, "dropout"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        RecurrentPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=options)
    assert "\n" not in str(caught.value)
    if error is AssertionError:
        with pytest.raises(error) as theirs:
            sb3_contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=options)
        assert str(caught.value) == str(theirs.value)


def test_states_that_do_not_fit_are_refused() -> None:
    policy, _ = twins("mlp", "box", "own", 2)
    observation = np.zeros((3, 3), np.float32)
    _, (h, c) = policy.predict(observation)
    for wrong in [(h,), (h, c, h), (h[:, :2], c[:, :2]), (h[:1], c[:1]), (h[..., :5], c[..., :5])]:
        with pytest.raises(ValueError, match=r"\(h, c\) of shape \(2, 3, 6\)") as caught:
            policy.predict(observation, wrong)
        assert "\n" not in str(caught.value)
