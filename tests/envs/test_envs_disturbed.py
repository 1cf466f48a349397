"""Wrappers of noise, flicker and the previous action or reward: observations by seed."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import minrl.envs
from minrl.agents.__main__ import main
from minrl.envs import FlickeringObservation, MaskObservation, NoisyObservation, PreviousAction, PreviousReward


def episode(env: Any, steps: int, seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Return observations and actions, resetting at the end of each episode."""
    env.action_space.seed(1)
    observation, _ = env.reset(seed=seed)
    seen, actions = [observation], []
    for _ in range(steps):
        action = env.action_space.sample()
        observation, _, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        actions.append(action)
        if terminated or truncated:
            break
    return seen, actions


def test_noise_has_the_given_scale() -> None:
    noisy, plain = NoisyObservation(gymnasium.make("Pendulum-v1"), scale=0.3), gymnasium.make("Pendulum-v1")
    difference = np.stack(episode(noisy, 200)[0])[:150]
    again = np.stack(episode(noisy, 200)[0])[:150]
    np.testing.assert_array_equal(difference, again)
    assert noisy.observation_space.contains(noisy.reset(seed=0)[0])
    # Pendulum draws only at a reset, so the noise does not change its dynamics.
    difference -= np.stack(episode(plain, 200)[0])[:150]
    assert difference.std() == pytest.approx(0.3, rel=0.1)
    assert abs(difference.mean()) < 0.05


def test_zero_noise_changes_nothing() -> None:
    seen, _ = episode(NoisyObservation(gymnasium.make("Pendulum-v1"), scale=0.0), 30)
    np.testing.assert_array_equal(seen, episode(gymnasium.make("Pendulum-v1"), 30)[0])


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_share_of_the_observations_is_zero(probability: float) -> None:
    seen, _ = episode(FlickeringObservation(gymnasium.make("Pendulum-v1"), probability), 199)
    plain, _ = episode(gymnasium.make("Pendulum-v1"), 199)
    dark = [not np.any(x) for x in seen]
    assert np.mean(dark) == pytest.approx(probability, abs=0.12)
    for x, wanted, is_dark in zip(seen, plain, dark, strict=True):
        np.testing.assert_array_equal(x, np.zeros_like(wanted) if is_dark else wanted)


def test_the_previous_action_is_observed() -> None:
    for name, width in (("Pendulum-v1", 1), ("CartPole-v1", 2)):
        env = PreviousAction(gymnasium.make(name))
        seen, actions = episode(env, 15)
        assert np.all(seen[0][-width:] == 0)
        for observation, action in zip(seen[1:], actions, strict=True):
            row = spaces.flatten(env.action_space, action)
            np.testing.assert_array_equal(observation[-width:], np.asarray(row, np.float32))
            assert env.observation_space.contains(observation)


def test_a_space_that_is_not_one_row_becomes_a_dict() -> None:
    env = PreviousAction(gymnasium.make("minrl.envs:minrl/RepeatFirst-v0"))
    assert isinstance(env.observation_space, spaces.Dict)
    (first, *rest), actions = episode(env, 10)
    assert np.all(first["action"] == 0)
    for observation, action in zip(rest, actions, strict=True):
        assert observation["action"].argmax() == action
    with pytest.raises(ValueError, match='has a part "action" already'):
        PreviousAction(env)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("wrapper", [NoisyObservation, FlickeringObservation, PreviousAction])
def test_gymnasium_s_checker_passes_and_the_specification_names_them(wrapper: Any) -> None:
    env = wrapper(gymnasium.make("Pendulum-v1"))
    check_env(env, skip_render_check=True)
    made = gymnasium.make(env.spec)
    np.testing.assert_array_equal(made.reset(seed=4)[0], env.reset(seed=4)[0])


def test_vector_environments_apply_the_wrappers_to_each_row() -> None:
    """Compare each row with a single wrapped environment with the row's seed."""
    wrappers = [NoisyObservation, FlickeringObservation, PreviousAction, PreviousReward]
    vector = gymnasium.make_vec("Pendulum-v1", 3, vectorization_mode="sync", wrappers=wrappers)
    singles = [gymnasium.make("Pendulum-v1") for _ in range(3)]
    for wrapper in wrappers:
        singles = [wrapper(env) for env in singles]  # type: ignore[misc]
    seen, _ = vector.reset(seed=5)
    for row, env in enumerate(singles):
        np.testing.assert_array_equal(seen[row], env.reset(seed=5 + row)[0])
    for _ in range(20):
        actions = vector.action_space.sample()
        seen, rewards, *_ = vector.step(actions)
        assert seen.shape == (3, 3 + 1 + 1)
        np.testing.assert_array_equal(seen[:, 3:], np.stack([actions[:, 0], rewards.astype(np.float32)], axis=1))
        for row, env in enumerate(singles):
            np.testing.assert_array_equal(seen[row], env.step(actions[row])[0])


@pytest.mark.parametrize(
    "wrap",
    [NoisyObservation, FlickeringObservation, PreviousAction, PreviousReward, lambda env: MaskObservation(env, [0])],
)
def test_a_vector_environment_is_refused(wrap: Any) -> None:
    with pytest.raises(ValueError, match=r"wraps one environment, .*vectorization_mode='sync', wrappers=\["):
        wrap(gymnasium.make_vec("Pendulum-v1", 2))


def test_the_command_line_takes_a_wrapper_in_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register it as the module's docstring shows."""
    shown = (minrl.envs.__doc__ or "").partition("    gymnasium.register(")[2].partition("    )\n")[0]
    module = tmp_path / "noisy.py"
    imports = "import gymnasium\nfrom minrl.envs import NoisyObservation\n"
    module.write_text(f"{imports}gymnasium.register({shown})\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["train", "ppo", "--env", "noisy:NoisyPendulum-v0", "--n-envs", "2", "--n-steps", "32", "--steps", "64"]
    short = ["--width", "16", "--threads", "1", "--evaluate-episodes", "1", "--out", str(tmp_path / "run")]
    try:
        assert main([*words, *short]) == 0
        env = gymnasium.make("NoisyPendulum-v0")
        seen, _ = env.reset(seed=0)
        assert 0 < abs(np.hypot(seen[0], seen[1]) - 1) < 0.5  # cosine and sine no longer fit each other
    finally:
        gymnasium.registry.pop("NoisyPendulum-v0", None)


def test_misuse_is_answered_in_one_line() -> None:
    cards = gymnasium.make("minrl.envs:minrl/RepeatFirst-v0")
    with pytest.raises(ValueError, match="only a Box of floats can have noise"):
        NoisyObservation(cards)
    with pytest.raises(ValueError, match="scale must not be negative, got -1"):
        NoisyObservation(gymnasium.make("Pendulum-v1"), -1)
    with pytest.raises(ValueError, match="only a Box can flicker"):
        FlickeringObservation(cards)
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\], got 2"):
        FlickeringObservation(gymnasium.make("Pendulum-v1"), 2)
