"""Natively vectorised environments (Gymnasium's, EnvPool) as Stable-Baselines3's `VecEnv`, for each autoreset mode.

Shapes: N environments.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from minrl.online.vector import attributes, kinds
from minrl.online.vector.episodes import EpisodeStatistics, split_info

_GAME = frozenset({"lives", "reward", "terminated"})


def as_vec_env(environment: Any) -> VecEnv:
    """Adapt a vector environment or EnvPool to `VecEnv`; a `VecEnv` is returned itself.

    Raises:
        ValueError: if it is neither, or as `VectorEnvironment`.
    """
    return environment if isinstance(environment, VecEnv) else VectorEnvironment(environment)


class VectorEnvironment(VecEnv):
    """A `gymnasium.vector.VectorEnv`, or EnvPool made with `env_type="gymnasium"`, as a Stable-Baselines3 `VecEnv`.

    It also does `Monitor`'s work: the last step of an episode carries `info["episode"]`, by default counted here; an
    entry that the environment reports is kept, except for the wrong counts of a vector RecordEpisodeStatistics in mode
    `DISABLED`. In EnvPool's Atari games an episode is a game, with unclipped rewards.

    What callers see follows the autoreset mode (https://farama.org/Vector-Autoreset-Mode):

    - `SAME_STEP` and `DISABLED` (reset here, with `reset_mask`): as with `DummyVecEnv`.
    - `NEXT_STEP` and EnvPool: the last step of an episode returns its final observation. In the step after it that
      environment only resets: a *filler*, with reward 0, `done` again (so that the observation it returns is marked as
      an episode start) and `info["filler"]`, belonging to no episode. `filler` marks the rows that a learner masks.
      Stable-Baselines3's `VecMonitor` counts fillers as episodes; it is not needed here.

    Seeds go to the environments at the next `reset`: environment i gets `seed + i` where each has a generator; a native
    vector environment draws from one, seeded with `seed`. EnvPool's seed is an argument of `envpool.make`.

    Args:
        environment: what to adapt.
        autoreset: the mode of an environment whose `metadata["autoreset_mode"]` does not say.

    Attributes:
        filler: (N,) bool, the environments that only reset in the last step.

    Raises:
        ValueError: not a vector environment, an unknown autoreset mode, or spaces that Stable-Baselines3 cannot take.
    """

    def __init__(self, environment: Any, *, autoreset: AutoresetMode | None = None) -> None:
        kinds.check_kind(environment)
        self.environment = environment
        self.autoreset = kinds.find_autoreset(environment, autoreset)
        self._is_envpool = kinds.is_envpool(environment)
        count = kinds.count_environments(environment)
        observation_space, action_space = kinds.single_spaces(environment)
        self._is_dict = isinstance(observation_space, spaces.Dict)
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
        # A copy, as VecNormalize edits the space.
        self._layout = {key: ((count, *(part.shape or ())), part.dtype) for key, part in parts.items()}
        # Callers keep the last observation, so a reused buffer is copied.
        self._to_array: Any = np.asarray if kinds.returns_new_arrays(environment) else np.array
        self.episodes = EpisodeStatistics(count)
        self._nobody = np.zeros(count, dtype=bool)
        self._nobody.flags.writeable = False
        self.filler = self.resets_next = self._nobody
        super().__init__(count, observation_space, action_space)
        self.metadata = {**(environment.metadata or {}), **self.metadata}
        self._trusts_reports = not kinds.miscounts_episodes(environment, self.autoreset)
        # A Monitor inside knows where episodes end, as when it sits under a wrapper that ends one at each lost life.
        self._has_monitor = hasattr(environment.unwrapped, "call") and self.has_attr("get_episode_rewards")

    def reset(self) -> VecEnvObs:
        """Reset with the seeds and options set since the last reset.

        Raises:
            ValueError: options that differ between environments, or an observation of the wrong shape.
        """
        arguments: dict[str, Any] = {}
        if self._seeds[0] is not None:
            arguments["seed"] = int(self._seeds[0])
        if any(self._options):
            if any(options != self._options[0] for options in self._options):
                raise ValueError("a vector environment takes one set of reset options for all its environments")
            arguments["options"] = self._options[0]
        observations, info = self.environment.reset(**arguments)
        if self._is_envpool:
            kinds.check_envpool_rows(info, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        self.episodes.restart()
        self.filler = self.resets_next = self._nobody
        self.reset_infos = split_info(info, self.num_envs)
        first: VecEnvObs = self._observations(observations)
        return first

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Store the actions for `step_wait`.

        Raises:
            ValueError: not one action per environment.
        """
        self._actions = np.asarray(actions)
        if self._actions.shape[:1] != (self.num_envs,):
            raise ValueError(f"expected {self.num_envs} actions, got an array of shape {self._actions.shape}")

    def step_wait(self) -> VecEnvStepReturn:
        """Step: return observations, rewards (N,) float32, dones (N,) bool and infos; see the class for episode ends.

        Raises:
            ValueError: an observation of the wrong shape.
        """
        observations, rewards, terminated, truncated, info = self.environment.step(self._actions)
        observations = self._observations(observations)
        infos = split_info(info, self.num_envs)
        done = np.logical_or(terminated, truncated)
        self.filler, self.resets_next = self.resets_next, self._nobody
        filler = None if self.filler is self._nobody else self.filler
        rewards = self._rewards(rewards)
        self.episodes.add(np.asarray(info["reward"]) if self._is_game(info) else rewards, filler)
        rewards = np.array(rewards, dtype=np.float32)
        if filler is not None:
            self._mark_fillers(observations, rewards, infos)
        if done.any():
            self._end_episodes(observations, done, np.logical_and(truncated, np.logical_not(terminated)), infos)
            if self.autoreset is AutoresetMode.DISABLED:
                self._reset_ended(observations, done)
        return observations, rewards, done if filler is None else done | filler, infos

    def _rewards(self, rewards: Any) -> npt.NDArray[Any]:
        """Reshape (N,) or (N, 1) to (N,)."""
        numbers = np.asarray(rewards)
        if numbers.size != self.num_envs:
            raise ValueError(f"{self.num_envs} environments gave rewards of shape {numbers.shape}, expected one each")
        return numbers.reshape(self.num_envs)

    def _mark_fillers(self, observations: Any, rewards: npt.NDArray[np.float32], infos: list[dict[str, Any]]) -> None:
        """Clear the rows of environments that only reset in this step."""
        rewards[self.filler] = 0.0
        for index in np.flatnonzero(self.filler).tolist():
            self.reset_infos[index] = infos[index]
            terminal = self._copy(self._row(observations, index))  # wrappers such as VecFrameStack want one
            infos[index] = {"filler": True, "TimeLimit.truncated": False, "terminal_observation": terminal}

    def _end_episodes(
        self,
        observations: Any,
        done: npt.NDArray[np.bool_],
        time_limit: npt.NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        """Write the entries of `infos` that Stable-Baselines3 reads at the end of an episode."""
        if self.autoreset is AutoresetMode.NEXT_STEP:
            self.resets_next = done.copy()
        for index in np.flatnonzero(done & ~self.filler).tolist():
            final = self._row(observations, index)
            if self.autoreset is AutoresetMode.SAME_STEP:
                # `observations` and the rest of this info are the next episode's.
                self.reset_infos[index] = infos[index]
                final = infos[index].pop("final_obs", None)
                infos[index] = infos[index].pop("final_info", {})
            if final is None:
                raise ValueError(f"no final_obs from {type(self.environment.unwrapped).__name__}: it is not SAME_STEP")
            info = infos[index]
            info["terminal_observation"] = self._copy(final)
            info["TimeLimit.truncated"] = bool(time_limit[index])
            goes_on = self._is_game(info) and not (info["terminated"] or time_limit[index])
            if not goes_on and not self._has_monitor:
                episode = self.episodes.end(index)
                reported = info.get("episode") if self._trusts_reports else None
                info["episode"] = reported if isinstance(reported, dict) and {"r", "l"} <= reported.keys() else episode

    def _reset_ended(self, observations: Any, done: npt.NDArray[np.bool_]) -> None:
        """Reset environments whose episodes ended, and write their first observations into `observations`."""
        first, info = self.environment.reset(options={"reset_mask": done.copy()})
        first = self._observations(first)
        reset_infos = split_info(info, self.num_envs)
        for index in np.flatnonzero(done).tolist():
            self.reset_infos[index] = reset_infos[index]
        for key in self._layout:
            if key is None:
                observations[done] = first[done]
            else:
                observations[key][done] = first[key][done]

    def _is_game(self, info: Any) -> bool:
        """Return True if this is the info of EnvPool's Atari games, which may end at a lost life and clip rewards."""
        return self._is_envpool and isinstance(info, dict) and info.keys() >= _GAME

    def _observations(self, observations: Any) -> Any:
        if not self._is_dict:
            return self._array(observations, None)
        return {key: self._array(observations[key], key) for key in self._layout}

    def _array(self, values: Any, key: str | None) -> npt.NDArray[Any]:
        shape, dtype = self._layout[key]
        array: npt.NDArray[Any] = self._to_array(values, dtype=dtype, order="C")
        if array.shape != shape:
            name = "observation" if key is None else f"observation {key!r}"
            raise ValueError(
                f"{type(self.environment.unwrapped).__name__} gave the {name} the shape {array.shape}, expected {shape}"
            )
        return array

    def _row(self, observations: Any, index: int) -> Any:
        return {key: array[index] for key, array in observations.items()} if self._is_dict else observations[index]

    def _copy(self, observation: Any) -> Any:
        """Return one environment's observation, in the dtype of the space."""
        if not self._is_dict:
            return np.array(observation, dtype=self._layout[None][1])
        return {key: np.array(observation[key], dtype=dtype) for key, (_, dtype) in self._layout.items()}

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set seeds for the next `reset`, one per environment; warn for EnvPool, which takes none."""
        if self._is_envpool:
            warnings.warn("EnvPool is seeded by envpool.make(..., seed=SEED); this seed has no effect", stacklevel=2)
            return [None] * self.num_envs
        return super().seed(seed)

    def close(self) -> None:
        """Close all environments."""
        self.environment.close()

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        """Return the rendered frame of each environment, or None without `render_mode="rgb_array"`."""
        if self.render_mode != "rgb_array":
            warnings.warn(f"the render mode is {self.render_mode!r}, images need 'rgb_array'", stacklevel=2)
            return [None] * self.num_envs
        return list(
            self.environment.render(np.arange(self.num_envs)) if self._is_envpool else self.environment.render()
        )

    def render(self, mode: str | None = None) -> npt.NDArray[Any] | None:
        """Return all frames as one image, or None with `render_mode="human"`."""
        if self.render_mode == "human" and mode in (None, "human"):
            self.environment.render()
            return None
        image: npt.NDArray[Any] | None = super().render(mode)
        return image

    def has_attr(self, attr_name: str) -> bool:
        """Return True if all environments have the attribute."""
        return attributes.has_attribute(self.environment, attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the attribute of each environment, see `minrl.online.vector.attributes.get_attributes`."""
        values = attributes.get_attributes(self.environment, attr_name, kinds.count_environments(self.environment))
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environments, see `minrl.online.vector.attributes.set_attributes`."""
        attributes.set_attributes(self.environment, attr_name, value, self._list(indices), self.num_envs)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        """Call a method of the environments, see `minrl.online.vector.attributes.call_method`."""
        chosen = self._list(indices)
        return attributes.call_method(self.environment, method_name, method_args, method_kwargs, chosen, self.num_envs)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Return True if the environments have a wrapper, and for `Monitor`, whose work is done here."""
        if issubclass(wrapper_class, Monitor):
            return [True for _ in self._get_indices(indices)]
        wrapped = attributes.are_wrapped(self.environment, wrapper_class, self.num_envs)
        return [wrapped[index] for index in self._get_indices(indices)]

    def _list(self, indices: VecEnvIndices) -> list[int]:
        return list(self._get_indices(indices))
