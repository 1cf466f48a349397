"""One step of a recurrent policy as one call: features to action, value, log-likelihood and next state, in float32.

`act_rows` is called by its address, also by other loops, such as one over the steps of compiled environments.

Shapes: B environments, F features, P previous action and reward, S state size, K raw outputs, A action width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from minrl.kernels.backbone.cells import cell_step, room_of_step
from minrl.kernels.backbone.gemv import aligned
from minrl.kernels.backbone.gemv import linear as gemv
from minrl.kernels.backbone.step_loops import numbers, through_blocks, weights
from minrl.kernels.jit.calls import caller_of_act
from minrl.kernels.jit.compile import addressed, called, compiled, inlined
from minrl.kernels.jit.memory import vector
from minrl.kernels.jit.rows import add, copy_row
from minrl.kernels.ppo.backbone import BLOCKS, EMBED, EMBED_BIAS
from minrl.kernels.ppo.cells import PER_CELL
from minrl.kernels.ppo.distributions import BINARY, GAUSSIAN, log_normalizer, log_softmax, sigmoid, softplus
from minrl.kernels.ppo.heads import activate
from minrl.kernels.ppo.update import LINEAR, OWN

# The head of a plan: sizes and kinds as in the update, the address of log_std, and where in the plan further parts
# begin: the weights of a trunk, how many they are, the layers of both heads and of a linear critic, the choices; then
# the addresses of the step itself and of that of the blocks.
FEATURES, PREVIOUS, LAYERS, WIDTH, DEPTH, INNER, HIDDEN, TAPS, CELL, PARTS, OF_CELL, STATE, MEMORY = range(13)
TRUNKS, CRITIC, HEAD, RAW, ACTIONS, ACTIVATION, LOG_STD, WEIGHTS, OF_TRUNK, ACTOR, CRITIC_HEAD, FRONT = range(13, 25)
PIECES, END, ACT, BLOCK_STEP, PLAN = range(25, 30)
# A layer in a plan: addresses of weight and bias, and its sizes. Then the reals: the cells' sign and the epsilons.
WEIGHT, BIAS, INPUTS, OUTPUTS, PER_HEAD_LAYER = range(5)
FLIP, EPSILONS = range(2)
_F, _BYTE = np.float32(0), np.uint8(0)
call: Any = caller_of_act()


@called
def through_layers(layers: Any, latent: Any, out: Any, batch: int, activation: int) -> None:
    """Run the layers of a head on latents (B, ·) to `out`, with an activation after all but the last."""
    count = len(layers) // PER_HEAD_LAYER
    x = latent
    for i in range(count):
        layer = layers[i * PER_HEAD_LAYER : (i + 1) * PER_HEAD_LAYER]
        size, outputs = layer[INPUTS], layer[OUTPUTS]
        y = out if i == count - 1 else aligned(batch * outputs)
        gemv(x, weights(layer[WEIGHT], size * outputs), weights(layer[BIAS], outputs), y, batch, size, outputs)
        if i < count - 1:
            activate(y, activation, batch * outputs)
        x = y


@called
def step_layers(plan: Any, of_trunk: Any, x: Any, state: Any, latent: Any, batch: int, inputs: int, flip: Any) -> None:
    """Advance the state of each layer, in the rows of `state`, by one step; the last layer's h is the latent (B, D)."""
    width, depth, parts, size = plan[WIDTH], plan[DEPTH], plan[PARTS], plan[OF_CELL]
    room = aligned(room_of_step(batch, parts, width))
    for i in range(depth):
        h = latent if i == depth - 1 else aligned(batch * width)
        at = of_trunk[i * PER_CELL : (i + 1) * PER_CELL]
        cell_step(plan[CELL], at, x, state, i * size, plan[STATE], h, room, batch, inputs, width, parts, flip)
        x, inputs = h, width


@inlined
def chosen(log_p: Any, noise: Any, noise_at: int, count: int) -> int:
    """Return the first of the largest of p / noise, or of p where there is no noise."""
    best, most = 0, -np.inf
    for k in range(count):
        value = np.exp(log_p[k]) / noise[noise_at + k] if noise.size else log_p[k]
        if value > most:
            best, most = k, value
    return best


@called
def decide(
    kind: int, raw: Any, pieces: Any, log_std: Any, noise: Any, actions: Any, log_probs: Any, batch: int, width: int,
    outputs: int,
) -> None:  # fmt: skip
    """Choose actions (B, A) and compute their log-likelihoods (B,), from raw outputs (B, K) and noise.

    The noise is exponential for choices, piece after piece (B, n) each, uniform for yes or no, and normal for a
    Gaussian; none for the likeliest action.
    """
    if kind == GAUSSIAN:
        normalizer = log_normalizer(log_std)
        for b in range(batch):
            squares = 0.0
            for d in range(width):
                mean, std, at = raw[b * width + d], np.exp(log_std[d]), b * width + d
                action = mean + (noise[at] * std if noise.size else std - std)
                error = (action - mean) / std
                squares += error * error
                actions[at] = action
            log_probs[b] = -0.5 * squares - normalizer
    elif kind == BINARY:
        for b in range(batch):
            log_prob = 0.0
            for d in range(width):
                at = b * width + d
                p = sigmoid(raw[at])
                yes = noise[at] < p if noise.size else p > 0.5
                actions[at] = yes
                log_prob += (raw[at] if yes else _F) - softplus(raw[at])
            log_probs[b] = log_prob
    else:
        for b in range(batch):
            log_prob, first = 0.0, 0
            for d in range(len(pieces)):
                row = raw[b * outputs + first : b * outputs + first + pieces[d]]
                log_softmax(row, 0, pieces[d])
                choice = chosen(row, noise, batch * first + b * pieces[d], pieces[d])
                actions[b * width + d] = choice
                log_prob += row[choice]
                first += pieces[d]
            log_probs[b] = log_prob


@called
def prepare(plan: Any, features: int, starts: int, previous: int, state: int, x: Any, last: Any, batch: int) -> None:
    """Put features, start flag and previous step side by side, and the state into `last`; zeros at an episode's start.

    Only a backbone reads the start flag and the previous step: without them the plan has no previous step, and -1 for
    it means no flag either.
    """
    of_features, size = plan[FEATURES], plan[STATE]
    of_previous = max(plan[PREVIOUS], 0)
    inputs = of_features + plan[PREVIOUS] + 1
    seen, begins = numbers(features, batch * of_features), vector(starts, batch, _BYTE)
    before, entering = numbers(previous, batch * of_previous), numbers(state, batch * size)
    for b in range(batch):
        row = x[b * inputs : (b + 1) * inputs]
        copy_row(seen[b * of_features : (b + 1) * of_features], row, of_features)
        if plan[PREVIOUS] >= 0:
            row[of_features] = 1 if begins[b] else 0
            if begins[b]:
                row[of_features + 1 :] = _F
            else:
                copy_row(before[b * of_previous : (b + 1) * of_previous], row[of_features + 1 :], of_previous)
        to = last[b * size : (b + 1) * size]
        if begins[b]:
            to[:] = _F
        else:
            copy_row(entering[b * size : (b + 1) * size], to, size)


def act_rows(
    plan: Any, reals: Any, features: int, starts: int, previous: int, state: int, noise: int, masks: int, actions: int,
    values: int, log_probs: int, last: int, batch: int,
) -> None:  # fmt: skip
    """Compute one step of B environments from the addresses of features (B, F), starts (B,), and so on.

    Args:
        plan, reals: of `minrl.online.compiled.act`.
        features, starts, previous, state: what enters the step, (B, F), (B,) bytes, (B, P), (B, S).
        noise: as `decide` takes it, B * K or B * A numbers; 0 for the likeliest action.
        masks: (B, K) added to the raw outputs; 0 for none.
        actions, values, log_probs, last: where (B, A), (B,), (B,) and the next state (B, S) are written; with 0 for
            `values` the critic is left out, and its state stays as it is.
        batch: B.
    """
    width, size, inputs = plan[WIDTH], plan[STATE], plan[FEATURES] + plan[PREVIOUS] + 1
    x, after = aligned(batch * inputs), numbers(last, batch * size)
    prepare(plan, features, starts, previous, state, x, after, batch)
    latent = aligned(batch * width)
    latent_vf = aligned(batch * width) if plan[CRITIC] == OWN or plan[CRITIC] == LINEAR else latent
    for i in range(plan[TRUNKS] if values else 1):
        first = plan[WEIGHTS] + i * plan[OF_TRUNK]
        of_trunk, y = plan[first : first + plan[OF_TRUNK]], latent_vf if i else latent
        if plan[LAYERS]:
            step_layers(plan, of_trunk, x, after[i * plan[MEMORY] :], y, batch, inputs, reals[FLIP])
        else:
            stream = aligned(batch * width)
            embed, bias = weights(of_trunk[EMBED], inputs * width), weights(of_trunk[EMBED_BIAS], width)
            gemv(x, embed, bias, stream, batch, inputs, width)
            through_blocks(
                plan[BLOCK_STEP], of_trunk[BLOCKS:], reals[EPSILONS:], stream, after, i * plan[MEMORY], size, y, batch,
                width, plan[INNER], plan[HIDDEN], plan[TAPS], plan[DEPTH], plan[CELL], plan[PARTS], plan[OF_CELL],
                reals[FLIP],
            )  # fmt: skip
    if values and plan[CRITIC] == LINEAR:
        front = plan[plan[FRONT] : plan[FRONT] + PER_HEAD_LAYER]
        gemv(x, weights(front[WEIGHT], inputs * width), weights(front[BIAS], width), latent_vf, batch, inputs, width)
    if values:
        critic = plan[plan[CRITIC_HEAD] : plan[FRONT]]
        through_layers(critic, latent_vf, numbers(values, batch), batch, plan[ACTIVATION])
    raw = aligned(batch * plan[RAW])
    through_layers(plan[plan[ACTOR] : plan[CRITIC_HEAD]], latent, raw, batch, plan[ACTIVATION])
    if masks:
        add(raw, numbers(masks, batch * plan[RAW]), batch * plan[RAW])
    count = batch * (plan[RAW] if noise else 0)
    decide(
        plan[HEAD], raw, plan[plan[PIECES] : plan[END]], weights(plan[LOG_STD], plan[ACTIONS]), numbers(noise, count),
        numbers(actions, batch * plan[ACTIONS]), numbers(log_probs, batch), batch, plan[ACTIONS], plan[RAW],
    )  # fmt: skip


@cache
def act_address() -> int:
    """Compile `act_rows` by itself and return its address."""
    return addressed(act_rows, types.void(types.int64[::1], types.float32[::1], *[types.int64] * 11))


@cache
def act() -> Callable[..., None]:
    """Build the kernel of `act_rows`, which a plan has the address of."""

    def kernel(
        plan: Any, reals: Any, features: int, starts: int, previous: int, state: int, noise: int, masks: int,
        actions: int, values: int, log_probs: int, last: int, batch: int,
    ) -> None:  # fmt: skip
        call(
            plan[ACT], plan, reals, features, starts, previous, state, noise, masks, actions, values, log_probs, last,
            batch,
        )  # fmt: skip

    return compiled(kernel)
