"""Loading, selecting and batching take a constant amount of memory, whatever the size of the set.

Each case runs in a process whose memory is limited to less than the set (`resource.RLIMIT_DATA`: what is allocated,
not what is mapped from a file).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from gymnasium import spaces
from test_data_minari import folders  # noqa: F401

from minrl.data.space_text import to_json

pytestmark = pytest.mark.usefixtures("folders")

MEGABYTE = 1 << 20
LIMIT = 160 * MEGABYTE
# Set before large data are loaded; the interpreter and its libraries count as well.
PROGRAM = """
import resource, sys
from minrl.data import Packed, Windows, load
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
episodes = load(sys.argv[1])
few = episodes.select(range(0, episodes.num_episodes, 2)) if episodes.num_episodes > 1 else episodes
for sampler in (Packed(few, 2, 20), Windows(episodes, 2, 20)):
    batch = next(sampler)
    assert batch["observations"].dtype == "float32", batch["observations"].dtype
assert few.num_episodes == (episodes.num_episodes + 1) // 2
assert few.observations[-1, -1] == episodes.observations[few.num_steps - 1, -1]
print(episodes.num_episodes, episodes.num_steps, episodes.observations.dtype, episodes.observations.nbytes)
print(float(episodes.returns.sum()), float(episodes.returns_to_go[0]))
"""


def run(name: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, name, str(LIMIT)]
    # The files hold hardly more than their fill value, which a stranger's may not.
    known = os.environ | {"MINRL_TRUST": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=known)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def dataset(group: Any, name: str, shape: tuple[int, ...], dtype: Any, fill: Any) -> None:
    """Write a field of one value: its file is small, and its arrays are as large as any."""
    chunks = (min(shape[0], max(32, MEGABYTE // (4 * int(np.prod(shape[1:], dtype=int))))), *shape[1:])
    group.create_dataset(name, shape, dtype, chunks=chunks, fillvalue=fill)


def flags(steps: int, every: int) -> np.ndarray:
    ends = np.zeros(steps, dtype=np.bool_)
    ends[every - 1 :: every] = True
    return ends


@pytest.mark.parametrize("every", [100, pytest.param(8000, marks=pytest.mark.slow)])
def test_byte_images_of_a_flat_file_stay_bytes(tmp_path: Path, every: int) -> None:
    steps, shape = 8000, (84, 84, 3)
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        dataset(file, "observations", (steps, *shape), np.uint8, 7)
        dataset(file, "actions", (steps, 2), np.float32, 0.5)
        dataset(file, "rewards", (steps,), np.float32, 1.0)
        file["terminals"] = flags(steps, every)
    size = steps * int(np.prod(shape))
    assert size > LIMIT
    told = run(f"hdf5:{tmp_path / 'images.hdf5'}")
    assert told == [str(steps // every), str(steps), "uint8", str(size), str(float(steps)), str(float(every))]


@pytest.mark.slow
def test_numbers_of_a_flat_file_that_are_compared_for_jumps(tmp_path: Path) -> None:
    steps, width = 1_600_000, 28
    with h5py.File(tmp_path / "numbers.hdf5", "w") as file:
        for name in ("observations", "next_observations"):
            dataset(file, name, (steps, width), np.float32, 0.25)
        dataset(file, "actions", (steps, 2), np.float32, 0.5)
        dataset(file, "rewards", (steps,), np.float32, 0.5)
        file["terminals"] = flags(steps, steps)
    size = 4 * width * steps
    assert size > LIMIT
    told = run(f"hdf5:{tmp_path / 'numbers.hdf5'}")
    assert told == ["1", str(steps), "float32", str(size), str(steps / 2), str(steps / 2)]


@pytest.mark.parametrize("every", [500, pytest.param(8000, marks=pytest.mark.slow)])
def test_byte_images_beside_choices_of_a_minari_set(tmp_path: Path, every: int) -> None:
    steps, shape = 8000, (84, 84, 3)
    space = spaces.Dict({"direction": spaces.Discrete(4), "image": spaces.Box(0, 255, shape, np.uint8)})
    data = tmp_path / "sets" / "images-v0" / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for episode in range(steps // every):
            group = file.create_group(f"episode_{episode}")
            dataset(group, "observations/image", (every + 1, *shape), np.uint8, 7)
            dataset(group, "observations/direction", (every + 1,), np.int64, 3)
            dataset(group, "actions", (every,), np.int64, 1)
            dataset(group, "rewards", (every,), np.float64, 1.0)
            group["terminations"] = flags(every, every)
            dataset(group, "truncations", (every,), np.bool_, False)
    metadata = {"total_episodes": steps // every, "total_steps": steps, "data_format": "hdf5"}
    metadata |= {"observation_space": to_json(space), "action_space": to_json(spaces.Discrete(3))}
    (data / "metadata.json").write_text(json.dumps(metadata))
    size = steps * (4 + int(np.prod(shape)))
    assert size > LIMIT
    told = run("minari:images-v0")
    assert told == [str(steps // every), str(steps), "uint8", str(size), str(float(steps)), str(float(every))]
