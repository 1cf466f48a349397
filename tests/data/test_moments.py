"""Mean, standard deviation and constant columns of large sets, and the normalisation by them.

Shapes: N steps, O flat observation width.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from minrl.data import build_episodes
from minrl.data.moments import column_moments
from minrl.models.encoders import Normalizer


def test_moments_in_blocks_against_extended_precision() -> None:
    rows = np.random.default_rng(0).normal(size=(300_000, 7)) * 10.0 ** np.arange(-9, 12, 3) + 5
    exact = rows.astype(np.longdouble)
    found = column_moments(rows)
    np.testing.assert_allclose(found.mean, exact.mean(0).astype(np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.std, exact.std(0).astype(np.float64), rtol=1e-6)
    assert (found.low == rows.min(0)).all()
    assert (found.high == rows.max(0)).all()
    assert not found.constant.any()


@pytest.mark.parametrize(
    ("column", "constant"),
    [
        ([0.1] * 4, True),
        ([5e6, 5e6, 5e6 + 0.5, 5e6 + 0.5], True),  # neighbouring floats
        ([5e6, 5e6 + 0.5, 5e6 + 1, 5e6 + 1.5, 5e6 + 2], False),
        ([1e-12, 2e-12, 3e-12, 4e-12], False),  # small is not constant
        ([1e-9, -1e-9, 1e-9, -1e-9], False),
        ([0.0] * 4, True),
        ([-7e8] * 3 + [-7e8 + 64], True),
    ],
)
def test_constant_is_relative_to_the_magnitude(column: list[float], constant: bool) -> None:
    rows = np.array(column, dtype=np.float32)[:, None]
    found = column_moments(rows)
    assert found.constant.tolist() == [constant]
    episodes = build_episodes(
        name="column", observations=rows, actions=np.zeros((len(rows), 1)), rewards=np.zeros(len(rows)),
        final_observations=rows[:1], lengths=[len(rows)], terminated=[True], truncated=[False],
        observation_space=spaces.Box(-np.inf, np.inf, (1,)), action_space=spaces.Box(-1, 1, (1,)),
    )  # fmt: skip
    normalizer = Normalizer(1)
    normalizer.fit(episodes)
    found_spread = float(normalizer(torch.from_numpy(rows)).std(correction=0))
    assert found_spread == (pytest.approx(0.0, abs=70) if constant else pytest.approx(1.0, abs=1e-3))
    if column[0] == column[-1] and constant:
        assert (normalizer(torch.from_numpy(rows)) == 0).all()


LIMITED = """
import resource, sys
import numpy as np
from types import SimpleNamespace
from gymnasium import spaces
import torch
from minrl.models.encoders import Normalizer
rows = np.load(sys.argv[1], mmap_mode="r")
normalizer = Normalizer(rows.shape[1])
# Limit private memory to a quarter of the set; pages of a mapped file do not count.
used = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmData"))) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + rows.nbytes // 4, -1))
space = spaces.Box(-np.inf, np.inf, rows.shape[1:])
normalizer.fit(SimpleNamespace(observations=rows, observation_space=space))
print(*normalizer.mean.tolist()[:2], *normalizer.std.tolist()[:2])
"""


def test_normalisation_of_a_set_larger_than_the_memory_allowed(tmp_path: Path) -> None:
    """Normalise 128 MB of float32, ones in every second row of the first column, within 32 MB."""
    file = tmp_path / "rows.npy"
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(1_000_000, 32))
    rows[::2, 0] = 1.0
    rows.flush()
    done = subprocess.run([sys.executable, "-c", LIMITED, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [float(x) for x in done.stdout.split()] == [0.5, 0.0, 0.5, 1.0]
