"""The two families of tasks that agents can be compared on: data sets and environments."""

from contextlib import closing
from pathlib import Path
from typing import Any

from minrl.compare.grid.family import Family
from minrl.data.environment import make_environment
from minrl.data.task import Task
from minrl.online import train as online
from minrl.online.environments import probe
from minrl.online.settings import OnlineConfig
from minrl.runs.log import STEP, TIMESTEPS
from minrl.system.mujoco import quiet_mujoco
from minrl.training.data_set import training_data
from minrl.training.offline import TrainConfig, new_agent
from minrl.training.offline import resume as resume_offline
from minrl.training.offline import train as train_offline

from ..ppo_agent import PPOAgent, PPOConfig, PPOOptions
from . import train as cli_train
from . import train_ppo

_DEFAULT = "decision"


def families() -> dict[str, Family]:
    """Return the families by the name of their table in a grid."""
    kinds = {name: kind.config_class for name, kind in cli_train.offline_agents().items()}
    return {
        "offline": Family(
            source="data",
            keys={
                "data": "data",
                "env": "eval_env",
                "env_kwargs": "env_kwargs",
                "observation_space": "observation_space",
                "action_space": "action_space",
            },
            counter=STEP,
            agents={_DEFAULT: kinds.pop(_DEFAULT), **kinds},
            settings=TrainConfig,
            # The same numbers wherever a run is trained, and several at once without getting into each other's way.
            defaults={"threads": 1},
            find=find_data,
            check=check_offline,
            start=start_offline,
            resume=go_on_offline,
        ),
        "online": Family(
            source="env",
            keys={"env": "env", "env_kwargs": "env_kwargs"},
            counter=TIMESTEPS,
            agents={PPOAgent.name: PPOOptions},
            settings=OnlineConfig,
            defaults={"threads": 1, "exact_resume": True},
            find=find_environment,
            check=check_online,
            start=start_online,
            resume=go_on_online,
        ),
    }


def find_data(settings: TrainConfig, download: bool) -> Task:
    """Return the task of a data set; a ValueError where the set or its environment cannot be had."""
    task = Task.of(training_data(settings, download=download))
    if task.environment is None:
        raise ValueError(
            f"{settings.data} names no environment, so its agents have no score to compare: "
            f'name one in its table [tasks.NAME], env = "ID"'
        )
    quiet_mujoco()
    with closing(make_environment(task.environment)) as environment:
        task.check_fits(environment.observation_space, environment.action_space, task.environment.id)
    return task


def check_offline(agent: str, options: Any, task: Task) -> None:
    """Raise a ValueError where no agent can be made of these options."""
    new_agent(cli_train.offline_agents()[agent], options, task)


def start_offline(agent: str, options: Any, settings: TrainConfig, out: Path) -> int:
    """Start a new run; return 0, or 128 + the signal that stopped it."""
    kind = cli_train.offline_agents()[agent]
    return cli_train.finish(train_offline(kind, options, settings, out), out)


def go_on_offline(settings: TrainConfig, out: Path) -> int:
    """Continue a run, to the same numbers as without the interruption."""
    return cli_train.finish(resume_offline(out, settings.eval_env or None), out)


def find_environment(settings: OnlineConfig, download: bool) -> Task:
    """Return the task of an environment; a ValueError where it cannot be had."""
    task, _ = probe(settings)
    return task


def check_online(agent: str, options: PPOOptions, task: Task) -> None:
    """Raise a ValueError where no policy can be made of these options."""
    try:
        PPOAgent(PPOConfig(**vars(options)), task)
    except (AssertionError, TypeError, RuntimeError, ZeroDivisionError) as error:  # Stable-Baselines3 asserts
        reason = " ".join(str(error).split())
        raise ValueError(f"no {PPOAgent.name} agent can be made of these settings: {reason}") from error


def start_online(agent: str, options: PPOOptions, settings: OnlineConfig, out: Path) -> int:
    """Start a run as `start_offline` does."""
    return train_ppo.end(online.train(PPOAgent, options, settings, out), out)


def go_on_online(settings: OnlineConfig, out: Path) -> int:
    """Continue a run as `go_on_offline` does; an id with a module before it is imported, as the grid is the user's
    own."""
    return train_ppo.end(online.resume(out, settings.env if ":" in settings.env else None), out)
