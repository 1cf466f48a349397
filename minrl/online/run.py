"""A run of an online agent in a folder: rollouts, log, evaluations, checkpoints and resuming.

A checkpoint restores weights, optimizer, normalisation, counters and so all schedules, random generators, and the
episodes behind the log's means. Environments cannot be saved: they are reset, seeded from the run's seed and the step,
with an empty hidden state. So two resumes of one checkpoint are equal to the bit on a CPU, and both differ from the run
that was not interrupted, unless that one resets its environments after each checkpoint too: `exact_resume`.
"""

import copy
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from tqdm import tqdm

from minrl.agent import OnlineAgent
from minrl.evaluate import Evaluation, package_versions
from minrl.kernels import matmul
from minrl.online import state
from minrl.online.environments import reset_environments
from minrl.online.report import OnlineResult
from minrl.online.rollouts.callback import RolloutCallback, write_row
from minrl.online.rollouts.long import KeptState, LongRollouts
from minrl.online.settings import Config
from minrl.runs import checkpoint
from minrl.runs import log as logs
from minrl.runs.attempt import attempt
from minrl.runs.best import BestCheckpoint
from minrl.runs.folder import LAST_CHECKPOINT
from minrl.runs.log import NOT_TENSORBOARD, TIMESTEPS
from minrl.runs.optimizer_state import not_finite
from minrl.runs.saved_state import check_like
from minrl.runs.tensorboard import begin_session, end_session, hyperparameters, online_layout
from minrl.runs.video import record_episode, save_video
from minrl.system.config import to_plain
from minrl.system.signals import Stopped, StopRequest


class _End(Exception):
    """Signal to leave Stable-Baselines3's loop between two rollouts."""


class OnlineRun:
    """Online run between an update and the next rollout.

    Args:
        model: algorithm that learns, with its environments.
        agent: that is evaluated and saved; it shares the model's policy.
        config: settings of the run.
        vectorization: of the environments, for the report.
        out: the run's folder.
    """

    def __init__(self, model: BaseAlgorithm, agent: OnlineAgent, config: Config, vectorization: str, out: Path) -> None:
        self.model, self.agent, self.config, self.out = model, agent, config, out
        self.vectorization = vectorization
        self.best, self.seconds, self.cpu_seconds = BestCheckpoint(out), 0.0, 0.0
        self.log: Logger = logs.silent_log()
        self.logged: Any = None  # digest of the log's rows at the checkpoint from which the run goes on
        self.row_due = False  # of this step, at which the run goes on
        self.evaluated = 0  # the step of the last evaluation
        self.evaluation: Evaluation | None = None  # the last one, None if interrupted or failed
        self.failure: str | None = None  # error of the last one
        self.rollouts, self._before = 0, 0  # rollouts so far, and the step before the last one
        self.long_rollouts = LongRollouts(isinstance(model, OnPolicyAlgorithm), config.exact_resume)
        # At the start of this process: the run's step, and the seconds of earlier processes.
        self._begun, self._earlier = 0, 0.0

    @property
    def step(self) -> int:
        """Return the environment steps so far."""
        return int(self.model.num_timesteps)

    def train(self) -> OnlineResult:
        """Learn to the last step or until a signal."""
        self._begun, self._seen, self._earlier = self.step, self.step, self.seconds
        begun = logs.pending_row(self.log)
        self.log = logs.open_log(
            self.out, step=self.step, repeats_row=self.row_due, counter=TIMESTEPS, written=self.logged
        )
        logs.restore_row(self.log, begun)
        self.model.set_logger(self.log)
        parts = {self.agent.name: to_plain(self.agent.config), "train": to_plain(self.config)}
        begin_session(self.log, hyperparameters(parts), online_layout(plays=self.config.evaluate_every > 0))
        bar = tqdm(total=self.config.steps, initial=self.step, unit="step", disable=None)
        try:
            with StopRequest() as self.request, bar:
                self._learn(bar)
            is_evaluated = bool(self.evaluation or self.failure) or not self.config.evaluate_every
            is_whole = self.step >= self.config.steps and is_evaluated
            if is_whole:
                end_session(self.log)
        finally:
            self.log.close()
        return OnlineResult(
            agent=self.agent.eval(),
            config=self.config,
            vectorization=self.vectorization,
            step=self.step,
            evaluation=self.evaluation if is_whole else None,
            signal=None if is_whole else self.request.signal,
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            failure=self.failure if is_whole else None,
        )

    def close(self) -> None:
        """Close the environments."""
        if self.model.env is not None:
            self.model.env.close()

    def _learn(self, bar: Any) -> None:
        self._start_clock()
        try:
            with self.request.undropped():
                self.model.learn(
                    max(0, self.config.steps - self.step),
                    callback=RolloutCallback(self.between_rollouts, lambda: self._after_step(bar), self._after_rollout),
                    # Never: the run writes rows between rollouts, with the update of each.
                    log_interval=self.config.steps + 1,
                    reset_num_timesteps=False,
                )
            self.between_rollouts()
        except _End:
            pass
        except Stopped:
            kept = self.long_rollouts.kept
            if kept is not None:
                self.model.num_timesteps = kept.step
                self.agent.load_state_dict(kept.weights)
                self.save(kept.training)

    def _after_step(self, bar: Any) -> None:
        bar.update(self.step - bar.n)
        self.long_rollouts.check(self.request)

    def _after_rollout(self) -> None:
        if self.long_rollouts.breakable:
            self.request.raise_at_once()

    def between_rollouts(self) -> None:
        """Save, evaluate and log if due; raise `_End` after a signal."""
        self.request.only_note()
        self._stop_clock()
        if self.step > self._seen:
            self.rollouts, self._before, self._seen = self.rollouts + 1, self._seen, self.step
        is_new, is_last = self.step > self._begun, self.step >= self.config.steps
        normalization = self.model.get_vec_normalize_env()
        if normalization is not None and (is_new or self.step == 0):  # a resumed run has counted a reset since
            self.agent.copy_normalization(normalization)
        self._check_finite()
        shows = (is_new or self.row_due) and (self.rollouts % self.config.log_every == 0 or is_last)
        saves = is_new and self._is_due(self.config.checkpoint_every)
        if self._is_due(self.config.evaluate_every) and (is_last or self.evaluated != self.step):
            if saves:
                self.row_due = True
                self.save()  # before an environment that may end the process
            found = self._evaluate()
            # A signal that interrupts an evaluation delays its row until the resumed run has repeated it.
            shows, self.row_due = (False, True) if found is None else (shows or found, False)
        else:
            self.row_due = False
        if shows:
            write_row(self.model, self.step - self._begun, self.rollouts, self.seconds, self._earlier)
        stop = self.request.signal is not None
        # A checkpoint resets the environments of an exact run, so a signal adds none.
        stops_here = stop and not self.config.exact_resume
        saves |= self.step == 0 or (is_new and stops_here)
        if saves:
            self.save()
            if self.config.exact_resume and 0 < self.step < self.config.steps:
                reset_environments(self.model, self.config, self.step)
        if stop:
            raise _End
        is_saved = saves or not is_new
        self.long_rollouts.begin(self.seconds, None if is_saved else self._state)
        self._start_clock()

    def _state(self) -> KeptState:
        return KeptState(self.step, copy.deepcopy(self.agent.state_dict()), copy.deepcopy(self._training_state()))

    def _is_due(self, every: int) -> bool:
        """Return True if the last rollout reached a multiple of `every` steps, or the end."""
        if every == 0 or self.step == 0:
            return False
        return self.step >= self.config.steps or self.step // every > self._before // every

    def _evaluate(self) -> bool | None:
        """Evaluate the current weights and keep the best; return True if there is something to log, None if stopped."""
        config, result, video = self.config, None, None
        self.evaluation = self.failure = None
        try:
            with state.preserve_random_states(), self.request.at_once():
                with attempt("evaluation", self.step, self.out) as tried, self.request.undropped():
                    (result,) = config.evaluate(self.agent)
                if config.video and result is not None:
                    with attempt("video", self.step, self.out), self.request.undropped():
                        video = record_episode(self.agent, self.agent.task.known_environment(), config.first_episode)
        except Stopped:
            return None
        if result is None:
            self.failure = tried.error  # evaluated again if the run is resumed here
            self.log.record("eval/failed", 1)
            return True
        self.evaluation = result
        if self.evaluated == self.step:
            return False  # a finished run that is resumed
        self.evaluated = self.step
        note = _note("best of the evaluations during training") | {"evaluation": result.to_dict()}
        self.best.offer(self.agent, self.step, result.mean_return, note)
        self.log.record("eval/mean_reward", result.mean_return)
        self.log.record("eval/mean_ep_length", float(np.mean(result.lengths)))
        if video is not None:
            self.log.record("eval/episode", video, exclude=NOT_TENSORBOARD)
            save_video(video, self.out, self.step)
        return True

    def _check_finite(self, *, weights: bool = False) -> None:
        """Raise FloatingPointError if the loss is not finite, or `weights` and optimizer state."""
        found = None if math.isfinite(self.log.name_to_value.get("train/loss", 0.0)) else "the loss"
        if found is None and weights:
            found = not_finite(self.model.policy.named_parameters(), self.model.policy.optimizer)
        if found is not None:
            raise FloatingPointError(
                f"{found} is not finite by step {self.step}: lower --learning-rate or --max-grad-norm; "
                f"the last checkpoint in {self.out} is kept"
            )

    def save(self, training: dict[str, Any] | None = None) -> None:
        """Write the last checkpoint, with the current state of the training unless another one is given."""
        self._check_finite(weights=True)
        logs.sync_log(self.log)  # rows up to this step are not written again
        path, note = self.out / LAST_CHECKPOINT, _note("last checkpoint")
        checkpoint.save(path, self.agent, step=self.step, training=training or self._training_state(), note=note)
        self.best.settle(self.step)

    def _training_state(self) -> dict[str, Any]:
        """Return the state that the rest of the run depends on."""
        return {
            "config": asdict(self.config),
            "matrix_products": matmul.library(),
            "threads": torch.get_num_threads(),
            "model": state.saved_state(self.model),
            "random": state.random_states(),
            "best": self.best.score,
            "evaluated": self.evaluated,
            "rollouts": [self.rollouts, self._before],
            "row": [self.row_due, logs.pending_row(self.log)],
            "seconds": [self.seconds, self.cpu_seconds],
            "log": logs.log_digest(self.log),
        }

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the run from `saved`; raise ValueError for a state that does not fit it."""
        # Older checkpoints do not count rollouts, which all had the same number of steps, and hold no row.
        whole = [saved.step // self.config.rollout_steps, saved.step - self.config.rollout_steps]
        training = {"rollouts": whole, "row": [False, {}], **saved.training}
        check_like(training, self._training_state(), "its training state", free=_FREE)
        if saved.step < 0:
            raise ValueError(f"it is of step {saved.step}")
        matmul.settle(training.get("matrix_products"))
        self.agent.load_state_dict(saved.weights)
        state.restore_state(self.model, training["model"], saved.step)
        self.best.restore(training["best"], saved.step)
        self.evaluated = training["evaluated"]
        self.row_due, row = training["row"]
        logs.restore_row(self.log, row)
        self.rollouts, self._before = training["rollouts"]
        self.seconds, self.cpu_seconds = training["seconds"]
        self.logged = training.get("log")
        state.restore_random_states(training["random"])

    def _start_clock(self) -> None:
        self._clock = time.perf_counter(), time.process_time()

    def _stop_clock(self) -> None:
        self.seconds += time.perf_counter() - self._clock[0]
        self.cpu_seconds += time.process_time() - self._clock[1]


# Parts of the training state that are checked where they are restored, or that older checkpoints lack.
_FREE = frozenset({"config", "matrix_products", "threads", "optimizer", "cuda", "log", *state.FREE})


def _note(label: str) -> dict[str, Any]:
    return {"versions": package_versions(), "label": label}
