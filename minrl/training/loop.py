"""The training loop of all offline agents; resumed on a CPU it gives the same bits as uninterrupted.

Shapes: B batch, S state size.
"""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor
from tqdm import tqdm

from minrl.agent import Agent, Batch, Sampler
from minrl.data.episode import Episodes
from minrl.evaluate import Evaluation
from minrl.kernels import matmul
from minrl.runs import checkpoint
from minrl.runs.folder import LAST_CHECKPOINT
from minrl.runs.log import STEP, LossWindow, log_digest, open_log, silent_log, sync_log
from minrl.runs.saved_state import check_like
from minrl.runs.tensorboard import begin_session, end_session, hyperparameters, offline_layout
from minrl.system.config import to_plain
from minrl.system.distributed import Group
from minrl.system.signals import Stopped, StopRequest
from minrl.training.config import TrainConfig
from minrl.training.evaluator import Evaluator, provenance
from minrl.training.long_steps import LongSteps
from minrl.training.optimizer import Optimizer, Schedule
from minrl.training.result import RunResult


class TrainingRun:
    """Training run between two gradient steps.

    Args:
        agent: that is trained.
        episodes: that it is trained on.
        held_out: for validation, None for no validation.
        config: of the training.
        out: the run's folder.
        group: the processes that train together.
    """

    def __init__(
        self,
        agent: Agent,
        episodes: Episodes,
        held_out: Episodes | None,
        config: TrainConfig,
        out: Path,
        group: Group,
    ) -> None:
        self.agent, self.config, self.out, self.group = agent, config, out, group
        self.device = next(agent.parameters()).device
        # Every process draws the whole batch and takes its rows: batches do not depend on the number of processes.
        self.sampler: Sampler = agent.sampler(
            episodes, batch_size=config.batch_size * group.size, length=config.length, seed=config.seed
        )
        autocast = config.precision == "bfloat16" or (
            config.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.long_steps = LongSteps(self.sampler, allowed=group.size == 1 and self.device.type == "cpu")
        self.optimizer = Optimizer(
            agent,
            Schedule(config.learning_rate, config.steps, config.warmup, config.decay),
            weight_decay=config.weight_decay,
            clip=config.clip,
            average=config.average,
            autocast=autocast,
            group=group,
        )
        self.evaluator = Evaluator(agent, config, out, episodes, held_out)
        self.held_out = 0 if held_out is None else held_out.num_episodes
        self.step = 0
        self.memory: Tensor | None = None
        self.failure: str | None = None  # of the last evaluation
        self.window = LossWindow()
        self.seconds = self.cpu_seconds = 0.0
        self.log = silent_log()
        self.logged: Any = None  # digest of the log's rows at the checkpoint from which the run goes on
        self.kept: list[int] | None = None  # digest of the rows before this step's evaluation, which a resume repeats
        self.recorded = 0  # steps of trajectories in a batch of all processes
        torch.manual_seed(config.seed + group.rank)

    def train(self) -> RunResult:
        """Train to the last step or until a signal.

        A checkpoint is saved before the evaluation of the same step; a run interrupted in between
        evaluates again when it is resumed.
        """
        repeats = self.evaluator.is_due(self.step)
        if self.group.is_first:
            self.log = open_log(self.out, step=self.step, repeats_evaluation=repeats, written=self.logged)
        log = self.log
        parts = {self.agent.name: to_plain(self.agent.config), "train": to_plain(self.config)}
        begin_session(log, hyperparameters(parts), offline_layout(**self.evaluator.charts()))
        # Where standard error is no terminal, the log's tables show the progress.
        hidden = None if self.group.is_first else True
        bar = tqdm(total=self.config.steps, initial=self.step, unit="step", disable=hidden)
        try:
            with StopRequest() as request, bar:
                evaluation = self._loop(log, bar, request)
            unknown = evaluation is None and self.failure is None
            broken_off = self.group.is_first and self.evaluator.evaluates_at(self.step) and unknown
            is_whole = self.step == self.config.steps and not broken_off
            if is_whole:
                end_session(log)
        finally:
            log.close()
        self.agent.load_state_dict(self.optimizer.acting_weights())
        self.group.barrier()
        return RunResult(
            agent=self.agent.eval(),
            step=self.step,
            evaluation=evaluation,
            signal=None if is_whole else request.signal,
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            held_out=self.held_out,
            is_first=self.group.is_first,
            failure=self.failure if is_whole else None,
        )

    def _loop(self, log: Logger, bar: Any, request: StopRequest) -> Evaluation | None:
        config, evaluation, shown = self.config, None, time.perf_counter()
        if self.step == 0:
            self.save()
        while True:
            if self.evaluator.is_due(self.step):
                evaluation = self._evaluate(log, request)
                if config.choose_target and self.step == config.steps:
                    self.save()  # with the target that was chosen
            stop = self._asked_to_stop(request)
            if self.step == config.steps:
                return evaluation
            if stop:
                self.save()
                return None
            if not self._update(request):
                self.save()
                return None
            bar.update()
            if not bar.disable and time.perf_counter() - shown > 1:
                bar.set_postfix(loss=f"{self.window.losses[-1].item():.4g}", refresh=False)
                shown = time.perf_counter()
            is_last = self.step == config.steps
            if self.step % config.log_every == 0 or is_last:
                self._write_row(log)
            if self.step % config.checkpoint_every == 0 or is_last:
                self.save()

    def _update(self, request: StopRequest) -> bool:
        """Make a gradient step; return False if a signal broke it off."""
        begin, begin_cpu = time.perf_counter(), time.process_time()
        rows = slice(self.group.rank * self.config.batch_size, (self.group.rank + 1) * self.config.batch_size)
        if not self.agent.training:  # after an evaluation; telling every module takes its time
            self.agent.train()
        try:
            with self.long_steps.step(request) as breakable:
                arrays = {name: values[rows] for name, values in next(self.sampler).items()}
                batch = Batch.from_numpy(arrays, self.device)
                loss, norm, last = self.optimizer.update(batch, self.memory, self.step, breakable)
        except Stopped:
            return False
        # Windows carry no state; None is cheaper than zeros.
        self.memory = last if self.config.carry and self.sampler.continues else None
        self.window.add(loss, norm)
        self.kept, self.recorded = None, batch.mask.numel() * self.group.size
        self.step += 1
        self.seconds += time.perf_counter() - begin
        self.cpu_seconds += time.process_time() - begin_cpu
        return True

    def _write_row(self, log: Logger) -> None:
        self._check_finite()
        loss, norm, rate = self.window.close()
        log.record(STEP, self.step)
        log.record("train/loss", loss)
        log.record("train/grad_norm", norm)
        log.record("train/learning_rate", self.optimizer.schedule.at(self.step - 1))
        log.record("time/steps_per_second", rate)
        log.record("time/fps", round(rate * self.recorded))
        log.record("time/time_elapsed", round(self.seconds, 2))
        log.dump(self.step)

    def _check_finite(self, *, weights: bool = False) -> None:
        """Raise FloatingPointError if losses and gradient norms are not finite, or `weights` and optimizer state."""
        found = None if self.window.is_finite() else "the loss or its gradient"
        if found is None and weights:
            found = self.optimizer.not_finite()
        if found is not None:
            raise FloatingPointError(
                f"{found} is not finite by step {self.step}: lower --learning-rate or --clip; "
                f"the last checkpoint in {self.out} is kept"
            )

    def _asked_to_stop(self, request: StopRequest) -> bool:
        if self.group.size == 1:
            return request.signal is not None
        # A signal may reach the processes at different steps; they must stop after the same one.
        flag = torch.tensor(float(request.signal is not None), device=self.device)
        return bool(self.group.sum(flag).item() > 0)

    def _evaluate(self, log: Logger, request: StopRequest) -> Evaluation | None:
        """Evaluate the acting weights and log the metrics; None without an evaluation or if one was interrupted."""
        if not self.group.is_first:
            return None
        self._check_finite(weights=True)
        self.failure = None
        begin = time.perf_counter()
        trained = {name: value.clone() for name, value in self.agent.state_dict().items()}
        self.agent.load_state_dict(self.optimizer.acting_weights())
        try:
            found = self.evaluator.evaluate_step(self.step, request)
        finally:
            self.agent.load_state_dict(trained)
            self.window.exclude_time(time.perf_counter() - begin)
        if found is None:
            return None
        self.failure, self.kept = found.failure, log_digest(log)
        found.write(log, self.step, self.seconds)
        return found.evaluation

    def save(self) -> None:
        """Write the last checkpoint."""
        self._check_finite(weights=True)
        training = self._training_state()
        if self.group.is_first:
            sync_log(self.log)  # rows up to this step are not written again
            checkpoint.save(
                self.out / LAST_CHECKPOINT,
                self.agent,
                step=self.step,
                weights=self.optimizer.acting_weights(),
                training=training,
                note=provenance() | {"label": "last checkpoint"},
            )
            self.evaluator.best.settle(self.step)
        self.group.barrier()

    def _training_state(self) -> dict[str, Any]:
        """Return the state of all processes that the rest of the run depends on."""
        mine = {"memory": self.memory, "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            mine["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "config": asdict(self.config),
            "matrix_products": matmul.library(),
            "threads": torch.get_num_threads(),
            "optimizer": self.optimizer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "window": self.window.state_dict(),
            "processes": self.group.gather(mine),
            "best": self.evaluator.best.score,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "log": self.kept or log_digest(self.log),
        }

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the run from `saved`; raise ValueError for a state of another agent or number of processes."""
        training = {"cpu_seconds": math.nan, **saved.training}  # older checkpoints lack them
        if len(training["processes"]) != self.group.size:
            raise ValueError(
                f"{self.out} was trained by {len(training['processes'])} processes and resumes with as many; "
                f"there are {self.group.size}"
            )
        check_like(training, self._training_state(), "its training state", free=_FREE)
        if not 0 <= saved.step <= self.config.steps:
            raise ValueError(f"it is of step {saved.step}, the run ends at step {self.config.steps}")
        matmul.settle(training.get("matrix_products"))
        mine = training["processes"][self.group.rank]
        self.memory = self._known_memory(mine["memory"])
        self.optimizer.load_state_dict(training["optimizer"])
        self.sampler.load_state_dict(training["sampler"])
        self.window.load_state_dict(training["window"], self.device)
        self.step, self.logged = saved.step, training.get("log")
        self.seconds, self.cpu_seconds = training["seconds"], training["cpu_seconds"]
        torch.set_rng_state(mine["torch"])
        if "cuda" in mine:
            torch.cuda.set_rng_state(mine["cuda"], self.device)
        if self.group.is_first:
            self.evaluator.best.restore(training["best"], saved.step)

    def _known_memory(self, memory: Any) -> Tensor | None:
        if memory is None:
            return None
        check_like(memory, torch.zeros(self.config.batch_size, self.agent.memory_size), "its hidden state")
        return memory.to(self.device)  # type: ignore[no-any-return]


# Parts of the training state that are checked where they are restored, or that older checkpoints lack.
_FREE = frozenset(
    {"config", "matrix_products", "threads", "adam", "averaged_without_initial", "order", "window", "memory"}
    | {"cuda", "log"}
)
