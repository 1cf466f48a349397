"""Episodes in Minari's HDF5 layout.

Shapes: T steps of an episode.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from minrl.data.episode import Episodes
from minrl.data.mapped import BYTES_AT_ONCE
from minrl.data.spaces import AnySpace, to_json


def write_set(episodes: Episodes, file: Path) -> None:
    """Write all episodes to an HDF5 file, a group for each."""
    with h5py.File(file, "w", track_order=True) as main:
        for index in range(episodes.num_episodes):
            _write_episode(main.create_group(f"episode_{index}"), episodes, index)


def _write_episode(group: h5py.Group, episodes: Episodes, index: int) -> None:
    begin, end = int(episodes.offsets[index]), int(episodes.offsets[index + 1])
    steps = end - begin
    flags = {"terminations": episodes.terminated, "truncations": episodes.truncated}
    group.attrs.update({"id": index, "total_steps": steps})
    final = _unflatten(episodes.observation_space, episodes.final_observations[index : index + 1])
    observations = group.create_dataset("observations", (steps + 1, *final.shape[1:]), final.dtype)
    observations[steps:] = final
    taken = _unflatten(episodes.action_space, episodes.actions[begin : begin + 1])
    actions = group.create_dataset("actions", (steps, *taken.shape[1:]), taken.dtype)
    row_bytes = episodes.observations[:1].nbytes + episodes.actions[:1].nbytes
    size = max(1, BYTES_AT_ONCE // max(1, row_bytes))
    for row in range(0, steps, size):
        there, here = slice(row, min(row + size, steps)), slice(begin + row, min(begin + row + size, end))
        observations[there] = _unflatten(episodes.observation_space, episodes.observations[here])
        actions[there] = _unflatten(episodes.action_space, episodes.actions[here])
    group.create_dataset("rewards", data=episodes.rewards[begin:end].astype(np.float64))
    for key, values in flags.items():
        set_at_end = np.zeros(steps, dtype=np.bool_)
        set_at_end[-1] = values[index]
        group.create_dataset(key, data=set_at_end)


def _unflatten(space: AnySpace, flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return flat rows as the space's own samples; flat files have no space with parts."""
    if isinstance(space, spaces.Discrete):
        indices: npt.NDArray[Any] = np.argmax(flat, axis=1).astype(np.int64) + int(space.start)
        return indices
    if isinstance(space, spaces.MultiDiscrete):
        cuts = np.cumsum(space.nvec.reshape(-1))[:-1]
        chosen = np.stack([np.argmax(part, axis=1) for part in np.split(flat, cuts, axis=1)], axis=1)
        shaped: npt.NDArray[Any] = chosen.reshape(-1, *space.nvec.shape) + space.start
        return shaped
    assert space.shape is not None
    samples: npt.NDArray[Any] = flat.reshape(len(flat), *space.shape).astype(space.dtype)
    return samples


def set_metadata(episodes: Episodes, dataset_id: str) -> dict[str, Any]:
    """Return what metadata.json says of a set, after Minari's own."""
    import minari

    metadata: dict[str, Any] = {
        "dataset_id": dataset_id,
        "total_episodes": episodes.num_episodes,
        "total_steps": episodes.num_steps,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": to_json(episodes.observation_space),
        "action_space": to_json(episodes.action_space),
        "minari_version": minari.__version__,
        "author": [],
        "author_email": [],
        "dataset_size": 0.0,
    }
    if episodes.environment is not None:
        metadata["env_spec"] = episodes.environment.to_spec()
    if episodes.reference_scores is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = episodes.reference_scores
    return metadata
