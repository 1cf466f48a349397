"""A vector environment in NumPy: rows step together, with Gymnasium's time limit, seeds and autoreset modes.

Shapes: B environments.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

Array = npt.NDArray[Any]
Rewards = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Options = dict[str, Any] | None


class Dynamics(ABC):
    """Interface of a task: B rows of state, observations and rewards, without time limit and autoreset."""

    observation_space: gymnasium.Space[Any]  # of one row
    action_space: gymnasium.Space[Any]  # of one row

    @abstractmethod
    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Start an episode in `row`, drawing from `generator` what the scalar environment draws."""

    @abstractmethod
    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Step every row; return rewards (B,) and terminated (B,) as new arrays.

        Rows whose episode is over are stepped too, and their results discarded.
        """

    @abstractmethod
    def observe(self) -> Array:
        """Return the observation of every row, (B, …), as a new array."""


class NumpyVectorEnv(VectorEnv[Any, Any, Any]):
    """B copies of a task, equal to Gymnasium's SyncVectorEnv over the scalar one, without a Python loop per step.

    Row i draws from a generator of its own, seeded with `seed + i`. Under SAME_STEP `infos` holds `final_obs` and
    `final_info` as SyncVectorEnv's does; under DISABLED rows are reset with `options={"reset_mask": (B,) bool}`.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        num_envs: int,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        """Step `num_envs` rows of `dynamics`, truncated after `max_episode_steps` (None or -1: never).

        Raises:
            ValueError: for an unknown autoreset mode, a render mode, or no environment.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if render_mode is not None:
            raise ValueError("this vector environment draws no pictures: make it with vectorization_mode='sync'")
        known = [mode.value for mode in AutoresetMode]
        if not isinstance(autoreset_mode, AutoresetMode) and autoreset_mode not in known:
            raise ValueError(f"autoreset_mode must be one of {', '.join(known)}, got {autoreset_mode!r}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = dynamics.observation_space, dynamics.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._dynamics = dynamics
        self._limit = np.iinfo(np.int64).max if max_episode_steps in (None, -1) else max_episode_steps
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._ended: Flags | None = None  # None before the first reset

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Options = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode in every row, or in those of `options["reset_mask"]`.

        Args:
            seed: of row 0, row i taking `seed + i`; or one seed for each row; None continues their generators.
            options: for the task, as the scalar environment's reset takes them.

        Raises:
            ValueError: unless there is one seed or one flag for each row.
        """
        options = dict(options or {})
        rows = self._rows(options.pop("reset_mask", None))
        seeds = self._seeds(seed)
        for row in rows.tolist():
            if seeds[row] is not None:
                self._generators[row] = seeding.np_random(seeds[row])[0]
        if self._ended is None:
            self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        self._begin(rows, options)
        self._ended[rows] = False
        return self._dynamics.observe(), {}

    def step(self, actions: Any) -> tuple[Array, Rewards, Flags, Flags, dict[str, Any]]:
        """Step every row: observations, rewards, terminated, truncated, infos, (B, …) each.

        Raises:
            ValueError: before the first reset; for actions of another shape or out of range; under DISABLED if an
                episode is over and was not reset.
        """
        if self._ended is None:
            raise ValueError("call reset before the first step")
        if self.autoreset_mode is AutoresetMode.DISABLED and np.count_nonzero(self._ended):
            over = np.flatnonzero(self._ended).tolist()
            raise ValueError(f'the episodes of rows {over} are over: reset them with options={{"reset_mask": …}} first')
        rewards, terminated = self._dynamics.advance(self._checked(actions))
        self._steps += 1
        truncated = self._steps >= self._limit
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and np.count_nonzero(self._ended):
            self._begin(np.flatnonzero(self._ended), None)
            rewards[self._ended] = 0.0
            terminated[self._ended] = truncated[self._ended] = False
        self._ended = terminated | truncated
        observations, infos = self._dynamics.observe(), {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and np.count_nonzero(self._ended):
            rows = np.flatnonzero(self._ended)
            infos = self._final(observations, rows)
            self._begin(rows, None)
            observations = self._dynamics.observe()
        return observations, rewards, terminated, truncated, infos

    def _begin(self, rows: Array, options: Options) -> None:
        self._steps[rows] = 0
        for row in rows.tolist():
            generator = self._generators[row]
            if generator is None:
                generator = self._generators[row] = seeding.np_random()[0]
            self._dynamics.begin(row, generator, options)

    def _final(self, observations: Array, rows: Array) -> dict[str, Any]:
        """Return the infos of ended rows with their final observations, laid out as SyncVectorEnv's."""
        last = np.full(self.num_envs, None, dtype=object)
        for row in rows.tolist():
            last[row] = observations[row]
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        mask[rows] = True
        return {"final_obs": last, "_final_obs": mask, "final_info": {}, "_final_info": mask.copy()}

    def _checked(self, actions: Any) -> Array:
        space = self.single_action_space
        is_box = isinstance(space, spaces.Box)
        array = np.asarray(actions, dtype=space.dtype if is_box else None)
        if array.shape != self.action_space.shape:
            raise ValueError(f"actions must have the shape {self.action_space.shape}, got {array.shape}")
        # Cast to unsigned, a negative index is huge.
        if isinstance(space, spaces.Discrete) and (
            array.dtype.kind not in "iu" or np.count_nonzero(array.astype(np.uint64) >= space.n)
        ):
            raise ValueError(f"actions must be whole numbers from 0 to {space.n - 1}, got {array.tolist()}")
        return array

    def _rows(self, mask: Any) -> Array:
        if mask is None:
            return np.arange(self.num_envs)
        flags = np.asarray(mask)
        if flags.shape != (self.num_envs,) or flags.dtype != np.bool_ or not flags.any():
            raise ValueError(f"reset_mask must hold {self.num_envs} booleans, one True or more, got {mask}")
        if self._ended is None and not flags.all():
            raise ValueError("the first reset must be of every row")
        return np.flatnonzero(flags)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + row for row in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"there must be one seed for each of {self.num_envs} rows, got {len(seed)}")
        return seed
