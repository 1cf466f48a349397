"""`predict` of a policy as one compiled call, over buffers that are made once.

Shapes: B environments, S state size, P width of the previous action and reward, L layers and H hidden width of LSTMs,
A action width, K raw outputs of the policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from minrl.backbone.compiled_step import takes
from minrl.data.masks.action_masks import added_to_logits
from minrl.online.compiled.act import CompiledAct, compiled_act

Array = npt.NDArray[Any]

_FLOAT, _BOOL = np.dtype(np.float32), np.dtype(np.bool_)


@dataclass(frozen=True)
class _Workspace:
    """Buffers of a step of B observations: only one call at a time may use them."""

    count: int
    observations: Array  # (B, *shape)
    starts: Array  # (B,)
    before: Array  # (B, S)
    previous: Array  # (B, P)
    entering: tuple[Array, ...]  # the parts of the state of `predict`, as views of `before`
    leaving: Array  # the same parts after the step, one after another
    actions: Array  # (B, *shape)
    log_probs: Array  # (B,)
    masks: Array  # (B, K)
    draws: tuple[Callable[[], Any], ...]  # of the noise
    # What the kernel takes: the addresses of all these, those of the noise and the masks between the others.
    read: tuple[Any, ...]
    noise_at: int
    masks_at: int
    written: tuple[Any, ...]


def predict(
    policy: Any, observation: Any, state: Any, episode_start: Any, deterministic: bool, reward: Any, masks: Any
) -> tuple[Array, tuple[Array, ...]] | None:
    """Run `RecurrentPolicy.predict` as one compiled call; return None where observation or policy are not for it.

    Raises:
        ValueError: for a state, an episode start or a mask that does not fit.
    """
    if type(observation) is not np.ndarray or observation.dtype.kind not in "fiub":
        return None
    compiled = compiled_act(policy, values=False)
    shape = policy.observation_space.shape
    if compiled is None or not compiled.predicts:
        return None
    is_one = observation.shape == shape
    count = 1 if is_one else len(observation) if observation.shape[1:] == shape and observation.ndim else 0
    if not takes(count):
        return None
    if policy.training:
        policy.set_training_mode(False)
    try:
        space = compiled.workspaces.pop()  # atomic: another thread gets another one
    except IndexError:
        space = None
    if space is None or space.count != count:
        space = _workspace(policy, compiled, count)
    space.observations[...] = observation
    _enter(policy, compiled, space, state, reward)
    _begin(space, episode_start)
    if masks is not None:
        space.masks[...] = added_to_logits(policy.action_space, masks, count)
    if not deterministic:
        for draw in space.draws:
            draw()
    noise_at, masks_at = 0 if deterministic else space.noise_at, 0 if masks is None else space.masks_at
    compiled.kernel(*space.read, noise_at, masks_at, *space.written)
    actions = space.actions.astype(np.int64) if compiled.pieces else space.actions.copy()
    last = space.leaving.copy()
    after = (last[0],) if len(last) == 1 else (last[0], last[1])
    compiled.workspaces.append(space)
    if compiled.layout.previous:
        after = (*after, policy.encode_previous(torch.from_numpy(actions), None).numpy())
    chosen = policy.to_environment(actions)
    return (chosen.squeeze(axis=0) if is_one else chosen), after


def _enter(policy: Any, compiled: CompiledAct, space: _Workspace, state: Any, reward: Any) -> None:
    """Copy the state of `predict` into the workspace."""
    parts = space.entering
    if not compiled.layout.previous:
        if state is None:
            space.before[...] = 0
            return
        if type(state) is tuple and len(state) == len(parts):
            for x, part in zip(state, parts, strict=True):
                if type(x) is not np.ndarray or x.dtype is not _FLOAT or x.shape != part.shape:
                    break
                part[...] = x
            else:
                return
    memory, previous = policy._unpacked(state, space.count, reward)
    space.before[:, : memory.shape[1]] = memory.numpy()
    space.previous[...] = 0 if previous is None else previous.numpy()


def _begin(space: _Workspace, episode_start: Any) -> None:
    """Copy the starts of episodes into the workspace."""
    if episode_start is None:
        space.starts[...] = False
        return
    if type(episode_start) is not np.ndarray or episode_start.dtype is not _BOOL:
        episode_start = np.asarray(episode_start) > 0
    if episode_start.shape != space.starts.shape:
        episode_start = episode_start.reshape(-1)
        if len(episode_start) != space.count:
            raise ValueError(f"episode_start has {len(episode_start)} entries for {space.count} observations")
    space.starts[...] = episode_start


def _workspace(policy: Any, compiled: CompiledAct, count: int) -> _Workspace:
    layout, shape = compiled.layout, policy.observation_space.shape
    observations = np.zeros((count, *shape), np.float32)
    starts = np.zeros(count, np.bool_)
    before, after = np.zeros((2, count, layout.state_size), np.float32)
    previous = np.zeros((count, layout.previous), np.float32)
    actions = np.zeros((count, layout.actions), np.float32)
    log_probs, masks = np.zeros(count, np.float32), np.zeros((count, layout.raw), np.float32)
    with torch.inference_mode(mode=False):  # noise of inference mode cannot be drawn anew outside of it
        noise, draws = compiled.noise_buffer(count)
    return _Workspace(
        count=count,
        observations=observations,
        starts=starts,
        before=before,
        previous=previous,
        entering=tuple(_parts(layout, before)),
        leaving=_parts(layout, after),
        actions=actions.reshape(count, *policy.action_space.shape),
        log_probs=log_probs,
        masks=masks,
        draws=draws,
        read=(compiled.plan, compiled.reals, *_addresses(observations, starts, previous, before)),
        noise_at=noise.data_ptr(),
        masks_at=int(masks.ctypes.data),
        written=(*_addresses(actions), 0, *_addresses(log_probs, after), count),
    )


def _addresses(*arrays: Array) -> list[int]:
    return [int(array.ctypes.data) if array.size else 0 for array in arrays]


def _parts(layout: Any, memory: Array) -> Array:
    """Return the hidden state (B, S) as `predict` gives it: (1, B, S), of LSTM layers h and c as (2, L, B, H)."""
    memory = memory[:, : layout.memory]  # the actor's comes first
    if not layout.layers:
        return memory[None]
    of_actor = memory.reshape(-1, layout.depth, 2, layout.width)  # h | c of each layer
    return of_actor.transpose(2, 1, 0, 3)
