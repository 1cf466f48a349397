"""Training an offline agent: one loop for every agent, exact to the bit when it is resumed on a CPU.

Shapes: B batch, S memory size.
"""

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from minrl import checkpoint
from minrl.agent import Agent, Batch, Sampler
from minrl.config import build, write_toml
from minrl.data import load
from minrl.data.episode import Episodes
from minrl.distributed import Group
from minrl.evaluate import Evaluation, evaluate
from minrl.interrupt import StopRequest
from minrl.log import STEP, open_log, silent_log
from minrl.optimize import Optimizer, Schedule
from minrl.task import Task


@dataclass(frozen=True)
class TrainConfig:
    """How an agent is trained."""

    data: str = field(default="", metadata={"help": "data set: minari:NAME, d4rl:NAME or hdf5:FILE"})
    seed: int = field(default=0, metadata={"help": "of weights, batches and dropout"})
    steps: int = field(default=10_000, metadata={"help": "gradient steps"})
    batch_size: int = field(default=4, metadata={"help": "rows of a batch, for each process"})
    length: int = field(default=1000, metadata={"help": "steps of a row of whole trajectories end to end"})
    carry: bool = field(
        default=True, metadata={"help": "carry the memory where a trajectory is cut between two batches"}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    warmup: float = field(default=0.05, metadata={"help": "share of the steps in which it rises"})
    decay: Literal["cosine", "constant"] = field(default="cosine", metadata={"help": "what follows"})
    weight_decay: float = field(default=1e-4, metadata={"help": "weight decay of AdamW"})
    clip: float = field(default=0.25, metadata={"help": "largest norm of the gradient"})
    average: float = field(default=0.0, metadata={"help": "decay of averaged weights (EMA), 0 for none"})
    precision: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "of matrix products; auto: bfloat16 on a GPU that has it"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda or auto"})
    threads: int = field(default=0, metadata={"help": "CPU threads, 0 leaves torch's choice"})
    log_every: int = field(default=100, metadata={"help": "steps between two rows of the log"})
    checkpoint_every: int = field(default=1000, metadata={"help": "steps between two checkpoints"})
    evaluate_every: int = field(
        default=1000,
        metadata={"help": "steps between two evaluations, 0 for none; one follows the last step"},
    )
    evaluate_episodes: int = field(default=10, metadata={"help": "episodes of an evaluation"})

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "length", "log_every", "checkpoint_every", "evaluate_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "evaluate_every", "threads", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    agent: Agent
    step: int
    evaluation: Evaluation | None  # of the last weights; None where the run was stopped or has no environment
    signal: int | None  # that asked it to stop
    seconds_per_step: float | None  # of gradient steps alone, of this process's share of the run


def train(kind: type[Agent], agent_config: Any, config: TrainConfig, out: Path) -> Result:
    """Train a new agent into the folder `out`.

    Raises:
        ValueError: if `out` already holds a run, the data set cannot be had or a setting is impossible.
        FloatingPointError: if the loss is no longer finite; the last checkpoint is kept.
    """
    if (out / checkpoint.LAST).exists():
        raise ValueError(f"{out} already holds a run: resume it with --resume {out}, or choose another --out")
    device, group = _prepare(config)
    episodes = load(config.data)
    torch.manual_seed(config.seed)
    agent = kind(agent_config, Task.of(episodes)).to(device)
    agent.fit_normalization(episodes)
    if group.is_first:
        out.mkdir(parents=True, exist_ok=True)
        write_toml(out / checkpoint.CONFIG, {kind.name: agent_config, "train": config})
    return _Run(agent, episodes, config, out, group).go()


def resume(out: Path) -> Result:
    """Go on with the run in `out` from its last checkpoint, to the same numbers as without the interruption."""
    saved = checkpoint.read(out)
    if "config" not in saved.training:
        raise ValueError(f"{out} holds an agent that only acts; there is nothing to resume")
    config = build(TrainConfig, saved.training["config"], f"checkpoint {out}")
    device, group = _prepare(config)
    agent = checkpoint.restore(saved, str(out)).to(device)
    folder = out if out.is_dir() else out.parent
    run = _Run(agent, load(config.data), config, folder, group)
    run.restore(saved)
    return run.go()


def _prepare(config: TrainConfig) -> tuple[torch.device, Group]:
    if not config.data:
        raise ValueError("no data set: give --data minari:NAME, d4rl:NAME or hdf5:FILE")
    if config.threads:
        torch.set_num_threads(config.threads)
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'unknown device "{name}"; choose cpu, cuda or auto') from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device cuda was asked for, but torch finds no GPU")
        device = torch.device("cuda", device.index or int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device, Group.join(device)


class _Run:
    """The state of a run between two gradient steps."""

    def __init__(self, agent: Agent, episodes: Episodes, config: TrainConfig, out: Path, group: Group) -> None:
        self.agent, self.config, self.out, self.group = agent, config, out, group
        self.device = next(agent.parameters()).device
        # Every process draws the whole batch and takes its rows, so that the batches do not depend on
        # how many processes share them.
        self.sampler: Sampler = agent.sampler(
            episodes, batch_size=config.batch_size * group.size, length=config.length, seed=config.seed
        )
        autocast = config.precision == "bfloat16" or (
            config.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.optimizer = Optimizer(
            agent,
            Schedule(config.learning_rate, config.steps, config.warmup, config.decay),
            weight_decay=config.weight_decay,
            clip=config.clip,
            average=config.average,
            autocast=autocast,
            group=group,
        )
        self.step = 0
        self.memory: Tensor | None = None
        self.best = -math.inf
        self.seconds = 0.0
        torch.manual_seed(config.seed + group.rank)

    def go(self) -> Result:
        """Train to the last step or until asked to stop."""
        config, first = self.config, self.step
        log = open_log(self.out, step=first) if self.group.is_first else silent_log()
        evaluation = None
        bar = tqdm(total=config.steps, initial=first, unit="step", disable=not self.group.is_first)
        window = _Window()
        with StopRequest() as request, bar:
            while self.step < config.steps:
                loss, norm = self._update()
                window.add(loss, norm)
                bar.update()
                stop = self._asked_to_stop(request)
                if self.step % config.log_every == 0 or self.step == config.steps:
                    values = window.mean(self)
                    bar.set_postfix(loss=f"{values['train/loss']:.4g}", refresh=False)
                    for name, value in values.items():
                        log.record(name, value)
                    if self._evaluation_is_due():
                        evaluation = self._evaluate(log)
                    log.dump(self.step)
                elif self._evaluation_is_due():
                    evaluation = self._evaluate(log)
                    log.record(STEP, self.step)
                    log.dump(self.step)
                if stop or self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    self._save()
                if stop:
                    break
        log.close()
        finished = self.step == config.steps
        done = self.step - first
        self.agent.load_state_dict(self.optimizer.acting_weights())
        self.group.barrier()
        return Result(
            agent=self.agent.eval(),
            step=self.step,
            evaluation=evaluation if finished else None,
            signal=request.signal if not finished else None,
            seconds_per_step=self.seconds / done if done else None,
        )

    def _update(self) -> tuple[Tensor, Tensor]:
        begin = time.perf_counter()
        rows = slice(self.group.rank * self.config.batch_size, (self.group.rank + 1) * self.config.batch_size)
        arrays = {name: values[rows] for name, values in next(self.sampler).items()}
        batch = Batch.from_numpy(arrays, self.device)
        self.agent.train()
        memory = self.memory if self.config.carry else None
        loss, norm, self.memory = self.optimizer.update(batch, memory, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - begin
        return loss, norm

    def _asked_to_stop(self, request: StopRequest) -> bool:
        if self.group.size == 1:
            return request.signal is not None
        # A signal may reach the processes between different steps; they must stop after the same one.
        flag = torch.tensor(float(request.signal is not None), device=self.device)
        return bool(self.group.sum(flag).item() > 0)

    def _evaluation_is_due(self) -> bool:
        config = self.config
        if self.agent.task.environment is None or config.evaluate_every == 0:
            return False
        return self.step == config.steps or self.step % config.evaluate_every == 0

    def _evaluate(self, log: Any) -> Evaluation | None:
        """Evaluate the weights that act, log it, and keep the best ones in a file of their own."""
        if not self.group.is_first:
            return None
        trained = {name: value.clone() for name, value in self.agent.state_dict().items()}
        weights = self.optimizer.acting_weights()
        self.agent.load_state_dict(weights)
        with torch.random.fork_rng(enabled=True):
            (result,) = evaluate(
                self.agent, episodes=self.config.evaluate_episodes, environments=10, seed=self.config.seed
            )
        values = result.to_dict()
        log.record("eval/mean_reward", result.mean_return)
        log.record("eval/mean_ep_length", values["mean_length"])
        if values["normalized_score"] is not None:
            log.record("eval/normalized_score", values["normalized_score"])
        if result.mean_return > self.best:
            self.best = result.mean_return
            note = {"evaluation": values, "label": "best of the evaluations during training"}
            checkpoint.save(self.out / checkpoint.BEST, self.agent, step=self.step, note=note)
        self.agent.load_state_dict(trained)
        return result

    def _save(self) -> None:
        mine = {"memory": self.memory, "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(self.device)
        processes = self.group.gather(mine)
        if self.group.is_first:
            training = {
                "config": vars(self.config),
                "optimizer": self.optimizer.state_dict(),
                "sampler": self.sampler.state_dict(),
                "processes": processes,
                "best": self.best,
            }
            weights = self.optimizer.acting_weights()
            checkpoint.save(self.out / checkpoint.LAST, self.agent, step=self.step, weights=weights, training=training)
        self.group.barrier()

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Take up the run where `saved` left it."""
        training = saved.training
        if len(training["processes"]) != self.group.size:
            raise ValueError(
                f"{self.out} was trained by {len(training['processes'])} processes and resumes with as many; "
                f"there are {self.group.size}"
            )
        mine = training["processes"][self.group.rank]
        self.optimizer.load_state_dict(training["optimizer"])
        self.sampler.load_state_dict(training["sampler"])
        self.step, self.best = saved.step, training["best"]
        self.memory = None if mine["memory"] is None else mine["memory"].to(self.device)
        torch.set_rng_state(mine["torch"])
        if "cuda" in mine:
            torch.cuda.set_rng_state(mine["cuda"], self.device)


class _Window:
    """Means since the last row of the log; on a GPU nothing is read back before a row is written."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.begin = time.perf_counter()

    def add(self, loss: Tensor, norm: Tensor) -> None:
        self.losses.append(loss)
        self.norms.append(norm)

    def mean(self, run: _Run) -> dict[str, float]:
        """The row's values; a FloatingPointError where the loss is not finite."""
        loss, norm = torch.stack(self.losses).mean().item(), torch.stack(self.norms).mean().item()
        steps, seconds = len(self.losses), time.perf_counter() - self.begin
        self.__init__()  # type: ignore[misc]
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {run.step}: lower --learning-rate; checkpoints in {run.out} are kept"
            )
        return {
            STEP: run.step,
            "train/loss": loss,
            "train/grad_norm": norm,
            "train/learning_rate": run.optimizer.schedule.at(run.step - 1),
            "time/steps_per_second": steps / seconds,
        }
