"""`minrl evaluate`: play episodes with a trained agent in its environment."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minrl.agent import Actor, parameter_count
from minrl.data.environment import EnvironmentInfo
from minrl.data.task import Task
from minrl.data.trust import check_keywords
from minrl.data.wrappers import DEFAULT_MAX_STEPS
from minrl.evaluate import evaluate
from minrl.models.context_window import inputs_per_action
from minrl.runs import checkpoint
from minrl.runs.summary import evaluation_table
from minrl.runs.threads import describe_threads, use_threads
from minrl.system.config import key_value
from minrl.system.json_text import to_json
from minrl.system.trust import add_trust
from minrl.zoo import is_policy_file, load_zip_in

from .zip_flags import RUN_OR_ZIP, add_vecnormalize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `minrl evaluate`."""
    parser.usage = "minrl evaluate RUN|ZIP [flags]"
    parser.epilog = (
        "examples:\n"
        "  minrl evaluate runs/hopper --episodes 50 --json\n"
        "  minrl evaluate runs/hopper/best.pt --target 1800 3600\n"
        "  minrl evaluate ppo.zip --env CartPole-v1"
    )
    parser.add_argument("path", metavar="RUN|ZIP", type=Path, help=RUN_OR_ZIP)
    parser.add_argument("--episodes", metavar="N", type=int, default=20, help="episodes of each target (default: 20)")
    parser.add_argument(
        "--target", type=float, nargs="+", metavar="RETURN", help="target returns (default: the agent's own)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the first episode (default: 0)")
    parser.add_argument(
        "--env",
        metavar="ID",
        help="environment instead of the run's own; the run's own id keeps its settings; MODULE:ID imports MODULE",
    )
    parser.add_argument(
        "--env-kwargs",
        metavar="KEY=VALUE",
        nargs="+",
        type=key_value,
        default=[],
        help="settings of gymnasium.make, over those of the run's environment",
    )
    parser.add_argument(
        "--max-episode-steps",
        metavar="N",
        type=int,
        help="truncate episodes after N steps (default: the environment's own limit, or "
        f"{DEFAULT_MAX_STEPS} if it has none)",
    )
    parser.add_argument("--sample", action="store_true", help="sample actions instead of taking the likeliest")
    parser.add_argument(
        "--environments",
        metavar="N",
        type=int,
        default=10,
        help="environments in parallel for each target (default: 10); it can change the last digits of actions",
    )
    parser.add_argument(
        "--async", dest="asynchronous", action="store_true", help="step environments in processes of their own"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, default=0, help="CPU threads, 0: by the model's size (default: 0)"
    )
    add_vecnormalize(parser)
    add_trust(parser, "make whatever environment the checkpoint names, or open the pickles of a .zip")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print a table or JSON."""
    if arguments.threads < 0:
        raise ValueError(f"threads must not be negative, got {arguments.threads}")
    with stdout_left_alone() if arguments.json else contextlib.nullcontext():
        agent, environment, about = opened(arguments)
        acting = arguments.environments * len(arguments.target or [None]) * inputs_per_action(agent)
        threads = use_threads(arguments.threads, agent, acting, places=agent.task.observation_size)
        results = evaluate(
            agent,
            environment,
            episodes=arguments.episodes,
            targets=arguments.target,
            environments=arguments.environments,
            seed=arguments.seed,
            deterministic=not arguments.sample,
            vectorization="async" if arguments.asynchronous else "sync",
            max_episode_steps=arguments.max_episode_steps,
            progress=not arguments.json,
        )
    if arguments.json:
        head = {"run": str(arguments.path), **about, "parameters": parameter_count(agent), "threads": threads}
        rows = [result.to_dict() for result in results]
        print(to_json(head | (rows[0] if len(rows) == 1 else {"targets": rows})))
    else:
        what = ", step ".join(str(about[key]) for key in ("checkpoint", "step") if about[key] is not None)
        print(f"{arguments.path}: {what} ({describe_threads(threads, arguments.threads)})\n")
        print(evaluation_table(results))
    return 0


def opened(arguments: argparse.Namespace) -> tuple[Actor, EnvironmentInfo, dict[str, Any]]:
    """Return the agent of a run, a checkpoint or a .zip, where to evaluate it, and what JSON says of it."""
    kwargs = dict(arguments.env_kwargs)
    if is_policy_file(arguments.path):
        if arguments.env is None:
            raise ValueError(f"{arguments.path}: name the environment of its training with --env ID")
        environment = EnvironmentInfo(arguments.env, kwargs)
        policy = load_zip_in(arguments.path, environment, vecnormalize=arguments.vecnormalize)
        return policy, environment, {"agent": policy.name, "checkpoint": policy.algorithm, "step": None}
    if arguments.vecnormalize is not None:
        raise ValueError("--vecnormalize is for a policy's .zip; a run keeps its own statistics")
    saved = checkpoint.read(arguments.path)
    agent = checkpoint.restore(saved, str(arguments.path))
    about = {"agent": saved.agent, "checkpoint": saved.note.get("label", "checkpoint"), "step": saved.step}
    return agent, chosen_environment(agent.task, arguments.env, kwargs), about


def chosen_environment(task: Task, name: str | None, kwargs: dict[str, Any]) -> EnvironmentInfo:
    """Return the environment to evaluate in: the run's own, or the one called `name`, with `kwargs` over its keywords.

    The run's own id, whichever module is named before it, keeps the keywords and the limit of steps that the run was
    trained with. A data set's spec is kept only if its code is an installed package's.

    Raises:
        ValueError: without `name` if the run has no environment or would import code that only a file names.
    """
    if name is None:
        return task.known_environment().changed(kwargs)
    own = task.environment
    if own is None or own.id.rpartition(":")[2] != name.rpartition(":")[2]:
        return EnvironmentInfo(name, kwargs)
    try:
        if own.spec is not None:
            return task.known_environment().changed(kwargs)
    except ValueError:
        pass  # the user trusts the id, not the spec in the file
    check_keywords(name, own.kwargs, "the checkpoint")
    return EnvironmentInfo(name, own.kwargs, own.max_episode_steps).changed(kwargs)


@contextlib.contextmanager
def stdout_left_alone() -> Iterator[None]:
    """Send standard output, also of C code, to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
