"""The data set of a run, with the environment that it is evaluated in."""

from dataclasses import replace

from minrl.data import load
from minrl.data.environment import EnvironmentInfo, check_trusted
from minrl.data.episode import Episodes
from minrl.data.trust import check_keywords
from minrl.training.config import TrainConfig

HOW_TO_EVALUATE = "--eval-env ID (MODULE:ID imports MODULE first; --env-kwargs KEY=VALUE for its settings)"


def training_data(config: TrainConfig, *, download: bool = True, named_by: str | None = None) -> Episodes:
    """Load the data set of `config`, with the spaces and environment that `config` states instead of the set's own.

    `named_by` is the file that names the environment in `config`; None if the user does.

    Raises:
        ValueError: if the set is unavailable, a stated space does not fit it, or settings of an environment are
            given where there is none.
    """
    environment = evaluation_environment(config, named_by)
    episodes = load(
        config.data,
        download=download,
        observation_space=config.observation_space or None,
        action_space=config.action_space or None,
        environment=environment,
    )
    if environment is None and config.env_kwargs:
        if episodes.environment is None:
            raise ValueError(f"env_kwargs: {episodes.name} names no environment; name it: {HOW_TO_EVALUATE}")
        return replace(episodes, environment=episodes.environment.changed(config.env_kwargs))
    return episodes


def evaluation_environment(config: TrainConfig, named_by: str | None = None) -> EnvironmentInfo | None:
    """Return the environment that `config` names, None where it leaves that to the data set."""
    return EnvironmentInfo(config.eval_env, config.env_kwargs, named_by=named_by) if config.eval_env else None


def check_environment_of_file(config: TrainConfig, named: str | None, where: str) -> None:
    """Check the environment named in a checkpoint, which may come from an untrusted source.

    Args:
        config: read from the checkpoint.
        named: the environment's id, if the user repeats it.
        where: the run.

    Raises:
        ValueError: if the user names another one, or none and no installed package registers it.
    """
    environment = evaluation_environment(config)
    if named is not None and (environment is None or named != environment.id):
        other = "the environment of its data set" if environment is None else environment.id
        raise ValueError(f"{where} is evaluated in {other}, not in {named}")
    if environment is not None and named is None:
        check_trusted(environment, "the checkpoint")
    elif environment is not None:
        check_keywords(environment.id, environment.kwargs, "the checkpoint")
