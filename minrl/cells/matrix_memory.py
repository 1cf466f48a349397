"""Matrix states, one per head and with one decay: on a CPU one compiled loop over time.

Elsewhere in chunks, quadratic inside, with a scan between.

Shapes: B batch, T time, H heads, K features of a key, V of a value; N chunks of C steps, J = C + 1 sources of a
chunk's output: the state that enters it and its own steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.cells.nan_masks import filled, finite_gradients, not_finite, reached
from minrl.cells.running_max import EMPTY, lagged, running_max
from minrl.kernels.matrix.cpu import matrix_scan
from minrl.kernels.recurrence import takes
from minrl.scan import linear_scan

CHUNK = 32


class Memory(NamedTuple):
    """Matrix state: the decayed, weighted sum of key value^T (B, H, K, V) in units of exp(`unit`) (B, H)."""

    matrix: Tensor
    unit: Tensor | None = None


def matrix_memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    log_weight: Tensor | None,
    memory: Memory,
    reset: Tensor | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Memory, Tensor | None]:
    """Compute S_t = exp(log_decay_t) S_{t-1} + scale exp(log_weight_t) k_t v_t^T, y_t = q_t S_t, with S_{t-1} := 0
    where `reset`.

    Where no kernel runs: the chunked form of arXiv 2405.21060, section 6, with sums of log decays formed pair by pair
    (its listing 1), so that a strong decay before a pair costs no digits of it. All chunks run side by side.

    With `log_weight` all is computed in units of exp(m), m_t = max(log_decay_t + m_{t-1}, log_weight_t), with
    m_{t-1} = 0 for the zero state (arXiv 2405.04517, equation 15); without it the unit is 1.

    Args:
        query, key: (B, T, H, K), or one for all heads (B, T, 1, K).
        value: (B, T, H, V).
        log_decay: (B, T, H), at most 0.
        log_weight: (B, T, H) or None for weights of 1.
        memory: before the first step.
        reset: (B, T) bool or None.
        scale: of keys, where there is a `log_weight`.

    Returns:
        y (B, T, H, V) and the last memory, both in units of exp(m), and m (B, T, H), which takes no gradient.
    """
    if takes(value):
        return _compiled(query, key, value, log_decay, log_weight, memory, reset, scale)
    key = key if log_weight is None else key * scale
    faulty = not_finite(2, key, value, log_decay, *([] if log_weight is None else [log_weight]))
    lost = not_finite(1, *(part for part in memory if part is not None))
    spoiled = reached(faulty, lost, reset)
    key, value, log_decay = filled(key, faulty), filled(value, faulty), filled(log_decay, faulty)
    log_weight = None if log_weight is None else filled(log_weight, faulty)
    memory = _filled(memory, lost)
    unread = not_finite(2, query)
    query = filled(query, unread)
    y, last, units = _chunked(query, key, value, log_decay, log_weight, memory, reset)
    if reset is not None:
        y = finite_gradients(y, query.sum(-1, keepdim=True))
        last = last._replace(matrix=finite_gradients(last.matrix, value[:, -1].unsqueeze(-2)))
    return filled(y, spoiled | unread, torch.nan), _filled(last, spoiled[:, -1], torch.nan), units


def matrix_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    log_weight: Tensor | None,
    memory: Memory,
    scale: float = 1.0,
) -> tuple[Tensor, Memory]:
    """Compute one step of `matrix_memory`, without the dimension of time: y (B, H, V) and the next memory."""
    if log_weight is None or memory.unit is None:
        unit, decay = None, log_decay.exp()
    else:
        unit = torch.maximum(log_decay + memory.unit, log_weight).detach()
        decay = torch.exp(log_decay + memory.unit - unit)
        key = key * (scale * torch.exp(log_weight - unit)).unsqueeze(-1)
    matrix = decay[..., None, None] * memory.matrix + key.unsqueeze(-1) * value.unsqueeze(-2)
    y = (query.unsqueeze(-2) @ matrix).squeeze(-2)
    return y, Memory(matrix, unit)


def _compiled(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    log_weight: Tensor | None,
    memory: Memory,
    reset: Tensor | None,
    scale: float,
) -> tuple[Tensor, Memory, Tensor | None]:
    """Compute `matrix_memory` as one loop over time, whose decays are those of the state in its units."""
    units = None
    if log_weight is not None and memory.unit is not None:
        units = running_max(_floor(log_decay, log_weight, reset), log_decay, memory.unit, reset)
        log_decay = log_decay + lagged(units, memory.unit, reset) - units
        key = key * (scale * torch.exp(log_weight - units)).unsqueeze(-1)  # at once: a pass over all steps less
    y, last = matrix_scan(query, key, value, log_decay.exp().unsqueeze(-1), memory.matrix.flatten(1), reset)
    return y, Memory(last.view_as(memory.matrix), None if units is None else units[:, -1]), units


def _chunked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    log_weight: Tensor | None,
    memory: Memory,
    reset: Tensor | None,
) -> tuple[Tensor, Memory, Tensor | None]:
    """Compute `matrix_memory` of finite values."""
    steps, size = value.shape[1], min(CHUNK, value.shape[1])
    own, before, closed = _visible(value, reset, size)
    # Log decay of each source of the chunk up to each step: of the entering memory, then of the steps before.
    weight = _decay_sums(_chunks(log_decay, size)).masked_fill(~torch.cat([before, own], dim=-1), -torch.inf)
    unit, units = None, None
    if log_weight is not None and memory.unit is not None:
        weight, unit = _weighted(weight, log_decay, log_weight, memory.unit, closed, reset, size)
        weight = weight - unit.unsqueeze(-1)
        units = unit.transpose(2, 3).flatten(1, 2)[:, :steps]
    weight = weight.exp()  # (B, N, H, C, J)
    of_memory, of_steps = weight[..., :1], weight[..., 1:]

    queries, keys, values = _chunks(query, size), _chunks(key, size), _chunks(value, size)
    inserted = (keys * of_steps[..., -1, :, None]).mT @ values  # (B, N, H, K, V)
    matrices, last = _between(of_memory[..., -1, :], inserted, memory.matrix, closed)
    scores = (queries @ keys.mT) * of_steps
    y = scores @ values + of_memory * (queries @ matrices)
    y = y.transpose(2, 3).flatten(1, 2)[:, :steps]
    return y, Memory(last, None if unit is None else unit[:, -1, :, -1]), units


def _filled(memory: Memory, rows: Tensor, value: float = 0.0) -> Memory:
    unit = None if memory.unit is None else filled(memory.unit, rows, value)
    return Memory(filled(memory.matrix, rows, value), unit)


def _chunks(x: Tensor, size: int, fill: float = 0.0) -> Tensor:
    """Cut (B, T, H, …) into chunks (B, N, H, C, …), padded with `fill`, steps without effect."""
    beyond = -x.shape[1] % size
    x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, beyond), value=fill)
    chunks: Tensor = x.unflatten(1, (-1, size))
    return chunks.transpose(2, 3)


def _visible(like: Tensor, reset: Tensor | None, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which pairs of steps (B, N, 1, C, C) and which steps and entering memories (B, N, 1, C, 1) are of one
    episode.

    Last, True where an episode opens inside a chunk (B, N), so that the entering memory does not leave it.
    """
    batch, steps = like.shape[:2]
    episode = like.new_zeros(batch, steps, dtype=torch.int64) if reset is None else reset.cumsum(dim=1)
    beyond = -steps % size
    episode = torch.cat([episode, episode[:, -1:].expand(-1, beyond)], dim=1).unflatten(1, (-1, size))
    entering = F.pad(episode[:, :-1, -1], (1, 0)).unsqueeze(-1)  # the carried memory is of episode 0
    own = (episode.unsqueeze(-1) == episode.unsqueeze(-2)).tril().unsqueeze(2)
    before = (episode == entering).unsqueeze(-1).unsqueeze(2)
    return own, before, episode[..., -1] != entering.squeeze(-1)


def _decay_sums(log_decay: Tensor) -> Tensor:
    """Sum log decays (…, C) -> (…, C, J) up to each step: from the chunk's start, then from after each step."""
    size = log_decay.shape[-1]
    return log_decay.unsqueeze(-1).expand(*log_decay.shape, size + 1).tril().cumsum(dim=-2)


def _weighted(
    sums: Tensor,
    log_decay: Tensor,
    log_weight: Tensor,
    first: Tensor,
    closed: Tensor,
    reset: Tensor | None,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Return log weights (B, N, H, C, J) of all sources, and their unit m (B, N, H, C)."""
    with torch.no_grad():
        floor = _floor(log_decay, log_weight, reset)
        inside = (sums[..., 1:] + _chunks(floor, size, EMPTY).unsqueeze(-2)).amax(dim=-1)  # (B, N, H, C)
    after = running_max(inside[..., -1], sums[..., -1, 0], first, closed)
    entering = torch.cat([first.unsqueeze(1), after[:, :-1]], dim=1)  # (B, N, H)
    from_memory = sums[..., 0] + entering.unsqueeze(-1)
    from_steps = sums[..., 1:] + _chunks(log_weight, size, EMPTY).unsqueeze(-2)
    unit = torch.maximum(inside, from_memory).detach()  # forward mode continues under no_grad
    return torch.cat([from_memory.unsqueeze(-1), from_steps], dim=-1), unit


@torch.no_grad()
def _floor(log_decay: Tensor, log_weight: Tensor, reset: Tensor | None) -> Tensor:
    """Return the least log unit of each step (B, T, H): at a reset that of the zero state, 0, after one decay."""
    if reset is None:
        return log_weight
    return torch.where(reset.unsqueeze(-1), torch.maximum(log_decay, log_weight), log_weight)


def _between(decay: Tensor, inserted: Tensor, first: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the memory that enters each chunk (B, N, H, K, V), and the last (B, H, K, V)."""
    start = first.flatten(1)
    after, last = linear_scan(decay.unsqueeze(-1).expand_as(inserted).flatten(2), inserted.flatten(2), start, closed)
    entering = torch.cat([start.unsqueeze(1), after[:, :-1]], dim=1)
    return entering.view_as(inserted), last.view_as(first)
