"""`minrl collect`: record episodes of a policy as a Minari data set."""

import argparse

import numpy as np

from minrl.collect.record import collect
from minrl.data.wrappers import DEFAULT_MAX_STEPS
from minrl.runs.threads import use_threads
from minrl.system.config import key_value
from minrl.system.mujoco import quiet_mujoco
from minrl.system.trust import add_trust

from .zip_flags import add_vecnormalize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `minrl collect`."""
    parser.usage = "minrl collect --policy POLICY --env ID --episodes N --out minari:NAME [flags]"
    parser.epilog = (
        "examples:\n"
        "  minrl collect --policy random --env Pendulum-v1 --episodes 100 --out minari:me/pendulum-v0\n"
        "  minrl collect --policy sac.zip --env Hopper-v5 --episodes 50 --out minari:me/hopper-v0"
    )
    add = parser.add_argument
    add(
        "--policy",
        metavar="POLICY",
        nargs="+",
        help="a Stable-Baselines3 .zip, random (uniform), waypoint (PointMaze) or guide (memory tasks); several act "
        "one after another",
    )
    add("--env", metavar="ID", help="Gymnasium id; MODULE:ID imports MODULE first")
    add("--episodes", metavar="N", type=int, help="episodes of each policy")
    add("--out", metavar="minari:NAME", help="data set to write, NAME as namespace/name-v0")
    add("--seed", metavar="N", type=int, default=0, help="seed of the first episode (default: 0)")
    add("--deterministic", action="store_true", help="the policy's likeliest action instead of a sample")
    add_vecnormalize(parser)
    add_trust(parser, "open the pickles of a policy's .zip, or of --vecnormalize, where they are needed")
    add("--env-options", metavar="KEY=VALUE", nargs="+", type=key_value, default=[], help="settings of gymnasium.make")
    add(
        "--max-episode-steps",
        metavar="N",
        type=int,
        help="truncate episodes after N steps (default: the environment's own limit, or "
        f"{DEFAULT_MAX_STEPS} if it has none)",
    )
    add("--float32", action="store_true", help="store float64 values as float32")
    add("--compress", action="store_true", help="gzip the arrays")
    add("--overwrite", action="store_true", help="replace a data set of this name once the new one is complete")
    add("--author", metavar="NAME", nargs="+", help="authors, in the data set's metadata")
    add("--description", metavar="TEXT", help="description, in the data set's metadata")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Record a data set and print a summary."""
    for name in ("policy", "env", "episodes", "out"):
        if getattr(arguments, name) is None:
            raise ValueError(f"--{name} is missing: {arguments.parser.usage}")
    quiet_mujoco()
    use_threads(0)  # a policy acts in one environment
    labels = {"author": arguments.author, "description": arguments.description}
    written = collect(
        arguments.policy,
        arguments.env,
        arguments.episodes,
        arguments.out,
        seed=arguments.seed,
        deterministic=arguments.deterministic,
        vecnormalize=arguments.vecnormalize,
        environment_options=dict(arguments.env_options),
        max_episode_steps=arguments.max_episode_steps,
        float32=arguments.float32,
        compress=arguments.compress,
        overwrite=arguments.overwrite,
        trust=arguments.trust,
        metadata={key: value for key, value in labels.items() if value is not None},
    )
    returns = np.array(written.returns)
    cut = ""
    if written.cut_off:
        cut = (
            f"{written.cut_off} of {len(returns)} episodes were truncated after {DEFAULT_MAX_STEPS} steps, as the "
            "environment has no limit: --max-episode-steps sets one\n"
        )
    print(
        f"minari:{written.name}: {len(returns)} episodes, {written.steps} steps, "
        f"return {returns.mean():.1f} (from {returns.min():.1f} to {returns.max():.1f})\n"
        f"{cut}written to {written.path}\n"
        f"train on it with: minrl train decision --data minari:{written.name} --out runs/NAME"
    )
    return 0
