"""Exported policies act as `predict` of the .zip does, with VecNormalize inside, over long episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from c_policy import COMPILERS
from gymnasium import spaces
from onnx_session import session as open_session
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from zoo_cases import FEEDFORWARD, RECURRENT, WIDE, Case, World, batches, box

from minrl.data.spaces import flatten
from minrl.export.c.export import CompiledPolicy, export_c
from minrl.export.onnx import export_onnx
from minrl.zoo import load_zip

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LSTM: dict[str, Any] = {"lstm_hidden_size": 16, "net_arch": {"pi": [8], "vf": []}}
LONG = [*RECURRENT[:3], *RECURRENT[4:], FEEDFORWARD[2], FEEDFORWARD[7], FEEDFORWARD[12], FEEDFORWARD[22]]


def statistics(case: Case) -> VecNormalize | None:
    """Return statistics of 400 observations, of the vector alone among parts; None for images."""
    keys = ["vector"] if isinstance(case.observations, spaces.Dict) else None
    if keys is None and not (isinstance(case.observations, spaces.Box) and case.observations.dtype == np.float32):
        return None
    made = DummyVecEnv([lambda: World(case.observations, case.actions)] * 4)
    environments = VecNormalize(made, norm_obs_keys=keys, clip_obs=1.5)
    made.seed(0)
    environments.reset()
    for _ in range(100):
        environments.step(np.array([case.actions.sample() for _ in range(4)]))
    return environments


def logit_gap(model: Any, observation: Any, state: Any, start: Any) -> float:
    """Return the smallest gap between the two best logits of a choice, 1e-5 of their size as the unit."""
    policy, named = model.policy, {}
    tensors, _ = policy.obs_to_tensor(observation)
    if state is not None:
        named = {"lstm_states": tuple(map(torch.tensor, state)), "episode_starts": torch.tensor(start).float()}
    with torch.no_grad():
        if hasattr(policy, "quantile_net"):
            logits = [policy.quantile_net(tensors).mean(1)]
        else:
            made = policy.get_distribution(tensors, **named)
            made = (made[0] if isinstance(made, tuple) else made).distribution
            logits = [part.logits for part in (made if isinstance(made, list) else [made])]
    flags = isinstance(model.action_space, spaces.MultiBinary)
    gaps = [part.abs() if flags else part.topk(2).values.diff().abs() for part in logits]
    return min(float((gap / part.abs().max().clamp_min(1.0)).min()) for gap, part in zip(gaps, logits, strict=True))


def agree(case: Case, folder: Path, steps: int, count: int, kind: str = "onnx") -> None:
    """Run the exported file beside the model over steps of `count` environments whose episodes end by chance."""
    model, environments = case.train(), statistics(case)
    if hasattr(model.policy, "action_net") and not isinstance(case.actions, spaces.Box):
        with torch.no_grad():  # logits that differ, so that choices change from step to step
            for parameter in model.policy.parameters():
                parameter.mul_(4.0)
            model.policy.action_net.bias.zero_()
    model.save(folder / "model")
    if environments is not None:
        environments.save(str(folder / "statistics.pkl"))
    agent = load_zip(folder / "model.zip", vecnormalize=environments and folder / "statistics.pkl")
    if kind == "onnx":
        export_onnx(agent, folder / "model.onnx", steps=20)
        session: Any = open_session(folder / "model.onnx")
    else:
        session = CompiledPolicy(export_c(agent, folder / "model.c", steps=20).sources, folder, COMPILERS[0])
    space = model.observation_space
    draw, random = batches(space, 64), np.random.default_rng(0)
    pool = [draw() for _ in range(4)]
    theirs, ours = None, np.zeros((count, agent.state_size), np.float32)
    starts, ties, worst, seen = np.ones(count, np.bool_), 0, 0.0, set()
    for step in range(steps):
        chosen, rows = pool[step % 4], random.integers(64, size=count)
        raw = {k: v[rows] for k, v in chosen.items()} if isinstance(chosen, dict) else chosen[rows]
        observation = raw if environments is None else environments.normalize_obs(raw)
        before = theirs
        wanted, theirs = model.predict(observation, theirs, starts, deterministic=True)
        inputs = {"observation": flatten(space, raw), "reward": np.zeros(count, np.float32)}
        action, ours = session.run(None, inputs | {"episode_start": starts, "state": ours})
        if isinstance(case.actions, spaces.Box):
            worst = max(worst, float((np.abs(action - wanted) / (case.actions.high - case.actions.low)).max()))
        elif not np.array_equal(action.reshape(wanted.shape), wanted):
            assert logit_gap(model, observation, before, starts) < 1e-5
            ties += 1
        seen.add(action[0].tobytes())
        starts = random.random(count) < 0.01
    assert len(seen) > 1
    assert worst <= 1e-5
    assert ties < 1 + steps // 1000


@pytest.mark.parametrize(
    "case", [Case("RecurrentPPO", "MlpLstmPolicy", box(3), WIDE, LSTM)], ids=lambda case: case.name
)
def test_a_few_steps(case: Case, tmp_path: Path) -> None:
    agree(case, tmp_path, 300, 2)


@pytest.mark.parametrize(
    "case", [Case("RecurrentPPO", "MlpLstmPolicy", box(3), WIDE, LSTM)], ids=lambda case: case.name
)
def test_a_few_steps_of_the_c_file(case: Case, tmp_path: Path) -> None:
    agree(case, tmp_path, 300, 2, "c")


@pytest.mark.slow
@pytest.mark.parametrize("case", [*RECURRENT[:5], FEEDFORWARD[0]], ids=lambda case: case.name)
def test_a_hundred_thousand_steps_of_the_c_file(case: Case, tmp_path: Path) -> None:
    agree(case, tmp_path, 100_000, 1, "c")


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG, ids=lambda case: case.name)
def test_a_hundred_thousand_steps(case: Case, tmp_path: Path) -> None:
    """Run ten environments for 10,000 steps, in episodes of some hundred."""
    agree(case, tmp_path, 10_000, 10)
