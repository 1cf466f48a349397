"""The update of recurrent PPO as one call: all epochs and minibatches over buffers that lie ready.

Shapes: B segments of a minibatch, T their steps, N = B * T rows, S state size, K raw outputs, A action width,
G minibatches of all epochs.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from minrl.kernels.jit.compile import compiled, uncounted
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add, copy_row
from minrl.kernels.ppo import backbone, distributions, heads, layers, loss
from minrl.kernels.ppo.adam import adam_step
from minrl.kernels.ppo.cells import MATMUL, PARTIAL, TURNED
from minrl.kernels.ppo.linear import bias_gradient, linear, weight_gradient
from minrl.kernels.ppo.matmul import lanes_of

# What the critic reads: the actor's latent, that of its own trunk, the actor's without a gradient, a linear layer.
SHARED, OWN, DETACHED, LINEAR = range(4)
# The columns of the list of minibatches.
FIRST_ROW, STEPS, FIRST_STATE, FIRST_SEGMENT, SEGMENTS, EPOCH, PER_MINIBATCH = range(7)
# Where the rollout lies, row by row in segments, and where the rows of a minibatch go.
INPUTS, RESETS, STATES, ACTIONS, OLD, VALID, MASKS, ROLLOUT = range(8)
# Further buffers of a minibatch: both latents and their gradients, what the loss is of and its gradients, room for the
# gradients within the heads; then gradients that are sums, log_std and its gradient.
LATENT, DLATENT, LOG_PROBS, ENTROPIES, DVALUES, OF_LOG_PROB, OF_ENTROPY, FIRST, SECOND = range(7, 16)
SUMS, LOG_STD, DLOG_STD, BUFFERS = range(16, 20)
_BYTE = np.uint8(0)


class UpdateSizes(NamedTuple):
    """Sizes and kinds beside those of the trunk."""

    rows: int  # of the rollout
    most_rows: int  # of a minibatch
    trunks: int
    memory: int  # columns of the state before those of the critic's trunk
    critic: int
    head: int
    raw: int  # K
    actions: int  # A
    activation: int
    sums: int  # elements that are set to zero before each backward pass


@uncounted
def gather(rollout: Any, buffers: Any, batch: Any, order: Any, inputs: int, sizes: Any, state: int, like: Any) -> None:
    """Copy the segments of a minibatch out of the rollout."""
    steps, count = batch[STEPS], batch[SEGMENTS]
    rows = steps * count
    x, to_x = matrix(rollout[INPUTS], sizes.rows, inputs, like), matrix(buffers[INPUTS], rows, inputs, like)
    resets, to_resets = vector(rollout[RESETS], sizes.rows, _BYTE), vector(buffers[RESETS], rows, _BYTE)
    valid, to_valid = vector(rollout[VALID], sizes.rows, _BYTE), vector(buffers[VALID], rows, _BYTE)
    states, to_states = rollout[STATES], matrix(buffers[STATES], count, state, like)
    actions = matrix(rollout[ACTIONS], sizes.rows, sizes.actions, like)
    to_actions = matrix(buffers[ACTIONS], rows, sizes.actions, like)
    old, to_old = matrix(rollout[OLD], 4, sizes.rows, like), matrix(buffers[OLD], 4, rows, like)
    for i in range(count):
        segment, to = order[batch[FIRST_SEGMENT] + i], i * steps
        first = batch[FIRST_ROW] + segment * steps
        entering = vector(states + (batch[FIRST_STATE] + segment) * state * lanes_of(like)[1], state, like)
        copy_row(entering, to_states[i], state)
        for n in range(steps):
            copy_row(x[first + n], to_x[to + n], inputs)
            copy_row(actions[first + n], to_actions[to + n], sizes.actions)
        if rollout[MASKS]:
            masks = matrix(rollout[MASKS], sizes.rows, sizes.raw, like)
            to_masks = matrix(buffers[MASKS], rows, sizes.raw, like)
            for n in range(steps):
                copy_row(masks[first + n], to_masks[to + n], sizes.raw)
        copy_row(resets[first : first + steps], to_resets[to : to + steps], steps)
        copy_row(valid[first : first + steps], to_valid[to : to + steps], steps)
        for k in range(4):
            copy_row(old[k, first : first + steps], to_old[k, to : to + steps], steps)


@uncounted
def through_heads(
    actor: Any, critic: Any, front: Any, buffers: Any, room: Any, latent_vf: int, pieces: Any, settings: Any,
    figures: Any, masked: bool, rows: int, inputs: int, sizes: Any, like: Any,
) -> None:  # fmt: skip
    """Run both heads and compute the figures of the loss and its gradients to values and distributions."""
    heads.forward(room[MATMUL], actor, buffers[LATENT], rows, sizes.activation, room[TURNED], like)
    if sizes.critic == LINEAR:
        linear(
            room[MATMUL], latent_vf, buffers[INPUTS], front[heads.WEIGHT], front[heads.BIAS], room[TURNED], rows,
            inputs, front[heads.OUTPUTS], like,
        )  # fmt: skip
    heads.forward(room[MATMUL], critic, latent_vf, rows, sizes.activation, room[TURNED], like)
    raw = matrix(actor[-1, heads.OUT], rows, sizes.raw, like)
    if masked:
        size = rows * sizes.raw
        add(vector(actor[-1, heads.OUT], size, like), vector(buffers[MASKS], size, like), size)
    actions, valid = matrix(buffers[ACTIONS], rows, sizes.actions, like), vector(buffers[VALID], rows, _BYTE)
    log_std = vector(buffers[LOG_STD], sizes.actions, like)
    log_probs, entropies = vector(buffers[LOG_PROBS], rows, like), vector(buffers[ENTROPIES], rows, like)
    distributions.evaluate(sizes.head, raw, pieces, log_std, actions, log_probs, entropies, rows)
    of_log_prob, of_entropy = vector(buffers[OF_LOG_PROB], rows, like), vector(buffers[OF_ENTROPY], rows, like)
    loss.evaluate_loss(
        settings, vector(critic[-1, heads.OUT], rows, like), log_probs, entropies, matrix(buffers[OLD], 4, rows, like),
        valid, vector(buffers[DVALUES], rows, like), of_log_prob, of_entropy, figures,
    )  # fmt: skip
    vector(buffers[SUMS], sizes.sums, like)[:] = like
    distributions.gradients(
        sizes.head, raw, pieces, log_std, actions, of_log_prob, of_entropy,
        vector(buffers[DLOG_STD], sizes.actions, like), rows,
    )  # fmt: skip


@uncounted
def through_heads_backward(
    actor: Any, critic: Any, front: Any, buffers: Any, room: Any, latent_vf: int, dlatent_vf: int, rows: int,
    inputs: int, sizes: Any, like: Any,
) -> None:  # fmt: skip
    """Compute the gradients to the heads' weights and to the latents."""
    heads.backward(
        room[MATMUL], actor, buffers[LATENT], actor[-1, heads.OUT], buffers[DLATENT], 0, buffers[FIRST],
        buffers[SECOND], room[PARTIAL], rows, sizes.activation, like,
    )  # fmt: skip
    added = buffers[DLATENT] if sizes.critic == SHARED else 0
    target = buffers[DLATENT] if sizes.critic == SHARED else dlatent_vf
    heads.backward(
        room[MATMUL], critic, latent_vf, buffers[DVALUES], 0 if sizes.critic == DETACHED else target, added,
        buffers[FIRST], buffers[SECOND], room[PARTIAL], rows, sizes.activation, like,
    )  # fmt: skip
    if sizes.critic == LINEAR:
        outputs = front[heads.OUTPUTS]
        weight_gradient(room[MATMUL], front[heads.DWEIGHT], dlatent_vf, buffers[INPUTS], rows, inputs, outputs, like)
        bias_gradient(front[heads.DBIAS], dlatent_vf, room[PARTIAL], rows, outputs, like)


@cache
def update() -> Callable[..., None]:
    """Build the kernel for trunks of blocks or of recurrent layers, whose cells are called by address.

    Its arguments: where the rollout lies, the buffers of a minibatch and those of all blocks; of each trunk the
    addresses of its weights, of their gradients and of what it keeps; the layers of both heads and of a critic that is
    linear; the norms' epsilons and the cells' sign; how many choices each component of an action has; the parameters of
    Adam; the list of minibatches and their segments; sizes and settings. It writes the figures (G, C) of each minibatch
    and, to `done`, how many there were and whether the KL divergence ended them.
    """

    def kernel(
        rollout: Any, buffers: Any, room: Any, weights: Any, gradients: Any, saved: Any, actor: Any, critic: Any,
        front: Any, epsilons: Any, flip: Any, pieces: Any, parameters: Any, minibatches: Any, order: Any, trunk: Any,
        sizes: Any, settings: Any, adam: Any, figures: Any, done: Any,
    ) -> None:  # fmt: skip
        size, like = lanes_of(flip)[1], flip - flip
        apart = sizes.most_rows * trunk.width * size
        latent_vf = buffers[LATENT] + (apart if sizes.critic == OWN or sizes.critic == LINEAR else 0)
        dlatent_vf = buffers[DLATENT] + apart
        for number in range(len(minibatches)):
            batch = minibatches[number]
            count, steps = batch[SEGMENTS], batch[STEPS]
            rows = count * steps
            gather(rollout, buffers, batch, order, trunk.inputs, sizes, trunk.state, like)
            for i in range(sizes.trunks):
                state, latent = buffers[STATES] + i * sizes.memory * size, buffers[LATENT] + i * apart
                if trunk.layers:
                    layers.forward(
                        weights[i], saved[i], room, buffers[INPUTS], buffers[RESETS], state, latent, count, steps,
                        trunk, flip,
                    )  # fmt: skip
                else:
                    backbone.forward(
                        weights[i], saved[i], room, buffers[INPUTS], buffers[RESETS], state, latent, count, steps,
                        trunk, epsilons, flip,
                    )  # fmt: skip
            through_heads(
                actor, critic, front, buffers, room, latent_vf, pieces, settings, figures[number],
                rollout[MASKS] != 0, rows, trunk.inputs, sizes, like,
            )  # fmt: skip
            done[0] = number + 1
            if settings.target_kl >= 0 and figures[number, loss.KL] > 1.5 * settings.target_kl:
                done[1] = 1
                return
            through_heads_backward(
                actor, critic, front, buffers, room, latent_vf, dlatent_vf, rows, trunk.inputs, sizes, like
            )
            for i in range(sizes.trunks):
                state, dlatent = buffers[STATES] + i * sizes.memory * size, buffers[DLATENT] + i * apart
                if trunk.layers:
                    layers.backward(
                        weights[i], gradients[i], saved[i], room, buffers[INPUTS], buffers[RESETS], state,
                        buffers[LATENT] + i * apart, dlatent, count, steps, trunk, flip,
                    )  # fmt: skip
                else:
                    backbone.backward(
                        weights[i], gradients[i], saved[i], room, buffers[INPUTS], buffers[RESETS], state, dlatent,
                        count, steps, trunk, flip,
                    )  # fmt: skip
            adam_step(parameters, adam, like)

    return compiled(kernel, allocates=False)
