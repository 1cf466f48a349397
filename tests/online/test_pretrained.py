"""Policies pretrained on a data set: equal actions at first, and the KL cost of leaving them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Categorical, Normal, kl
from worlds import Drift, drift_episodes

from minrl.agent import Agent, Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.agents.ppo import RecurrentPPO
from minrl.data.task import Task
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT

SMALL: dict[str, Any] = {"width": 16, "depth": 2, "dropout": 0.1}


def saved(folder: Path, actions: str = "box", kind: str = "clone", **options: Any) -> tuple[Path, Agent]:
    """Save a run and return its folder and agent, with random weights far from any policy's initial ones."""
    episodes = drift_episodes(actions)
    agent: Agent
    if kind == "clone":
        agent = CloneAgent(CloneConfig(**SMALL, **options), Task.of(episodes))
    else:
        agent = DecisionAgent(DecisionConfig(**SMALL, **options), Task.of(episodes))
    agent.fit_normalization(episodes)
    with torch.no_grad():
        agent.head.linear.weight.mul_(20)  # type: ignore[union-attr, operator]
    folder.mkdir(exist_ok=True)
    checkpoint.save(folder / LAST_CHECKPOINT, agent, step=1)
    return folder, agent.eval()


def started(run: Any, actions: str = "box", **options: Any) -> RecurrentPPO:
    # Rounding errors are in units of the spread, and these heads are twenty times as steep as real ones.
    policy = {"pretrained": run, "log_std_init": -1.0, **options.pop("policy_kwargs", {})}
    env = make_vec_env(lambda: Drift(actions), 3, seed=0)
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, **options}
    return RecurrentPPO("MlpPolicy", env, device="cpu", policy_kwargs=policy, **settings)


def flat_actions(agent: Agent, observations: Any, starts: Any) -> list[Any]:
    """Return the agent's own actions."""
    state, flat = agent.initial_state(observations.shape[1]), []
    with torch.no_grad():
        for obs, start in zip(observations, starts, strict=True):
            moment = Moment(torch.from_numpy(obs), torch.zeros(len(obs)), torch.from_numpy(start))
            action, state = agent.act(moment, state)
            flat.append(action.numpy())
    return flat


@pytest.mark.parametrize("previous_action", [False, True])
@pytest.mark.parametrize(
    ("actions", "options"),
    [("box", {"action_loss": "mse"}), ("box", {"action_loss": "gaussian"}), ("multidiscrete", {}), ("multibinary", {})],
)
def test_it_acts_as_the_pretrained_agent_at_first(
    tmp_path: Path, actions: str, options: dict[str, Any], previous_action: bool
) -> None:
    run, agent = saved(tmp_path, actions, previous_action=previous_action, **options)
    model = started(run, actions)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(20, 2, 3)).astype(np.float32)
    starts = rng.random((20, 2)) < 0.2
    state: Any = None
    for obs, start, wanted in zip(observations, starts, flat_actions(agent, observations, starts), strict=True):
        action, state = model.predict(obs, state, start, deterministic=True)
        if actions == "multidiscrete":
            action = np.concatenate([np.eye(2)[action[:, 0]], np.eye(4)[action[:, 1]]], axis=1)
        np.testing.assert_allclose(action, wanted, atol=1e-5)


def test_a_decision_agent_keeps_its_target(tmp_path: Path) -> None:
    run, agent = saved(tmp_path, kind="decision", target_return=3.0)
    obs = np.random.default_rng(0).normal(size=(1, 2, 3)).astype(np.float32)
    (wanted,) = flat_actions(agent, obs, np.ones((1, 2), bool))
    model = started(run)
    np.testing.assert_allclose(model.predict(obs[0], deterministic=True)[0], wanted, atol=1e-5)
    model.learn(96)
    assert model.policy.first_ratio_dev <= 1e-5


@pytest.mark.parametrize("kind", ["clone", "decision"])
def test_a_run_that_acts_from_its_window_has_a_warning(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Carry the hidden state in PPO: the first actions are those of the same weights without the window."""
    run, agent = saved(tmp_path / "window", kind=kind, context=4)
    model = started(run)
    (record,) = caplog.records
    assert f"the run {run} acts with its last 4 steps rescanned" in record.getMessage()
    model.save(tmp_path / "model")
    RecurrentPPO.load(tmp_path / "model")
    carried = type(agent)(replace(agent.config, refeed=False), agent.task).eval()
    carried.load_state_dict(agent.state_dict())
    observations = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    starts, state = np.zeros((9, 2), bool), None
    starts[0] = True
    found = []
    for obs, start in zip(observations, starts, strict=True):
        action, state = model.predict(obs, state, start, deterministic=True)
        found.append(action)
    np.testing.assert_allclose(found, flat_actions(carried, observations, starts), atol=1e-4)
    assert np.abs(np.stack(found) - flat_actions(agent, observations, starts)).max() > 0.01
    started(saved(tmp_path / "carried", kind=kind)[0])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("separate_critic", [False, True])
def test_learning_and_loading_need_no_folder_of_the_run(tmp_path: Path, separate_critic: bool) -> None:
    run, _ = saved(tmp_path / "run")
    model = started(run, policy_kwargs={"separate_critic": separate_critic, "pretrained_kl": 0.1})
    before = {name: p.clone() for name, p in model.policy.named_parameters()}
    model.learn(96)
    assert model.policy.first_ratio_dev <= 1e-5
    moved = {name for name, p in model.policy.named_parameters() if not torch.equal(p, before[name])}
    assert {name for name, p in model.policy.named_parameters() if p.requires_grad} == moved
    assert not any(name.startswith("reference") for name in moved)
    model.save(tmp_path / "model")
    (run / LAST_CHECKPOINT).unlink()
    loaded = RecurrentPPO.load(tmp_path / "model", env=model.get_env())
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    loaded.learn(96, reset_num_timesteps=False)


def test_the_divergence_is_the_definition_and_its_weight_decays(tmp_path: Path) -> None:
    run, _ = saved(tmp_path)
    model = started(run, policy_kwargs={"pretrained_kl": 0.5}, n_epochs=1, batch_size=None)
    model.learn(48 * 4)
    # The last of four updates sees a quarter of the way left before it... none after it.
    assert model.policy.reference_weight == pytest.approx(0.0)
    reference = model.policy.reference
    assert reference is not None
    mean, other = torch.randn(5, 2), torch.randn(5, 2)
    log_std = torch.tensor([0.3, -0.7])
    distribution = model.policy.action_dist.proba_distribution(mean, log_std)  # type: ignore[call-arg]
    wanted = kl.kl_divergence(Normal(mean, log_std.exp()), Normal(other, reference.log_std.exp())).sum(1)
    torch.testing.assert_close(reference.divergence(distribution, other), wanted)
    choices = started(saved(tmp_path / "b", "multidiscrete")[0], "multidiscrete", policy_kwargs={"pretrained_kl": 1.0})
    logits, others = torch.randn(5, 6), torch.randn(5, 6)
    parts = zip(logits.split([2, 4], 1), others.split([2, 4], 1), strict=True)
    wanted = sum(kl.kl_divergence(Categorical(logits=a), Categorical(logits=b)) for a, b in parts)  # type: ignore[assignment]
    found = choices.policy.reference.divergence(  # type: ignore[union-attr]
        choices.policy.action_dist.proba_distribution(logits),
        others,  # type: ignore[call-arg]
    )
    torch.testing.assert_close(found, wanted)


def test_a_heavy_divergence_keeps_the_policy_where_it_was(tmp_path: Path) -> None:
    run, _ = saved(tmp_path)
    strayed = []
    for weight in (0.0, 100.0):
        model = started(run, policy_kwargs={"pretrained_kl": lambda left, weight=weight: weight}, n_epochs=10)
        model.learn(48 * 8)
        obs = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
        begin = started(run).predict(obs, deterministic=True)[0]
        strayed.append(float(np.abs(model.predict(obs, deterministic=True)[0] - begin).mean()))
    assert strayed[1] < 0.5 * strayed[0]
    assert model.logger.name_to_value["train/pretrained_kl"] > 0


def test_the_update_is_that_of_ppo_and_a_divergence(tmp_path: Path) -> None:
    run, _ = saved(tmp_path)
    found, logged = [], []
    for weight in (0.0, 1e-30):  # Stable-Baselines3's update, and ours with a term that adds nothing
        options = {"clip_range_vf": 0.2, "ent_coef": 0.01, "target_kl": 0.5, "n_epochs": 3}
        model = started(run, policy_kwargs={"pretrained_kl": lambda left, weight=weight: weight}, **options)
        model.learn(48 * 2)
        found.append([x.detach().clone() for x in model.policy.parameters()])
        logged.append({k: v for k, v in model.logger.name_to_value.items() if k.startswith("train/")})
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert logged[1].pop("train/pretrained_kl") > 0
    assert logged[0] == pytest.approx(logged[1], rel=1e-6)


def test_bad_starts_are_refused_in_one_line(tmp_path: Path) -> None:
    run, _ = saved(tmp_path / "run")
    with pytest.raises(ValueError, match="no checkpoint at"):
        started(tmp_path / "nothing")
    with pytest.raises(ValueError, match="action space"):
        started(run, "multidiscrete")
    with pytest.raises(ValueError, match="no backbone"):
        started(saved(tmp_path / "mlp", recurrent=False)[0])
    with pytest.raises(ValueError, match="tokens=triple"):
        started(saved(tmp_path / "dt", kind="decision", tokens="triple")[0])
    with pytest.raises(ValueError, match="pretrained_kl needs"):
        started(None, policy_kwargs={"pretrained_kl": 1.0})
    with pytest.raises(ValueError, match="only have layers of the critic"):
        started(run, policy_kwargs={"net_arch": [8]})
    env = VecNormalize(make_vec_env(Drift, 2))
    with pytest.raises(ValueError, match="norm_obs=False"):
        RecurrentPPO("MlpPolicy", env, policy_kwargs={"pretrained": run})
