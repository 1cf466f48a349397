"""Training loop of the learning experiments: AdamW, gradient clipping, evaluations outside the measured time."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minrl.bench.measure import clock_of
from minrl.system.files import replacing
from minrl.system.signals import StopRequest
from minrl.training.optimizer import Schedule, decayed_groups

# Seconds between two saves of an unfinished part.
_SAVE_EVERY = 120.0


@dataclass(frozen=True)
class Training:
    """Settings of a training."""

    steps: int
    batch_size: int
    learning_rate: float
    clip: float
    evaluate_every: int
    weight_decay: float = 0.01
    warmup: float = 0.0  # share of the steps
    decay: Literal["cosine", "constant"] = "constant"


def train(
    model: nn.Module,
    training: Training,
    loss: Callable[[int], Tensor],
    evaluate: Callable[[], Mapping[str, float]],
    *,
    name: str,
    seed: int,
    unfinished: Path | None = None,
) -> list[dict[str, Any]]:
    """Train in place and return the learning curve: a record for each evaluation, the last step's included.

    A record holds `step`, `seconds` of training so far (CPU time with one thread, else wall time, without evaluations),
    `train_loss`, the mean since the previous record, and the result of `evaluate`.

    Args:
        model: on the training device.
        training: steps and optimizer.
        loss: differentiable mean loss of step 0, 1, …; its batch must depend on the step and a seed alone.
        evaluate: called without gradients, with the model in evaluation mode.
        name: of the part, for lines of progress.
        seed: of dropout.
        unfinished: file of the training state, from `Request.unfinished`; training resumes from it with the same
            numbers, and the file is deleted at the end.

    Raises:
        FloatingPointError: if the loss is no longer finite.
        KeyboardInterrupt: after SIGINT or SIGTERM, once the current step is finished and saved.
    """
    run = _Run(model, training, seed)
    if unfinished is not None and unfinished.exists():
        run.load(unfinished)
        print(f"{name}: resumes after step {run.step}", file=sys.stderr)
    run.warm_up(loss)
    saved = time.monotonic()
    bar = tqdm(total=training.steps, initial=run.step, desc=name, unit="step", leave=False, disable=None)
    with StopRequest() as request, bar:
        while run.step < training.steps:
            run.update(loss)
            bar.update()
            if run.step % training.evaluate_every == 0 or run.step == training.steps:
                run.record(evaluate, name)
                tqdm.write(_line(name, training.steps, run.curve[-1]), file=sys.stderr)
            stops = request.signal is not None
            if unfinished is not None and (stops or time.monotonic() - saved > _SAVE_EVERY):
                run.save(unfinished)
                saved = time.monotonic()
            if stops:
                raise KeyboardInterrupt
    if unfinished is not None:
        unfinished.unlink(missing_ok=True)
    return run.curve


class _Run:
    """Training state between two steps."""

    def __init__(self, model: nn.Module, training: Training, seed: int) -> None:
        self.model, self.clip = model, training.clip
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        self.clock = clock_of(self.device)
        self.schedule = Schedule(training.learning_rate, training.steps, training.warmup, training.decay)
        groups = decayed_groups(model, training.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
        torch.manual_seed(seed)
        self.step, self.seconds = 0, 0.0
        self.losses: list[Tensor] = []
        self.curve: list[dict[str, Any]] = []
        model.train()

    def warm_up(self, loss: Callable[[int], Tensor]) -> None:
        """Compile kernels and choose libraries before time is measured; nothing else changes."""
        with torch.random.fork_rng(self._gpus()):
            loss(self.step).backward()
        self.optimizer.zero_grad()

    def update(self, loss: Callable[[int], Tensor]) -> None:
        """Make one gradient step."""
        begin = self.clock.now()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(self.step)
        self.optimizer.zero_grad()
        value = loss(self.step)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.seconds += self.clock.now() - begin
        self.losses.append(value.detach())
        self.step += 1

    def record(self, evaluate: Callable[[], Mapping[str, float]], name: str) -> None:
        """Evaluate and add a point to the curve."""
        mean = torch.stack(self.losses).mean().item()
        if not math.isfinite(mean):
            raise FloatingPointError(f"{name}: the loss is not finite by step {self.step}; finished parts are kept")
        self.losses = []
        self.model.eval()
        with torch.random.fork_rng(self._gpus()), torch.no_grad():
            found = evaluate()
        self.model.train()
        self.curve.append({"step": self.step, "seconds": round(self.seconds, 3), "train_loss": mean, **found})

    def _gpus(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def save(self, path: Path) -> None:
        """Save all that the next steps depend on."""
        on_gpu = self.device.type == "cuda"
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_on_gpu": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "losses": [value.item() for value in self.losses],
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Restore what `save` wrote."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if state["random_on_gpu"] is not None:
            torch.cuda.set_rng_state(state["random_on_gpu"], self.device)
        self.losses = [torch.tensor(value, device=self.device) for value in state["losses"]]
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]


def _line(name: str, steps: int, record: Mapping[str, Any]) -> str:
    values = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in record.items() if k not in ("step", "seconds"))
    return f"{name}: step {record['step']} of {steps}, {record['seconds']:.0f} s of training, {values}"
