"""Evaluations, validation and videos during training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from minrl.agent import Agent
from minrl.data.episode import Episodes
from minrl.evaluate import Evaluation, package_versions
from minrl.runs.attempt import attempt
from minrl.runs.best import BestCheckpoint
from minrl.runs.log import NOT_TENSORBOARD, STEP, Picture
from minrl.runs.video import record_episode, save_video
from minrl.system.signals import Stopped, StopRequest
from minrl.training.config import TrainConfig
from minrl.training.target_search import TargetSearch
from minrl.training.target_sweep import curve_names, spread_targets, write_targets
from minrl.training.validation import ACTION_ERROR, Validation


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one evaluation and validation during training."""

    evaluation: Evaluation | None
    values: dict[str, float]
    curves: dict[str, float | Picture]  # for TensorBoard only
    failure: str | None = None  # error of the evaluation

    def write(self, log: Logger, step: int, seconds: float) -> None:
        """Write the metrics as a row of a run's log, after `seconds` of training."""
        log.record(STEP, step)
        for name, value in self.values.items():
            log.record(name, value, exclude="stdout" if name.startswith(ACTION_ERROR) else None)
        for name, curve in self.curves.items():
            log.record(name, curve, exclude=NOT_TENSORBOARD)
        # TensorBoard has the time from the row of the training step.
        log.record("time/time_elapsed", round(seconds, 2), exclude="tensorboard")
        log.dump(step)


class Evaluator:
    """Evaluation of the agent's weights during training; leaves the random state of training untouched.

    Args:
        agent: that is trained.
        config: of its training.
        out: the run's folder, for best checkpoint, videos and target sweeps.
        learned: episodes that the agent is trained on.
        held_out: the other episodes, None without any.
    """

    def __init__(
        self, agent: Agent, config: TrainConfig, out: Path, learned: Episodes, held_out: Episodes | None
    ) -> None:
        self.agent, self.config, self.out = agent, config, out
        self.best = BestCheckpoint(out)
        # Of all episodes, so that runs with different held-out episodes sweep the same targets.
        everything = [learned] if held_out is None else [learned, held_out]
        returns = np.concatenate([episodes.returns for episodes in everything])
        self.targets = [] if agent.target_return is None else spread_targets(returns)
        self.search = TargetSearch(agent, learned, config, out) if config.choose_target else None
        self.validation = None
        if held_out is not None:
            self.validation = Validation(agent, held_out, batch_size=config.batch_size, length=config.length)

    def is_due(self, step: int) -> bool:
        """Return True if validation or evaluation follows `step`."""
        return self.validates_at(step) or self.evaluates_at(step)

    def validates_at(self, step: int) -> bool:
        """Return True if held-out episodes are validated after `step`."""
        return self.validation is not None and self._is_turn(step, self.config.validate_every)

    def evaluates_at(self, step: int) -> bool:
        """Return True if the agent is evaluated in its environment after `step`."""
        every = self.config.evaluate_every
        return every > 0 and self.agent.task.environment is not None and self._is_turn(step, every)

    def sweeps_at(self, step: int) -> bool:
        """Return True if the evaluation after `step` is repeated for several target returns."""
        sweep = self.config.target_sweep
        return bool(self.targets) and (sweep == "all" or (sweep == "last" and step == self.config.steps))

    def charts(self) -> dict[str, Any]:
        """Return the arguments of `minrl.runs.tensorboard.offline_layout` for this run."""
        last = self.config.steps
        evaluations = -(-last // self.config.evaluate_every) if self.config.evaluate_every else 0
        plays = self.evaluates_at(last)
        return {
            "plays": plays,
            "scores": self.agent.task.reference_scores is not None,
            "sweeps": plays and self.config.target_sweep == "all" and self.sweeps_at(last) and evaluations > 1,
            "validates": self.validates_at(last),
            "unit": self.agent.loss_unit,
        }

    def evaluate_step(self, step: int, request: StopRequest) -> StepMetrics | None:
        """Validate and evaluate as due after `step`; None if a signal interrupted it."""
        values: dict[str, float] = {}
        if self.validation is not None and self.validates_at(step):
            try:
                with request.at_once():
                    values = self.validation.measure()
            except Stopped:
                return None
        if not self.evaluates_at(step):
            return StepMetrics(None, values, {})
        result, asked, video = None, list[Evaluation](), None
        try:
            with torch.random.fork_rng(enabled=True), request.at_once():
                with attempt("evaluation", step, self.out) as tried, request.undropped():
                    if self.search is not None and step == self.config.steps:
                        self.search.run()
                    (result,) = self.config.evaluate(self.agent)
                if result is not None and self.sweeps_at(step):
                    with attempt("evaluation at several target returns", step, self.out), request.undropped():
                        asked = self.config.evaluate(self.agent, self.targets)
                if result is not None and self.config.video:
                    with attempt("video", step, self.out), request.undropped():
                        video = record_episode(
                            self.agent, self.agent.task.known_environment(), self.config.first_episode
                        )
        except Stopped:
            return None
        if result is None:
            return StepMetrics(None, values | {"eval/failed": 1.0}, {}, failure=tried.error)
        curves = self._write(step, result, asked, video)
        return StepMetrics(result, values | _values(result), curves)

    def _is_turn(self, step: int, every: int) -> bool:
        return step > 0 and (step == self.config.steps or step % every == 0)

    def _write(
        self, step: int, result: Evaluation, asked: list[Evaluation], video: Picture | None
    ) -> dict[str, float | Picture]:
        """Write best checkpoint, target sweep and video of an evaluation; return TensorBoard's curves of it."""
        label = {"evaluation": result.to_dict(), "label": "best of the evaluations during training"}
        self.best.offer(self.agent, step, result.mean_return, provenance() | label)
        curves: dict[str, float | Picture] = {
            name: evaluation.mean_return for name, evaluation in zip(curve_names(self.targets), asked, strict=False)
        }
        if asked:
            picture = write_targets(self.out, step, asked)
            if picture is not None:
                curves["eval/targets"] = picture
        if video is not None:
            save_video(video, self.out, step)
            curves["eval/episode"] = video
        return curves


def provenance() -> dict[str, Any]:
    """Return the package versions that a checkpoint records."""
    return {"versions": package_versions()}


def _values(result: Evaluation) -> dict[str, float]:
    whole = result.to_dict()
    values = {"eval/mean_reward": result.mean_return, "eval/mean_ep_length": whole["mean_length"]}
    if whole["normalized_score"] is not None:
        values["eval/normalized_score"] = whole["normalized_score"]
    return values
