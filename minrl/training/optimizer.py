"""One gradient step: AdamW, warm-up and decay of the learning rate, gradient clipping, averaged weights (EMA)."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minrl.agent import Agent, Batch
from minrl.cells import Cell
from minrl.runs.optimizer_state import first_not_finite, load_optimizer, not_finite
from minrl.system.distributed import Group
from minrl.training.cuda_graph import CapturedStep, Step
from minrl.training.long_steps import Breakable


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run: linear warm-up to its peak, then constant or a half cosine to zero."""

    peak: float
    steps: int
    warmup: float  # share of the steps
    decay: str  # "cosine" or "constant"

    def at(self, step: int) -> float:
        """Return the learning rate of gradient step `step`, counted from 0."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return self.peak * (step + 1) / warm
        if self.decay == "constant":
            return self.peak
        progress = (step - warm) / max(1, self.steps - warm)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def newest_share(decay: float, step: int) -> float:
    """Return the weight of the newest parameters in the average after gradient step `step`, counted from 0.

    A running average with decay d that starts at the initial weights holds a share d ** t of them after t steps: 37 %
    after 1000 with 0.999. Adam's bias correction (arXiv 1412.6980, section 3), division of the rest by its weight
    1 - d ** t, is the same as averaging the newest weights in with the share (1 - d) / (1 - d ** t).
    """
    return (1 - decay) / -math.expm1((step + 1) * math.log(decay))


def decayed_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trained parameters into a group with weight decay and one without.

    Matrices and convolutions decay; biases, norms and embeddings do not, as in minGPT's `configure_optimizers`, nor do
    the parameters in `Cell.undecayed`.
    """
    decayed = {id(parameter) for part in module.modules() for parameter in _decayed(part)}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with_decay = [parameter for parameter in trained if id(parameter) in decayed]
    without = [parameter for parameter in trained if id(parameter) not in decayed]
    return [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]


def _decayed(part: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of `part` itself, without submodules, that get weight decay."""
    if isinstance(part, nn.Embedding):
        return []
    exempt = part.undecayed if isinstance(part, Cell) else frozenset()
    own = part.named_parameters(recurse=False)
    return [parameter for name, parameter in own if parameter.dim() > 1 and name not in exempt]


class Optimizer:
    """AdamW on an agent's loss, with gradient clipping, averaged weights and gradients summed over processes.

    Args:
        agent: that is trained.
        schedule: of the learning rate.
        weight_decay: of the first group of `decayed_groups`.
        clip: largest norm of the whole gradient.
        average: decay per step of the averaged weights, 0 for none; they hold no share of the initial weights.
        autocast: run the network in bfloat16 (recurrences stay in float32).
        group: the processes that train together.
    """

    def __init__(
        self,
        agent: Agent,
        schedule: Schedule,
        *,
        weight_decay: float,
        clip: float,
        average: float = 0.0,
        autocast: bool = False,
        group: Group | None = None,
    ) -> None:
        self.agent, self.schedule, self.clip, self.autocast = agent, schedule, clip, autocast
        self.group = group or Group(0, 1)
        self.device = next(agent.parameters()).device
        on_gpu = self.device.type == "cuda"
        # A captured step reads the learning rate from the GPU.
        rate = torch.tensor(schedule.peak, device=self.device) if on_gpu else schedule.peak
        groups = decayed_groups(agent, weight_decay)
        self.adam = torch.optim.AdamW(groups, lr=rate, fused=True, capturable=on_gpu)
        # Listed once: a walk through all modules takes as long as the gradients' norms.
        self.parameters = list(agent.parameters())
        self.average = average
        self.averaged = {n: p.detach().clone() for n, p in agent.named_parameters()} if average else {}
        # A tensor, as a captured step reads it from the GPU.
        self.newest_share = torch.ones((), device=self.device)
        # Sums over processes cannot be captured, nor cells that read values back to the host.
        alone = self.group.size == 1
        recordable = alone and not any(isinstance(m, Cell) and m.reads_back for m in agent.modules())
        self._breakable: Breakable = nullcontext
        self._run: Step = CapturedStep(self._step) if on_gpu and recordable else self._step

    def update(
        self, batch: Batch, memory: Tensor | None, step: int, breakable: Breakable = nullcontext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make one step; return the mean loss over all processes, the gradient norm and the next hidden state.

        The gradient, and nothing else, is computed inside the context `breakable()`.
        """
        self._breakable = breakable
        for parameters in self.adam.param_groups:
            rate = self.schedule.at(step)
            if isinstance(parameters["lr"], Tensor):
                parameters["lr"].fill_(rate)
            else:
                parameters["lr"] = rate
        if self.average:
            self.newest_share.fill_(newest_share(self.average, step))
        loss, norm, last = self._run(batch, memory)
        return loss, norm, last

    def _step(self, batch: Batch, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        self.adam.zero_grad(set_to_none=True)
        with self._breakable():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                loss = self.agent.loss(batch, memory)
            count = self.group.sum(loss.count.detach().clone())
            mean = loss.total / count
            mean.backward()
        self.group.sum_gradients(self.agent)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.adam.step()
        with torch.no_grad():
            for name, parameter in self.agent.named_parameters() if self.average else ():
                self.averaged[name].lerp_(parameter, self.newest_share.to(parameter.dtype))
        return self.group.sum(mean.detach().clone()), norm, loss.memory

    def acting_weights(self) -> dict[str, Any]:
        """Return the weights that act: averaged ones where averaging is on."""
        return {**self.agent.state_dict(), **self.averaged}

    def not_finite(self) -> str | None:
        """Return the name of a weight, average or optimizer state that is not finite; None if all are."""
        averages = ((f"the average of {name}", value) for name, value in self.averaged.items())
        return not_finite(self.agent.named_parameters(), self.adam) or first_not_finite(averages)

    def state_dict(self) -> dict[str, Any]:
        """Return all state that the next update depends on beside the batch."""
        return {
            "adam": self.adam.state_dict(),
            "weights": self.agent.state_dict(),
            "averaged": self.averaged,
            "averaged_without_initial": True,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: for averages that include the initial weights, or a state that does not fit the parameters or
                is not finite.
        """
        if state["averaged"] and not state.get("averaged_without_initial"):
            raise ValueError(
                "its averaged weights were saved by an older version and include the initial weights, which cannot be "
                "removed: start a new run"
            )
        load_optimizer(self.adam, state["adam"])
        self.agent.load_state_dict(state["weights"])
        for group in self.adam.param_groups:
            if isinstance(group["lr"], Tensor):  # a checkpoint is read to the CPU, a captured step reads the GPU
                group["lr"] = group["lr"].to(self.device)
        for name, value in state["averaged"].items():
            self.averaged[name].copy_(value)
        if (found := self.not_finite()) is not None:
            raise ValueError(f"{found} is not finite")
