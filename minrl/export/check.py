"""Comparison of an exported model with the agent: both act on the same inputs, each from its own carried state.

Shapes: B environments, O flat observation width, S state size.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from minrl.agent import Actor, Moment
from minrl.data.masks.action_masks import choices
from minrl.data.spaces import flatten, leaves, unflatten

Array = npt.NDArray[Any]

BATCHES = 1, 5
# A larger difference relative to the action's range comes from an argmax or a rounding that went the other way.
_JUMP = 1e-3
# Relative size and number of input perturbations that decide whether a choice was a tie.
_NUDGE, _NUDGES = 1e-5, 256


@dataclass(frozen=True)
class Agreement:
    """Largest differences between an exported model and the agent."""

    steps: int  # of each batch
    action: float  # largest difference, relative to the range of each action
    state: float  # largest difference, relative to the value where that is above 1
    ties: int  # choices that differ where the agent's own do under a relative perturbation of 1e-5


def compare(session: Any, agent: Actor, *, steps: int, target_return: float | None = None, seed: int = 0) -> Agreement:
    """Run `session` (an `onnxruntime.InferenceSession`) and `agent` on random observations, rewards and episode starts.

    After a tie the model continues from the agent's state; a choice that differs without a tie counts as a difference
    of 1.
    """
    ties, action, state = 0, 0.0, 0.0
    for batch_size in BATCHES:
        seen = _Inputs(agent, batch_size, seed)
        ours = agent.initial_state(batch_size, target_return)
        theirs = ours.numpy()
        for step in range(steps):
            moment = seen.draw(first=step == 0)
            with torch.inference_mode():
                flat, after = agent.act(moment, ours)
            *actions, theirs = session.run(None, _named(moment, theirs))
            gaps = action_gaps(agent, flat.numpy(), actions)
            drift = np.abs(theirs - after.numpy()) / np.maximum(1.0, np.abs(after.numpy()))
            for row in np.flatnonzero(gaps > _JUMP):
                if not is_tie(agent, moment, ours, int(row), [part[row : row + 1] for part in actions]):
                    continue
                theirs, ties = theirs.copy(), ties + 1
                theirs[row], gaps[row], drift[row] = after[row].numpy(), 0.0, 0.0
            ours = after
            # NaN must not pass as small.
            action = max(action, float(np.nan_to_num(gaps, nan=np.inf).max()))
            state = max(state, float(np.nan_to_num(drift, nan=np.inf).max(initial=0.0)))
    return Agreement(steps, action, state, ties)


def action_gaps(agent: Actor, flat: Array, outputs: list[Array]) -> Array:
    """Compute the largest difference of each row, (B,), between flattened actions (B, A) and a model's outputs.

    Continuous parts count relative to their range, choices that differ count as 1.
    """
    space, task = agent.task.action_space, agent.task
    wanted = unflatten(space, flat)
    gaps = np.zeros(len(flat))
    for leaf, output in zip(leaves(space), outputs, strict=True):
        part = wanted
        for key in leaf.keys:
            part = part[key]
        part, output = (np.asarray(values).reshape(len(flat), -1) for values in (part, output))
        if isinstance(leaf.space, spaces.Box):
            low, high = (np.array(bound[leaf.columns]) for bound in (task.action_low, task.action_high))
            reach = np.where(np.isfinite(high - low) & (high > low), high - low, 1.0)
            # If the offset is much larger than the range, the last digit of a float32 is more than 1e-5 of it.
            rounding = 2 * np.spacing(np.abs(part).astype(np.float32)).astype(np.float64)
            gap = np.maximum(np.abs(part.astype(np.float64) - output) - rounding, 0.0) / reach
        else:
            gap = (part != output).astype(np.float64)
        gaps = np.maximum(gaps, gap.max(axis=1))
    return gaps


def _named(moment: Moment, state: Array) -> dict[str, Array]:
    tensors = {"observation": moment.observation, "reward": moment.reward, "episode_start": moment.episode_start}
    if moment.action_masks is not None:
        tensors["action_masks"] = moment.action_masks
    return {name: tensor.numpy() for name, tensor in tensors.items()} | {"state": state}


def is_tie(agent: Actor, moment: Moment, state: Tensor, row: int, outputs: list[Array]) -> bool:
    """Return True if the agent makes a model's choice in `row` (its outputs, one row) under a tiny perturbation.

    Inputs and state are perturbed at random by 1e-5 of their values, `_NUDGES` times. Logits are not compared: a choice
    may come from an argmax, a sign or a rounding, and the file has no outputs for what goes into them. With such
    outputs onnxruntime may fuse other operations, and the graph that is checked is not the one that is used.
    """
    generator = torch.Generator().manual_seed(0)

    def nudged(x: Tensor) -> Tensor:
        many = x[row : row + 1].expand(_NUDGES, *x.shape[1:])
        moved = many + _NUDGE * many.abs().clamp_min(0.1) * torch.randn(many.shape, generator=generator)
        # Step numbers and flags in a state are whole numbers and stay so.
        return torch.where(many == many.round(), many, moved)

    mean = torch.zeros(1)
    if agent.task.wide_observations:  # 1e-5 of the mean may be many standard deviations
        mean = torch.from_numpy(_statistics(agent, agent.task.observation_size)[0])
    near = Moment(
        mean + nudged(moment.observation - mean), nudged(moment.reward), moment.episode_start[row].expand(_NUDGES),
        None if moment.action_masks is None else moment.action_masks[row].expand(_NUDGES, -1),
    )  # fmt: skip
    with torch.inference_mode():
        flat, _ = agent.act(near, nudged(state))
    many = [np.repeat(part, _NUDGES, axis=0) for part in outputs]
    return bool((action_gaps(agent, flat.numpy(), many) <= _JUMP).any())


def observation_type(agent: Actor) -> torch.dtype:
    """Return the type of an exported model's observations."""
    return torch.float64 if agent.task.wide_observations else torch.float32


class _Inputs:
    """Random inputs: floats with the data's mean and standard deviation, all else sampled from its space."""

    def __init__(self, agent: Actor, batch_size: int, seed: int) -> None:
        self.agent, self.batch_size = agent, batch_size
        self.random = np.random.default_rng(seed)
        self.space = copy.deepcopy(agent.task.acting_space)
        self.space.seed(seed)
        self.mean, self.std = _statistics(agent, agent.task.observation_size)
        self.reward_spread = max(1.0, agent.task.return_scale / 10)

    def draw(self, *, first: bool) -> Moment:
        """Draw inputs of B environments; episodes start at the first and at one in a hundred later steps."""
        samples = [_batched(self.space, self.space.sample()) for _ in range(self.batch_size)]
        rows = [flatten(self.space, sample, np.float64) for sample in samples]
        observation = np.concatenate(rows)
        for leaf in leaves(self.space):
            if isinstance(leaf.space, spaces.Box) and np.issubdtype(leaf.space.dtype, np.floating):
                mean, std = self.mean[leaf.columns], self.std[leaf.columns]
                drawn = mean + std * self.random.normal(size=(self.batch_size, len(mean)))
                observation[:, leaf.columns] = drawn
        starts = np.full(self.batch_size, first) | (self.random.random(self.batch_size) < 0.01)
        return Moment(
            observation=torch.from_numpy(observation).to(observation_type(self.agent)),
            reward=torch.from_numpy(self.random.normal(size=self.batch_size).astype(np.float32) * self.reward_spread),
            episode_start=torch.from_numpy(starts),
            action_masks=self._masks() if self.agent.task.masked else None,
        )

    def _masks(self) -> Tensor:
        """Draw masks (B, M) of which every component allows at least one choice."""
        parts = choices(self.agent.task.action_space)
        masks = [self.random.random((self.batch_size, count)) < 0.5 for count in parts]
        for part in masks:
            part[np.arange(self.batch_size), self.random.integers(part.shape[1], size=self.batch_size)] = True
        return torch.from_numpy(np.concatenate(masks, axis=1))


def _batched(space: Any, sample: Any) -> Any:
    """Add a batch axis to one sample, in the structure of the space."""
    if isinstance(space, spaces.Dict):
        return {key: _batched(part, sample[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_batched(part, sample[i]) for i, part in enumerate(space.spaces))
    return [sample] if isinstance(space, spaces.Text) else np.asarray(sample)[None]


def _statistics(agent: Actor, width: int) -> tuple[Array, Array]:
    """Return mean and std (O,) by which the agent normalises observations; 0 and 1 without normalisation."""
    for module in agent.modules():
        buffers = dict(module.named_buffers(recurse=False))
        if all(name in buffers and buffers[name].shape == (width,) for name in ("mean", "std")):
            mean = buffers["mean"].double() + buffers.get("rest", torch.zeros(width)).double()
            return mean.numpy(), buffers["std"].double().numpy()
    return np.zeros(width), np.ones(width)
