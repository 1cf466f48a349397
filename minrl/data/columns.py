"""The columns of a data set in the order in which an agent knows them.

Shapes: N steps, E episodes, O and A flat widths.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from minrl.data.episode import Episodes
from minrl.data.layout import mismatch
from minrl.data.spaces import AnySpace, leaves


def with_columns_of(episodes: Episodes, observation_space: AnySpace, action_space: AnySpace) -> Episodes:
    """Return `episodes` with columns in the order of other spaces of the same parts, matched by their keys.

    They are `episodes` themselves where the order is theirs already; arrays of another order are copied.

    Raises:
        ValueError: where the spaces do not hold the same.
    """
    pairs = (episodes.observation_space, observation_space), (episodes.action_space, action_space)
    for found, known in pairs:
        reason = mismatch(known, found, "action")
        if reason is not None:
            raise ValueError(f"{episodes.name} is no longer the data set that the agent was trained on: {reason}")
    seen, done = (_columns(found, known) for found, known in pairs)
    if seen is not None:
        episodes = replace(
            episodes,
            observations=episodes.observations[:, seen],
            final_observations=episodes.final_observations[:, seen],
            observation_space=observation_space,
        )
    if done is not None:
        episodes = replace(episodes, actions=episodes.actions[:, done], action_space=action_space)
    return episodes


def _columns(found: AnySpace, known: AnySpace) -> npt.NDArray[np.int64] | None:
    """Return the column of `found` for each column of `known`; None where all stay."""
    places = {leaf.keys: leaf.columns for leaf in leaves(found)}
    slices = [places[leaf.keys] for leaf in leaves(known)]
    columns = np.concatenate([np.arange(part.start, part.stop) for part in slices])
    return None if np.array_equal(columns, np.arange(len(columns))) else columns
