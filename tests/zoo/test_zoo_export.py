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
from zoo_cases import FEEDFORWARD, IMAGE, RECURRENT, WIDE, Case, World, batches, box

from minrl.data.spaces import flatten
from minrl.export.c.export import CompiledPolicy, export_c
from minrl.export.onnx import export_onnx
from minrl.zoo import load_zip

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LSTM: dict[str, Any] = {"lstm_hidden_size": 16, "net_arch": {"pi": [8], "vf": []}}
NO_IMAGE = spaces.Dict({"choice": spaces.Discrete(3), "flags": spaces.MultiBinary(2), "vector": box(2)})
SEEN = {"MlpLstmPolicy": box(3), "CnnLstmPolicy": IMAGE, "MultiInputLstmPolicy": NO_IMAGE}
GRID = [
    Case("RecurrentPPO", policy, seen, actions, LSTM)
    for policy, seen in SEEN.items()
    for actions in (WIDE, spaces.Discrete(3), spaces.MultiDiscrete([2, 3]))
]
# Two layers, layers that are shared or without bias, noise of the latents, parts with an image.
OTHERS = [*RECURRENT[1:3], RECURRENT[4], RECURRENT[6], *(FEEDFORWARD[i] for i in (0, 2, 7, 12, 22))]


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


def written(case: Case, agent: Any, folder: Path) -> dict[str, Any]:
    """Return sessions of the ONNX file and of the C file, which is refused for images in one line."""
    export_onnx(agent, folder / "model.onnx", steps=20)
    sessions: dict[str, Any] = {"onnx": open_session(folder / "model.onnx")}
    if any(part.image for part in agent.config.parts):
        with pytest.raises(ValueError, match=r"cannot be written as C: .* a convolution over images.*--onnx") as caught:
            export_c(agent, folder / "c")
        assert "\n" not in str(caught.value)
        assert not (folder / "c").exists()
        return sessions
    return sessions | {"c": CompiledPolicy(export_c(agent, folder / "c", steps=20).sources, folder, COMPILERS[0])}


def agree(case: Case, folder: Path, steps: int, count: int) -> None:
    """Run the exported files beside the model over steps of `count` environments whose episodes end by chance."""
    model, environments = case.train(), statistics(case)
    if hasattr(model.policy, "action_net") and not isinstance(case.actions, spaces.Box):
        with torch.no_grad():  # logits that differ, so that choices change from step to step
            for name, parameter in model.policy.named_parameters():
                if "features_extractor" not in name:  # which would take gates to where float32 has three digits
                    parameter.mul_(4.0)
            model.policy.action_net.bias.zero_()
    model.save(folder / "model")
    if environments is not None:
        environments.save(str(folder / "statistics.pkl"))
    agent = load_zip(folder / "model.zip", vecnormalize=environments and folder / "statistics.pkl")
    sessions = written(case, agent, folder)
    space = model.observation_space
    draw, random = batches(space, 64), np.random.default_rng(0)
    pool = [draw() for _ in range(4)]
    theirs, ours = None, dict.fromkeys(sessions, np.zeros((count, agent.state_size), np.float32))
    starts, worst, seen = np.ones(count, np.bool_), 0.0, set()
    ties = dict.fromkeys(sessions, 0)
    for step in range(steps):
        chosen, rows = pool[step % 4], random.integers(64, size=count)
        raw = {k: v[rows] for k, v in chosen.items()} if isinstance(chosen, dict) else chosen[rows]
        observation = raw if environments is None else environments.normalize_obs(raw)
        before = theirs
        wanted, theirs = model.predict(observation, theirs, starts, deterministic=True)
        inputs = {"observation": flatten(space, raw), "reward": np.zeros(count, np.float32), "episode_start": starts}
        for kind, session in sessions.items():
            action, ours[kind] = session.run(None, inputs | {"state": ours[kind]})
            if isinstance(case.actions, spaces.Box):
                reach = case.actions.high - case.actions.low
                worst = max(worst, float((np.abs(action - wanted) / reach).max()))
            elif not np.array_equal(action.reshape(wanted.shape), wanted):
                assert logit_gap(model, observation, before, starts) < 1e-5
                ties[kind] += 1
        seen.add(wanted[0].tobytes())
        starts = random.random(count) < 0.01
    assert len(seen) > 1
    assert worst <= 1e-5
    assert max(ties.values()) < 1 + steps * count // 10_000


def test_a_few_steps(tmp_path: Path) -> None:
    agree(GRID[0], tmp_path, 300, 2)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*GRID, *OTHERS], ids=lambda case: case.name)
def test_a_hundred_thousand_steps(case: Case, tmp_path: Path) -> None:
    """Run fifty environments for 2,000 steps, in episodes of some hundred."""
    agree(case, tmp_path, 2_000, 50)
