"""MuJoCo's robots with observations of positions only (`-P`) or of velocities only (`-V`).

The names are those of the literature on partial observability (Han, Doya and Tani 2020, "Variational Recurrent
Models"; Ni, Eysenbach and Salakhutdinov 2022, "Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs"),
there for PyBullet's robots: `HopperBLT-P-v0`.

`-P` shows `qpos` as the full observation holds it (without the coordinates that Gymnasium leaves out already), `-V`
shows `qvel`. Contact forces and Humanoid's inertias, centre-of-mass velocities and actuator forces are in neither.
"""

from collections.abc import Callable
from typing import Any

from minrl.system.names import choose

from .masking import AnyEnv, MaskObservation, Registered, bare

Parts = dict[str, list[int]]  # indices into the full observation, by the name of the part


def _listed_parts(env: Any) -> Parts:
    """Return the parts of the observation that Gymnasium's environment lists, in their order."""
    parts: Parts = {}
    start = 0
    for name, size in env.observation_structure.items():
        if not name.startswith("skipped"):
            parts[name] = list(range(start, start + size))
            start += size
    return parts


def _double_pendulum(env: Any) -> Parts:
    """List cart position with sine and cosine of the joints' angles, and velocities; a constraint force follows."""
    positions = 1 + 2 * (env.model.nq - 1)
    return {"qpos": list(range(positions)), "qvel": list(range(positions, positions + env.model.nv))}


def _reacher(env: Any) -> Parts:
    """List all entries but the arm's velocities: cosines, sines, target, and fingertip to target, which are positions.

    The target's two coordinates are the last joints of the model.
    """
    joints, full = env.model.nq - 2, env.observation_space.shape[0]
    velocities = range(2 * joints + 2, 3 * joints + 2)
    return {"qpos": [i for i in range(full) if i not in velocities]}


PARTS: dict[str, Callable[[Any], Parts]] = {
    "Ant-v5": _listed_parts,
    "HalfCheetah-v5": _listed_parts,
    "Hopper-v5": _listed_parts,
    "Humanoid-v5": _listed_parts,
    "InvertedDoublePendulum-v5": _double_pendulum,
    "InvertedPendulum-v5": _listed_parts,
    "Reacher-v5": _reacher,
    "Swimmer-v5": _listed_parts,
    "Walker2d-v5": _listed_parts,
}
# Velocities alone leave out the target, which no memory can recover.
POSITIONS_ONLY = ("Reacher-v5",)


def robot(base: str, part: str, zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make the robot of `base` with `part` ("qpos" or "qvel") of its observation visible.

    Args:
        base: Gymnasium's id of the fully observed task.
        part: of the observation.
        zeroed: multiply the rest by zero instead of removing it.
        options: for Gymnasium's environment.

    Raises:
        ValueError: for an unknown task or part.
    """
    # `base` may come from a checkpoint: only names of the table are made.
    parts = choose(PARTS, base, "MuJoCo task")
    env = bare(base, **options)
    return Registered(MaskObservation(env, choose(parts(env.unwrapped), part, "part"), zeroed))
