"""The training loop: one for every agent, exact to the bit when it is resumed on a CPU.

Shapes: B batch, S memory size.
"""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor
from tqdm import tqdm

from minrl import checkpoint
from minrl.agent import Agent, Batch, Sampler
from minrl.config import check_at_least
from minrl.data.episode import Episodes
from minrl.distributed import Group
from minrl.evaluate import Evaluation, evaluate, package_versions
from minrl.interrupt import Stopped, StopRequest
from minrl.log import STEP, Window, open_log, silent_log
from minrl.optimize import Optimizer, Schedule


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
    warmup: float = field(default=0.05, metadata={"help": "share of the steps in which the learning rate rises"})
    decay: Literal["cosine", "constant"] = field(
        default="cosine", metadata={"help": "the learning rate after the warm-up: half a cosine to zero, or constant"}
    )
    weight_decay: float = field(default=1e-4, metadata={"help": "weight decay of AdamW"})
    clip: float = field(default=0.25, metadata={"help": "largest norm of the gradient"})
    average: float = field(default=0.0, metadata={"help": "decay of averaged weights (EMA), 0 for none"})
    precision: Literal["auto", "float32", "bfloat16"] = field(
        default="auto", metadata={"help": "of matrix products; auto: bfloat16 on a GPU that has it"}
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda or auto"})
    threads: int = field(default=0, metadata={"help": "CPU threads, 0 leaves torch's choice"})
    tune_cpu: bool = field(
        default=False, metadata={"help": "keep freed memory for the next tensor (glibc): faster, and never given back"}
    )
    log_every: int = field(default=100, metadata={"help": "steps between two rows of the log"})
    checkpoint_every: int = field(default=1000, metadata={"help": "steps between two checkpoints"})
    evaluate_every: int = field(
        default=1000,
        metadata={"help": "steps between two evaluations, 0 for none; one follows the last step"},
    )
    evaluate_episodes: int = field(default=10, metadata={"help": "episodes of an evaluation"})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "batch_size", "length", "log_every", "checkpoint_every", "evaluate_episodes")
        check_at_least(self, 0, "seed", "evaluate_every", "threads", "weight_decay")
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
    seconds_per_step: float | None  # of gradient steps alone, over the whole run
    is_first: bool  # of the processes that trained together: the one that writes and speaks


class Run:
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
        self.window = Window()
        self.best = -math.inf
        self.seconds = 0.0
        self.recorded = 0  # steps of trajectories in a batch of all processes
        torch.manual_seed(config.seed + group.rank)

    def go(self) -> Result:
        """Train to the last step or until asked to stop.

        A checkpoint is saved before the evaluation of the same step; a run that is cut off in between
        evaluates again when it is resumed.
        """
        repeats = self._evaluation_is_due()
        log = open_log(self.out, step=self.step, repeats_evaluation=repeats) if self.group.is_first else silent_log()
        # Where standard error is no terminal the log's tables tell how far the run is.
        hidden = None if self.group.is_first else True
        bar = tqdm(total=self.config.steps, initial=self.step, unit="step", disable=hidden)
        try:
            with StopRequest() as request, bar:
                evaluation = self._loop(log, bar, request)
        finally:
            log.close()
        self.agent.load_state_dict(self.optimizer.acting_weights())
        self.group.barrier()
        broken_off = self.group.is_first and self._evaluation_is_due() and evaluation is None
        return Result(
            agent=self.agent.eval(),
            step=self.step,
            evaluation=evaluation,
            signal=request.signal if self.step < self.config.steps or broken_off else None,
            seconds_per_step=self.seconds / self.step if self.step else None,
            is_first=self.group.is_first,
        )

    def _loop(self, log: Logger, bar: Any, request: StopRequest) -> Evaluation | None:
        config, evaluation, shown = self.config, None, time.perf_counter()
        if self.step == 0:
            self._save()
        while True:
            if self._evaluation_is_due():
                evaluation = self._evaluate(log, request)
            stop = self._asked_to_stop(request)
            if self.step == config.steps:
                return evaluation
            if stop:
                self._save()
                return None
            self._update()
            bar.update()
            if not bar.disable and time.perf_counter() - shown > 1:
                bar.set_postfix(loss=f"{self.window.losses[-1].item():.4g}", refresh=False)
                shown = time.perf_counter()
            is_last = self.step == config.steps
            if self.step % config.log_every == 0 or is_last:
                self._write_row(log)
            if self.step % config.checkpoint_every == 0 or is_last:
                self._save()

    def _update(self) -> None:
        begin = time.perf_counter()
        rows = slice(self.group.rank * self.config.batch_size, (self.group.rank + 1) * self.config.batch_size)
        arrays = {name: values[rows] for name, values in next(self.sampler).items()}
        batch = Batch.from_numpy(arrays, self.device)
        if not self.agent.training:  # after an evaluation; telling every module takes its time
            self.agent.train()
        loss, norm, last = self.optimizer.update(batch, self.memory, self.step)
        # Windows have nothing to carry, and no memory costs less than an empty one.
        self.memory = last if self.config.carry and self.sampler.continues else None
        self.window.add(loss, norm)
        self.recorded = batch.mask.numel() * self.group.size
        self.step += 1
        self.seconds += time.perf_counter() - begin

    def _write_row(self, log: Logger) -> None:
        self._check_finite()
        loss, norm, rate = self.window.close()
        log.record(STEP, self.step)
        log.record("train/loss", loss)
        log.record("train/grad_norm", norm)
        log.record("train/learning_rate", self.optimizer.schedule.at(self.step - 1))
        log.record("time/steps_per_second", rate)
        log.record("time/fps", round(rate * self.recorded))
        log.dump(self.step)

    def _check_finite(self) -> None:
        if not self.window.is_finite():
            raise FloatingPointError(
                f"the loss is not finite by step {self.step}: lower --learning-rate or --clip; "
                f"the last checkpoint in {self.out} is kept"
            )

    def _asked_to_stop(self, request: StopRequest) -> bool:
        if self.group.size == 1:
            return request.signal is not None
        # A signal may reach the processes between different steps; they must stop after the same one.
        flag = torch.tensor(float(request.signal is not None), device=self.device)
        return bool(self.group.sum(flag).item() > 0)

    def _evaluation_is_due(self) -> bool:
        config = self.config
        if self.step == 0 or self.agent.task.environment is None or config.evaluate_every == 0:
            return False
        return self.step == config.steps or self.step % config.evaluate_every == 0

    def _evaluate(self, log: Logger, request: StopRequest) -> Evaluation | None:
        """Evaluate the weights that act, log it, and keep the best ones; None where a signal broke it off."""
        if not self.group.is_first:
            return None
        self._check_finite()
        config, begin = self.config, time.perf_counter()
        trained = {name: value.clone() for name, value in self.agent.state_dict().items()}
        self.agent.load_state_dict(self.optimizer.acting_weights())
        try:
            with torch.random.fork_rng(enabled=True), request.at_once():
                (result,) = evaluate(self.agent, episodes=config.evaluate_episodes, environments=10, seed=config.seed)
            if result.mean_return > self.best:
                self.best = result.mean_return
                note = self._note() | {
                    "evaluation": result.to_dict(),
                    "label": "best of the evaluations during training",
                }
                checkpoint.save(self.out / checkpoint.BEST, self.agent, step=self.step, note=note)
        except Stopped:
            return None
        finally:
            self.agent.load_state_dict(trained)
            self.window.leave_out(time.perf_counter() - begin)
        values = result.to_dict()
        log.record(STEP, self.step)
        log.record("eval/mean_reward", result.mean_return)
        log.record("eval/mean_ep_length", values["mean_length"])
        if values["normalized_score"] is not None:
            log.record("eval/normalized_score", values["normalized_score"])
        log.dump(self.step)
        return result

    def _note(self) -> dict[str, Any]:
        return {"versions": package_versions()}

    def _save(self) -> None:
        self._check_finite()
        mine = {"memory": self.memory, "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(self.device)
        processes = self.group.gather(mine)
        if self.group.is_first:
            training = {
                "config": asdict(self.config),
                "optimizer": self.optimizer.state_dict(),
                "sampler": self.sampler.state_dict(),
                "window": self.window.state_dict(),
                "processes": processes,
                "best": self.best,
                "seconds": self.seconds,
            }
            checkpoint.save(
                self.out / checkpoint.LAST,
                self.agent,
                step=self.step,
                weights=self.optimizer.acting_weights(),
                training=training,
                note=self._note() | {"label": "last checkpoint"},
            )
        self.group.barrier()

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Take up the run where `saved` left it; a ValueError for another number of processes."""
        training = saved.training
        if len(training["processes"]) != self.group.size:
            raise ValueError(
                f"{self.out} was trained by {len(training['processes'])} processes and resumes with as many; "
                f"there are {self.group.size}"
            )
        mine = training["processes"][self.group.rank]
        self.optimizer.load_state_dict(training["optimizer"])
        self.sampler.load_state_dict(training["sampler"])
        self.window.load_state_dict(training["window"], self.device)
        self.step, self.best, self.seconds = saved.step, training["best"], training["seconds"]
        self.memory = None if mine["memory"] is None else mine["memory"].to(self.device)
        torch.set_rng_state(mine["torch"])
        if "cuda" in mine:
            torch.cuda.set_rng_state(mine["cuda"], self.device)
