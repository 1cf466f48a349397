"""Library, spaces and autoreset mode of a vector environment, and whether it reuses its arrays."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics


def is_envpool(environment: Any) -> bool:
    """Return True if this is EnvPool, of any version, bare or in Gymnasium's vector wrappers."""
    bases = type(getattr(environment, "unwrapped", environment)).__mro__
    return any(base.__module__.partition(".")[0] == "envpool" for base in bases)


def check_kind(environment: Any) -> None:
    """Raise `ValueError` unless this is a vector environment that steps all its environments at once."""
    envpool = is_envpool(environment)
    # EnvPool before 1.2 is no VectorEnv.
    bare = envpool and isinstance(environment, gymnasium.Env) and environment.unwrapped is environment
    if not (isinstance(environment, VectorEnv) or bare):
        raise ValueError(
            "expected a Stable-Baselines3 VecEnv, a gymnasium.vector.VectorEnv or EnvPool made with "
            f'env_type="gymnasium", got {type(environment).__name__}'
        )
    if envpool and environment.unwrapped.is_async:
        raise ValueError("EnvPool must step all its environments at once: leave batch_size out of envpool.make")


def find_autoreset(environment: Any, stated: AutoresetMode | None) -> AutoresetMode:
    """Return the autoreset mode of the environment's metadata, else the one `stated` by the caller.

    Raises:
        ValueError: neither is a mode, or they contradict each other.
    """
    name = type(environment.unwrapped).__name__
    if stated is not None and not isinstance(stated, AutoresetMode):
        raise ValueError(f"autoreset must be a gymnasium.vector.AutoresetMode, got {stated!r}")
    found = (environment.metadata or {}).get("autoreset_mode")
    if found is None and is_envpool(environment):
        found = AutoresetMode.NEXT_STEP
    if not isinstance(found, AutoresetMode):
        if stated is None:
            raise ValueError(
                f"{name} has the autoreset mode {found!r} in its metadata, expected a gymnasium.vector.AutoresetMode: "
                "say which it follows with autoreset=AutoresetMode.NEXT_STEP, SAME_STEP or DISABLED"
            )
        return stated
    if stated not in (None, found):
        raise ValueError(f"autoreset={stated} contradicts {name}, whose autoreset mode is {found}")
    return found


def miscounts_episodes(environment: Any, autoreset: AutoresetMode) -> bool:
    """Return True if Gymnasium's vector RecordEpisodeStatistics wraps environments that are reset by a mask.

    The environments inside take `reset_mask` out of the options before the wrapper looks for it, so that it forgets
    the running episodes of all environments where one is reset (gymnasium 1.0 to 1.4, wrappers/vector/common.py).
    """
    while isinstance(environment, VectorWrapper):
        if isinstance(environment, RecordEpisodeStatistics):
            return autoreset is AutoresetMode.DISABLED
        environment = environment.env
    return False


def count_environments(environment: Any) -> int:
    """Return the number of environments."""
    return int(environment.num_envs) if hasattr(environment, "num_envs") else len(environment)


def single_spaces(environment: Any) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    """Return the observation and action space of one environment.

    Raises:
        ValueError: Stable-Baselines3 cannot take them.
    """
    # EnvPool calls the space of one environment `observation_space`.
    observation = getattr(environment, "single_observation_space", environment.observation_space)
    action = getattr(environment, "single_action_space", environment.action_space)
    help_text = "wrap each environment with minrl.online.spaces.fit_spaces"
    parts = list(observation.spaces.values()) if isinstance(observation, spaces.Dict) else [observation]
    for part in parts:
        if isinstance(part, (spaces.Tuple, spaces.Dict)):
            raise ValueError(f"Stable-Baselines3 takes no nested or Tuple observations, got {observation}: {help_text}")
    for part in [*parts, action]:
        if np.any(getattr(part, "start", 0)):
            raise ValueError(f"Stable-Baselines3 counts from 0, got {part}: {help_text}")
    return observation, action


def returns_new_arrays(environment: Any) -> bool:
    """Return True if observations are known to be new arrays at each step, not a reused buffer."""
    if isinstance(environment, VectorWrapper) and type(environment).__module__.startswith("gymnasium."):
        return returns_new_arrays(environment.env)
    if isinstance(environment, (SyncVectorEnv, AsyncVectorEnv)):
        return environment.copy
    return is_envpool(environment)


def check_envpool_rows(info: Any, count: int) -> None:
    """Raise ValueError for EnvPool 0.8 with numpy 2, which returns corrupt arrays."""
    numbers = info["env_id"] if isinstance(info, dict) else [row["env_id"] for row in info]
    if not np.array_equal(numbers, np.arange(count)):
        raise ValueError(
            f"EnvPool numbers its {count} environments {np.asarray(numbers).tolist()}: its arrays are broken, "
            "as those of EnvPool 0.8 are with numpy 2; install envpool>=0.9"
        )
