"""Parallel runs of a comparison on Ray, on this machine or a cluster.

A run is a Ray task that trains into the comparison's folder, which all machines must share under the same path. Lost
runs are retried by the scheduler here, not by Ray, as the checkpoint shows whether an attempt made progress.
"""

import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minrl.compare.grid.family import Family
from minrl.compare.grid.plan import PlannedRun
from minrl.compare.run.execute import Outcome, execute
from minrl.compare.run.matmul import VARIABLE
from minrl.compare.run.progress import Progress
from minrl.compare.run.queue import RunQueue
from minrl.compare.run.runner import report_attempt
from minrl.system import trust
from minrl.system.extras import install_hint
from minrl.system.messages import reason_of
from minrl.system.signals import StopRequest

# Environment variables of the workers: places of data sets and caches, rendering and the matmul library.
_FORWARDED = ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "MINRL_CACHE", "MUJOCO_GL", VARIABLE, trust.VARIABLE)
_POLL, _ANSWER, _FAREWELL = 1.0, 10.0, 120.0  # seconds
_BY_CLIENT = "ray://"


@dataclass(frozen=True)
class Cluster:
    """Ray cluster, and the resources of a run on it.

    Args:
        address: `ray://HOST:PORT`, `HOST:PORT` or `auto`; None starts and ends a local Ray.
        workers: runs at once; None for as many as fit the CPUs.
        cpus, gpus: of a run; a fraction of a GPU lets several runs share it.
    """

    address: str | None = None
    workers: int | None = None
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers must be at least 1, got {self.workers}")
        if not self.cpus > 0 or not self.gpus >= 0:
            raise ValueError(f"a run needs CPUs: got --cpus-per-run {self.cpus:g}, --gpus-per-run {self.gpus:g}")

    def run(self, queue: RunQueue, families: Mapping[str, Family], out: Path, progress: Progress) -> int | None:
        """Execute the runs of the queue; return the signal that stopped them, if any."""
        # In this order: Ray installs signal handlers when it starts.
        with self._joined(out) as ray, StopRequest() as request:
            scheduler = _Scheduler(ray, self, queue, families, out, progress)
            while scheduler.has_work and request.signal is None:
                scheduler.step()
            if request.signal is not None:
                scheduler.stop()
        return request.signal

    @contextmanager
    def _joined(self, out: Path) -> Iterator[Any]:
        """Connect to Ray and yield its module; raise ValueError where it cannot provide what is requested."""
        if find_spec("ray") is None:
            raise ValueError(f"--on ray needs Ray: {install_hint('ray')}")
        # No usage reports.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if (self.address or "").startswith(_BY_CLIENT) and _has_token():
            # Ray starts a cluster with its token if there is one; over ray:// it sends it only in this mode.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray

        forwarded = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
        options: dict[str, Any] = {"runtime_env": {"env_vars": forwarded}, "log_to_driver": False}
        if self.address is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            # A local Ray gets as many CPUs as the runs at once need, whatever the machine has.
            count = self.workers if self.workers is not None else max(1, int(cores / self.cpus))
            options |= {"address": "local", "num_cpus": max(1, round(count * self.cpus)), "include_dashboard": False}
        else:
            _check_answers(self.address)
            options["address"] = self.address
        try:
            ray.init(logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises many types
            where = "on this machine" if self.address is None else f"at {self.address}"
            raise ValueError(f"Ray cannot be used {where}: {reason_of(error)}") from error
        try:
            self._check_resources(ray)
            _check_shared(ray, out)
            yield ray
        finally:
            ray.shutdown()

    def _check_resources(self, ray: Any) -> None:
        most = {name: max(node["Resources"].get(name, 0.0) for node in _alive(ray)) for name in ("CPU", "GPU")}
        if most["CPU"] < self.cpus or most["GPU"] < self.gpus:
            raise ValueError(
                f"no machine of the Ray cluster has the {self.cpus:g} CPUs and {self.gpus:g} GPUs of a run; "
                f"the largest have {most['CPU']:g} and {most['GPU']:g}"
            )


class _Scheduler:
    """Scheduler that keeps as many runs going as the limit allows."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        queue: RunQueue,
        families: Mapping[str, Family],
        out: Path,
        progress: Progress,
    ) -> None:
        self.ray, self.queue, self.families, self.out, self.progress = ray, queue, families, out.absolute(), progress
        # Without a limit Ray queues the rest, so that an autoscaler sees the demand.
        self.limit = cluster.workers or len(queue.pending) or 1
        self.task = ray.remote(num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0)(execute)
        self.running: dict[Any, PlannedRun] = {}

    @property
    def has_work(self) -> bool:
        """True if runs are running or waiting."""
        return bool(self.running or self.queue.pending)

    def step(self) -> None:
        """Start runs up to the limit, then wait briefly for some to end."""
        while len(self.running) < self.limit and (run := self.queue.take()) is not None:
            self.running[self.task.remote(run, self.families[run.family], self.out)] = run
        ended, _ = self.ray.wait(list(self.running), timeout=_POLL)
        for reference in ended:
            self._close(reference, self.running.pop(reference))

    def _close(self, reference: Any, run: PlannedRun) -> None:
        try:
            outcome: Outcome = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            # The last line of Ray's message is the reason.
            said = str(error).strip().splitlines() or [""]
            reason = f"its worker died ({type(error).__name__}: {said[-1].strip()})"
            report_attempt(run, Outcome(0.0, error=reason), self.queue.lost(run, reason), self.out, self.progress)
            return
        if outcome.signal is not None:
            # The worker alone was stopped; it has saved a checkpoint.
            outcome = Outcome(outcome.seconds, error=f"its worker was stopped by signal {outcome.signal}")
            report_attempt(run, outcome, self.queue.lost(run, str(outcome.error)), self.out, self.progress)
            return
        report_attempt(run, outcome, self.queue.close(run, outcome), self.out, self.progress)

    def stop(self) -> None:
        """Cancel all runs, which save a checkpoint, and wait for them."""
        for reference in self.running:
            self.ray.cancel(reference, force=False)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=_FAREWELL)


def _has_token() -> bool:
    """Return True if Ray would find a cluster's token: https://docs.ray.io/en/latest/ray-security/token-auth.html."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").exists()


def _check_answers(address: str) -> None:
    """Raise ValueError if nothing answers at HOST:PORT: Ray itself would retry for minutes."""
    host, separator, port = address.removeprefix(_BY_CLIENT).rpartition(":")
    if not separator:
        return  # a keyword of Ray, such as auto
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"no Ray cluster answers at {address}: {error}") from error


def _alive(ray: Any) -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _check_shared(ray: Any, out: Path) -> None:
    """Raise ValueError if a machine of the cluster does not share the comparison's folder."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    mark = out.absolute() / f".shared.{secrets.token_hex(8)}"
    mark.touch()
    try:
        task = ray.remote(num_cpus=0)(sees)
        for node in _alive(ray):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            if not ray.get(task.options(scheduling_strategy=there).remote(mark)):
                raise ValueError(
                    f"{out.absolute()} is missing on {node['NodeManagerHostname']}: runs are trained into the "
                    f"comparison's folder, so --out must be a path that all machines of the cluster share"
                )
    finally:
        mark.unlink()


def sees(path: Path) -> bool:
    """Return True if this machine has the file."""
    return path.exists()
