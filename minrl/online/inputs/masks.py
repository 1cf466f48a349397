"""Action masks of vector environments, by the method `action_masks` of each environment.

Shapes: n_envs environments, M flags, K raw outputs of a policy.
"""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from minrl.data.masks.action_masks import added_to_logits, mask_size
from minrl.data.spaces import AnySpace
from minrl.system.messages import one_line

METHOD = "action_masks"


def uses_masks(env: VecEnv, asked: bool | None) -> bool:
    """Return True if actions are masked in `env`: where asked for, or by default where it has masks for its choices.

    Raises:
        ValueError: if they are asked for, and there are none.
    """
    if asked is False:
        return False
    has_choices = mask_size(env.action_space) > 0
    found = has_choices and env.has_attr(METHOD)
    if asked and not has_choices:
        raise ValueError(f"use_masking: actions of {one_line(env.action_space)} have no choices to mask")
    if asked and not found:
        raise ValueError(
            f"use_masking: the environments have no method {METHOD}(); define it, or wrap each in sb3-contrib's "
            "ActionMasker(env, function)"
        )
    return found


def current_masks(env: VecEnv, space: AnySpace, steps: int, device: torch.device | str) -> Tensor:
    """Return what the masks of all environments add to logits, (n_envs, K), after `steps` steps.

    Environments that will only reset in the next step (`minrl.online.vector.VectorEnvironment`) need not allow any.

    Raises:
        ValueError: for masks that do not fit the action space, or allow nothing.
    """
    where = f"{METHOD}() at step {steps}"
    try:
        flags = np.stack([np.asarray(row, dtype=np.bool_).reshape(-1) for row in env.env_method(METHOD)])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} must give flags, the same number in each environment: {one_line(error)}") from error
    resets = getattr(env.unwrapped, "resets_next", None)
    if resets is not None and resets.any():
        flags[resets] = True
    added = added_to_logits(space, flags, env.num_envs, device, where)
    assert added is not None
    return added


class Masking:
    """Masks of a `RecurrentPPO`: whether they apply, and the state of callers that drop it.

    Attributes:
        asked: of `learn`: True or False, or None for `default`.
        default: the same for calls that do not say; None for wherever there are masks.
    """

    asked: bool | None = None
    default: bool | None = None

    def __init__(self) -> None:
        self._states: tuple[int, Any] | None = None  # of the last call of `predict` with masks, and how many

    def applies(self, env: VecEnv) -> bool:
        """Return True if a rollout in `env` has masks; raise as `uses_masks`."""
        return uses_masks(env, self.default if self.asked is None else self.asked)

    def carried_state(self, state: Any, episode_start: Any, action_masks: Any) -> Any:
        """Return the state for `predict`: the last one where a caller with masks gives none within an episode.

        sb3-contrib's `evaluate_policy`, and so its MaskableEvalCallback, drop the state that `predict` returns where
        they give masks (sb3_contrib/common/maskable/evaluation.py, 2.9.2).
        """
        if state is not None or action_masks is None or episode_start is None or self._states is None:
            return state
        starts = np.asarray(episode_start).reshape(-1)
        count, last = self._states
        return last if len(starts) == count and not starts.all() else None

    def keep_state(self, state: Any, episode_start: Any, action_masks: Any) -> None:
        """Keep the state of a call for `carried_state`."""
        is_kept = action_masks is not None and episode_start is not None
        self._states = (np.size(episode_start), state) if is_kept else None
