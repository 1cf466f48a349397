"""`minrl train ppo`: a new run of recurrent PPO, or one that goes on."""

import argparse
import shlex
import textwrap
from pathlib import Path
from typing import Any

from minrl.online.run import OnlineResult
from minrl.online.settings import AlgorithmSettings, EnvironmentSettings, OnlineConfig, RunSettings
from minrl.online.train import resume, train
from minrl.runs import checkpoint
from minrl.runs.learning_curve import CurvePanel
from minrl.runs.log import TIMESTEPS
from minrl.runs.summary import finish
from minrl.system.config import add_flags, build, from_flags, read_toml
from minrl.system.shipped_configs import shipped_configs

from .. import ppo_agent
from ..ppo_agent import PPOAgent, PPOOptions
from . import flag_hints

NAME = PPOAgent.name
# Where the settings of single environments lie among the configs.
SHIPPED = "online/"
USAGE = f"minrl train {NAME} --env ID --out RUN"
EXAMPLES = f"""examples:
  {USAGE.replace("ID", "minrl/CartPoleNoVel-v1").replace("RUN", "runs/cartpole")}
  minrl train {NAME} --env Pendulum-v1 --cell minlstm --steps 200000 --video --out runs/pendulum
  minrl train {NAME} --config FILE.toml --seed 1 --out runs/seed1
  minrl train --resume runs/cartpole"""


def add_arguments(agents: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `minrl train ppo`, whose flags are the fields of its settings."""
    about = (ppo_agent.__doc__ or NAME).splitlines()[0]
    parser = agents.add_parser(
        NAME,
        help=about,
        description=textwrap.fill(about, 96),
        usage=f"{USAGE} [--config FILE.toml] [flags]",
        epilog=EXAMPLES,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--out", metavar="RUN", type=Path, help="folder for checkpoints, log and config")
    files.add_argument(
        "--config",
        metavar="FILE.toml",
        type=Path,
        help=f"tables [{NAME}] and [train], or a config that ships; by default the one of the environment",
    )
    files.add_argument(
        "--no-config", action="store_true", help="take no settings that ship for the environment, where there are some"
    )
    files.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="one JSON object with the final scores on standard output, nothing else",
    )
    add_flags(parser, EnvironmentSettings, "environment")
    add_flags(parser, RunSettings, "run")
    add_flags(parser, PPOOptions, "policy")
    add_flags(parser, AlgorithmSettings, "algorithm, as in Stable-Baselines3's PPO")
    parser.set_defaults(agent=NAME, instead=flag_hints.ONLINE)


def run(arguments: argparse.Namespace) -> int:
    """Train as the flags say."""
    if arguments.out is None:
        raise ValueError(f"where to? give a folder for the run: {USAGE}")
    tables = _tables(arguments)
    options = build(PPOOptions, tables.get(NAME, {}) | from_flags(PPOOptions, arguments), "the settings")
    config = build(OnlineConfig, tables.get("train", {}) | from_flags(OnlineConfig, arguments), "the settings")
    if not config.env:
        raise ValueError(f"no environment: {USAGE}")
    return end(train(PPOAgent, options, config, arguments.out), arguments.out)


def _tables(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the settings below the flags: those of --config, else those that ship for the environment."""
    parts = {NAME: PPOOptions, "train": OnlineConfig}
    if arguments.config or arguments.no_config:
        return read_toml(arguments.config, parts) if arguments.config else {}
    environment = getattr(arguments, "env", "").rpartition(":")[2]
    for name in shipped_configs():
        if not name.startswith(SHIPPED):
            continue
        tables = read_toml(name, parts)
        if tables.get("train", {}).get("env") == environment:
            print(f"minrl: settings of configs/{name}.toml, with flags over them (--no-config: none)")
            return tables
    return {}


def go_on(path: Path, environment: str | None, steps: int | None = None) -> int:
    """Resume the run at `path`, to step `steps` where that is given; the exit code."""
    return end(resume(path, environment, steps), path)


def end(result: OnlineResult, path: Path) -> int:
    """Report how the run ended and return the exit code."""
    out = path if path.is_dir() else path.parent
    config = result.config
    if result.signal is not None:
        # An id with a module before it is imported only where the user says it again.
        named = f" --env {shlex.quote(config.env)}" if ":" in config.env else ""
        saved, folder = " and saved", shlex.quote(str(out))
        if config.exact_resume:
            saved = f"; the checkpoint of step {checkpoint.read(out).step} is kept"
        print(f"stopped at step {result.step}{saved}; go on with: minrl train --resume {folder}{named}")
        return 128 + result.signal
    kind = "natively vectorised" if result.vectorization == "native" else result.vectorization
    rate = result.step / result.seconds if result.seconds else 0.0
    print(
        finish(
            result.agent,
            result.evaluation,
            out,
            failure=result.failure,
            rows=[
                ("trained in", f"{config.env}, {config.n_envs} at once ({kind})"),
                ("checkpoint", f"the last one, after {result.step} steps"),
            ],
            speed=[("training", f"{result.seconds:.1f} s, {rate:.0f} steps per second")],
            numbers={
                "step": result.step,
                "training_seconds": result.seconds,
                "training_cpu_seconds": result.cpu_seconds,
                "steps_per_second": rate,
            },
            panels=[CurvePanel(TIMESTEPS, "environment steps", "return", ("rollout/ep_rew_mean", "eval/mean_reward"))],
        )
    )
    return 0 if result.failure is None else 1
