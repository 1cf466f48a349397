"""A vector environment of compiled rows, with Gymnasium's time limit, seeds and autoreset modes.

Shapes: B environments.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .compiled import Array, Options, Rows, Task, action_type, addresses, observe_rows, reset_rows, step_rows
from .random_streams import STREAM_SIZE, stream_of

Rewards = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class CompiledVectorEnv(VectorEnv[Any, Any, Any]):
    """B copies of a task, equal to Gymnasium's SyncVectorEnv over the scalar one, without a Python loop per step.

    Row i draws from a stream of its own, seeded with `seed + i`. Under SAME_STEP `infos` holds `final_obs` and
    `final_info` as SyncVectorEnv's does; under DISABLED rows are reset with `options={"reset_mask": (B,) bool}`.

    Attributes:
        rows: for code compiled elsewhere that steps the rows itself, under SAME_STEP.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        """Step `num_envs` rows of `task`, truncated after `max_episode_steps` (None or -1: never).

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
        self.single_observation_space, self.single_action_space = task.observation_space, task.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._task = task
        self._flat_observations = (num_envs, int(np.prod(task.observation_space.shape or ())))
        self.rows = Rows(
            *addresses(task),
            state=np.zeros((num_envs, task.state_size)),
            streams=np.zeros((num_envs, STREAM_SIZE), dtype=np.uint64),
            settings=task.settings_of(None),
            elapsed=np.zeros(num_envs, dtype=np.int64),
            limit=np.iinfo(np.int64).max if max_episode_steps in (None, -1) else int(max_episode_steps),
        )
        # Values of each action that is a choice.
        self._choices = np.asarray(
            getattr(task.action_space, "nvec", getattr(task.action_space, "n", 2)), dtype=np.uint64
        )
        self._seeded = np.zeros(num_envs, dtype=np.bool_)
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
        rows = self._chosen(options.pop("reset_mask", None))
        seeds = self._seeds(seed)
        for row in rows.tolist():
            if seeds[row] is not None or not self._seeded[row]:
                self.rows.streams[row] = stream_of(seeding.np_random(seeds[row])[0])
        self._seeded[rows] = True
        if self._ended is None:
            self._ended = np.zeros(self.num_envs, dtype=np.bool_)
        observations = self._empty()
        observe_rows(self.rows.observe, self.rows.state, self.rows.settings, observations)
        self._begin(rows, observations, self._task.settings_of(options))
        self._ended[rows] = False
        return self._shaped(observations), {}

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
        observations, rewards = self._empty(), np.empty(self.num_envs)
        ends = np.empty((2, self.num_envs), dtype=np.bool_)
        rows, flat = self.rows, self._checked(actions).reshape(self.num_envs, -1)
        step_rows(rows.step, rows.observe, rows.state, flat, rows.settings, observations, rewards, ends)
        terminated, truncated = ends
        rows.elapsed[:] += 1
        truncated |= rows.elapsed >= rows.limit
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and np.count_nonzero(self._ended):
            self._begin(np.flatnonzero(self._ended), observations)
            rewards[self._ended] = 0.0
            ends[:, self._ended] = False
        self._ended = terminated | truncated
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and np.count_nonzero(self._ended):
            ended = np.flatnonzero(self._ended)
            infos = self._final(self._shaped(observations.copy()), ended)
            self._begin(ended, observations)
        return self._shaped(observations), rewards, terminated, truncated, infos

    def _begin(self, chosen: Array, observations: Array, settings: Array | None = None) -> None:
        """Start episodes in the `chosen` rows and write their first observations."""
        rows = self.rows
        rows.elapsed[chosen] = 0
        settings = rows.settings if settings is None else settings
        reset_rows(rows.reset, rows.observe, chosen, rows.state, rows.streams, settings, observations)

    def _empty(self) -> Array:
        return np.empty(self._flat_observations, dtype=self.single_observation_space.dtype)

    def _shaped(self, observations: Array) -> Array:
        return observations.reshape(self.observation_space.shape or ())

    def _final(self, observations: Array, rows: Array) -> dict[str, Any]:
        """Return the infos of ended rows with their final observations, as SyncVectorEnv arranges them."""
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
        if not is_box and (array.dtype.kind not in "iu" or np.count_nonzero(array.astype(np.uint64) >= self._choices)):
            most = np.max(self._choices) - 1
            raise ValueError(f"actions must be whole numbers from 0 to {most}, got {array.tolist()}")
        return array.astype(action_type(space), order="C", copy=False)

    def _chosen(self, mask: Any) -> Array:
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
