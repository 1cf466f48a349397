"""Metadata of sets that Minari wrote before version 0.5: attributes of the HDF5 file instead of a metadata.json.

Up to 0.3 a set names only its environment, which has the spaces, and may hold flattened rows (`flatten_observation`,
`flatten_action`); 0.4 adds `observation_space` and `action_space`.
Source: Farama-Foundation/Minari, `minari/dataset/minari_storage.py` of these versions.
"""

import shlex
from pathlib import Path
from typing import Any

import h5py

from minrl.data.d4rl.spaces import Stated, text_of
from minrl.data.hdf5_file import attributes_of, check_stored, has_link, open_hdf5
from minrl.data.space_text import to_json
from minrl.system.messages import faults_of

_TEXTS = ("observation_space", "action_space", "env_spec", "eval_env_spec")
_OTHERS = ("flatten_observation", "flatten_action", "total_episodes", "total_steps")
_NUMBERS = ("ref_min_score", "ref_max_score")


def is_episodic(file: Path) -> bool:
    """Return True if an HDF5 file has one group for each episode, as Minari writes it."""
    return has_link(file, "episode_0")


def read_attributes(main: Path, given: Stated) -> dict[str, Any]:
    """Read the entries of metadata.json from the attributes of `main`; missing totals are counted.

    Raises ValueError, one line, if neither they nor `given` state the spaces.
    """
    with faults_of(str(main)), open_hdf5(main) as source:
        held = attributes_of(source, [*_TEXTS, *_NUMBERS, *_OTHERS])
        found: dict[str, Any] = {key: text_of(held[key]) for key in _TEXTS if key in held}
        found |= {key: float(held[key]) for key in _NUMBERS if key in held}
        flat = [kind for kind in ("observation", "action") if bool(held.get(f"flatten_{kind}", False))]
        episodes = [name for name in source if name.startswith("episode_")]
        found["total_episodes"] = int(held.get("total_episodes", len(episodes)))
        steps = held.get("total_steps")
        found["total_steps"] = int(sum(_steps(source, e, main) for e in episodes) if steps is None else steps)
    found["flattened"] = flat
    for kind, space in (("observation_space", given.observation_space), ("action_space", given.action_space)):
        if space is not None:
            found[kind] = to_json(space)
    missing = [key for key in ("observation_space", "action_space") if key not in found]
    if missing and "env_spec" not in found and given.environment is None:
        command = f"minrl data import {shlex.quote(str(main.parent))} --name NAMESPACE/NAME-v0"
        raise ValueError(
            f"{main.parent / 'metadata.json'} is missing, and {main.name} has no attribute {' and no '.join(missing)} "
            f"or env_spec, where Minari kept them before 0.5: name the environment that has the spaces, {command} "
            f"--env MODULE:ID, or state them, --observation-space 'Box(-inf, inf, (3,))' --action-space 'Discrete(2)'"
        )
    return found


def _steps(source: h5py.File, episode: str, main: Path) -> int:
    rewards = source[f"{episode}/rewards"]
    check_stored(rewards.id, f"{main}, {episode}: rewards")
    return len(rewards)
