"""The recurrent PPO of another toolkit with a layer of ours: rsl-rl's own runner, algorithm, storage and model."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("rsl_rl.runners", reason="pip install 'minrl[peers]'")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "swapped_layers"))
from rsl_rl_ppo import COLUMNS, LAYERS, train


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_it_trains_with_the_class_swapped(layer: str) -> None:
    """Train for seven rounds of 32 steps, in the last of which all 64 environments end an episode of 200."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in train(layer, 0, 7)]
    assert [(row["steps"], row["episodes"]) for row in rows] == [(14336, 64)]
    assert -1700.0 < rows[0]["mean_return"] < -100.0
