"""The update of recurrent PPO as one compiled call, with the figures that Stable-Baselines3's `PPO.train` logs."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from stable_baselines3.common.utils import explained_variance
from torch import nn

from minrl.kernels.guard import Watch
from minrl.online.compiled.buffers import block_buffers, head_layers, kept_buffers, minibatch_buffers
from minrl.online.compiled.conditions import obstacle_of_update
from minrl.online.compiled.layout import PolicyLayout, policy_layout, trunk_addresses
from minrl.online.compiled.memory import Arena, address, words
from minrl.online.compiled.segments import Minibatches, Rollout, draw_minibatches, rollout_tensors


@dataclass
class _Update:
    """Layout and buffers of a policy's update."""

    layout: PolicyLayout
    watch: Watch
    largest: tuple[int, int]  # rows and segments of a minibatch
    arguments: tuple[Any, ...]  # buffers and layers


_updates: WeakKeyDictionary[nn.Module, _Update] = WeakKeyDictionary()


def announce(algorithm: Any, *, masked: bool) -> None:
    """Print, with `verbose` of at least 1, whether updates run as one compiled call, if not, why, and masks."""
    if algorithm.verbose >= 1:
        if masked:
            print("actions: masked by action_masks() of the environments")
        reason = _obstacle(algorithm)
        print(f"update: {'one compiled call' if reason is None else f'torch operations, as {reason}'}")


def _obstacle(algorithm: Any) -> str | None:
    return obstacle_of_update(algorithm.policy, algorithm.batch_size or algorithm.n_steps * algorithm.n_envs)


def train(algorithm: Any) -> bool:
    """Update the policy of a `RecurrentPPO` from its rollout; return False where that is not for the kernels."""
    policy, buffer = algorithm.policy, algorithm.rollout_buffer
    if _obstacle(algorithm) is not None:
        return False
    policy.set_training_mode(True)
    algorithm._update_learning_rate(policy.optimizer)
    progress = algorithm._current_progress_remaining
    clip = algorithm.clip_range(progress)
    clip_value = None if algorithm.clip_range_vf is None else algorithm.clip_range_vf(progress)
    parameter = next(iter(policy.parameters()))
    rollout = rollout_tensors(buffer, policy, parameter.dtype)
    # An epoch a call, between which a signal is answered.
    spans = [range(epoch, epoch + 1) for epoch in range(algorithm.n_epochs)]
    figures, epochs = [], []
    for span in spans:
        buffer.epochs = span[0]
        buffer.refresh_states()
        if buffer.refresh is not None and span[0]:
            rollout.states = torch.cat([group.state for group in buffer.groups()]).to(parameter.dtype).contiguous()
        keep = algorithm.target_kl is not None
        minibatches = draw_minibatches(buffer, rollout, algorithm.batch_size, span, keep_states=keep)
        found, stopped = _run(algorithm, rollout, minibatches, clip, clip_value)
        figures.append(found)
        epochs.append(minibatches.table[: len(found), 5])
        buffer.epochs = int(epochs[-1][-1]) + 1
        algorithm._n_updates += len(np.unique(epochs[-1]))
        if stopped:
            epoch = int(epochs[-1][-1])
            np.random.set_state(minibatches.states[epoch - span[0]])  # noqa: NPY002, the generator SB3 seeds
            if algorithm.verbose >= 1:
                print(f"Early stopping at step {epoch} due to reaching max kl: {found[-1, KL]:.2f}")
            break
    policy.first_ratio_dev = float(figures[0][0, RATIO_DEV])
    record_figures(algorithm, np.concatenate(figures), np.concatenate(epochs), clip, clip_value)
    return True


# The columns of the figures.
POLICY, VALUE, ENTROPY, TOTAL, KL, CLIPPED, RATIO_DEV, FIGURES = range(8)


def _run(
    algorithm: Any, rollout: Rollout, minibatches: Minibatches, clip: float, clip_value: float | None
) -> tuple[Any, bool]:
    """Run some epochs; return the figures of each minibatch, and whether the KL divergence ended them."""
    from minrl.kernels.ppo import adam, backbone, loss, update  # they import numba

    policy = algorithm.policy
    plan = _plan(policy, minibatches.largest)
    layout, group = plan.layout, policy.optimizer.param_groups[0]
    tensors = rollout.inputs, rollout.resets, rollout.states, rollout.actions, rollout.old, rollout.valid, rollout.masks
    trunk = backbone.TrunkSizes(
        int(layout.layers), layout.inputs, layout.width, layout.depth, layout.inner,
        layout.kind.states * layout.inner, layout.hidden, layout.taps, layout.state_size,
    )  # fmt: skip
    sizes = update.UpdateSizes(
        len(rollout.inputs), plan.largest[0], len(layout.trunks), layout.memory, layout.critic, layout.head,
        layout.raw, layout.actions, layout.activation, layout.sums.size,
    )  # fmt: skip
    target = algorithm.target_kl
    settings = loss.LossSettings(
        float(clip), -1.0 if clip_value is None else float(clip_value), float(algorithm.ent_coef),
        float(algorithm.vf_coef), bool(algorithm.normalize_advantage), -1.0 if target is None else float(target),
    )  # fmt: skip
    first, second = map(float, group["betas"])
    rates = adam.AdamSettings(float(group["lr"]), first, second, float(group["eps"]), float(algorithm.max_grad_norm))
    figures, done = np.zeros((len(minibatches.table), FIGURES)), np.zeros(2, np.int64)
    update.update()(
        words([address(tensor) for tensor in tensors]), *plan.arguments, layout.epsilons, layout.flip, layout.pieces,
        _moments(layout, policy.optimizer), minibatches.table, minibatches.order, trunk, sizes, settings, rates,
        figures, done,
    )  # fmt: skip
    return figures[: done[0]], bool(done[1])


def _plan(policy: Any, largest: tuple[int, int]) -> _Update:
    """Return layout and buffers of a policy, made anew where a part was replaced or a minibatch is larger."""
    plan = _updates.get(policy)
    if (
        plan is not None
        and plan.watch.is_valid()
        and getattr(policy, "log_std", None) is plan.layout.log_std
        and all(a >= b for a, b in zip(plan.largest, largest, strict=True))
    ):
        return plan
    layout = policy_layout(policy)
    arena = Arena(layout.arena.dtype)
    weights, gradients = trunk_addresses(layout)
    rows, segments = largest
    arguments = (
        minibatch_buffers(layout, arena, rows, segments), block_buffers(layout, arena, rows, segments),
        weights, gradients, kept_buffers(layout, arena, rows, segments), *head_layers(layout, arena, rows), arena,
    )  # fmt: skip
    watch = Watch.over(parts_of(policy), [parameter for parameter, _ in layout.parameters], backward=True)
    assert watch is not None
    plan = _Update(layout, watch, largest, arguments[:-1])
    plan.layout.arena.keep(arena)
    _updates[policy] = plan
    return plan


def parts_of(policy: nn.Module) -> nn.ModuleList:
    """Return the modules of a policy, without the policy's own attributes, which change in training."""
    parts = nn.ModuleList()
    parts.__dict__["_modules"] = policy._modules  # the same dictionary, so that a replaced module is noticed
    return parts


def _moments(layout: PolicyLayout, optimizer: Any) -> Any:
    """Return the table of parameters for Adam; its state is made as torch makes it where there is none yet."""
    for parameter in optimizer.param_groups[0]["params"]:
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    rows = []
    for parameter, gradient in layout.parameters:
        state = optimizer.state[parameter]
        moments = state["exp_avg"], state["exp_avg_sq"], state["step"]
        rows.append((parameter.data_ptr(), gradient, *(x.data_ptr() for x in moments), parameter.numel()))
    return words(rows)


def record_figures(algorithm: Any, figures: Any, epochs: Any, clip: float, clip_value: float | None) -> None:
    """Log what `PPO.train` logs, from the figures (G, C) of minibatches and the epoch (G,) of each."""
    policy, record, buffer = algorithm.policy, algorithm.logger.record, algorithm.rollout_buffer
    record("train/entropy_loss", figures[:, ENTROPY].mean())
    record("train/policy_gradient_loss", figures[:, POLICY].mean())
    record("train/value_loss", figures[:, VALUE].mean())
    record("train/approx_kl", figures[epochs == epochs[-1], KL].mean())
    record("train/clip_fraction", figures[:, CLIPPED].mean())
    record("train/loss", float(figures[-1, TOTAL]))
    record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
    if hasattr(policy, "log_std"):
        record("train/std", torch.exp(policy.log_std).mean().item())
    record("train/n_updates", algorithm._n_updates, exclude="tensorboard")
    record("train/clip_range", clip)
    if clip_value is not None:
        record("train/clip_range_vf", clip_value)
