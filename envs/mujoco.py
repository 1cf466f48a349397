"""MuJoCo's robots seen by their positions only, or by their velocities only.

The names are those of the literature on partial observability: `-P` for positions and angles, `-V` for velocities
(Han, Doya and Tani 2020, "Variational Recurrent Models"; Ni, Eysenbach and Salakhutdinov 2022, "Recurrent Model-Free
RL Can Be a Strong Baseline for Many POMDPs"), there for PyBullet's robots: `HopperBLT-P-v0`.

Here `-P` is `qpos` as the full observation holds it (without the coordinates that Gymnasium leaves out already), `-V`
is `qvel`. What is neither (contact forces; Humanoid's inertias, centre-of-mass velocities and actuator forces) is in
neither.
"""

from collections.abc import Callable
from typing import Any

from minrl.system.names import choose

from .masking import AnyEnv, MaskObservation, Registered, bare

Parts = dict[str, list[int]]  # indices into the full observation, by the name of the part


def _blocks(env: Any) -> Parts:
    """The parts that lie side by side, as Gymnasium's environment itself lists them."""
    parts: Parts = {}
    start = 0
    for name, size in env.observation_structure.items():
        if not name.startswith("skipped"):
            parts[name] = list(range(start, start + size))
            start += size
    return parts


def _double_pendulum(env: Any) -> Parts:
    """Cart position, then sine and cosine of every joint's angle; velocities; constraint force."""
    positions = 1 + 2 * (env.model.nq - 1)
    return {"qpos": list(range(positions)), "qvel": list(range(positions, positions + env.model.nv))}


def _reacher(env: Any) -> Parts:
    """Cosine and sine of the arm's angles, target; the arm's velocities; from fingertip to target, which are positions.

    The target's two coordinates are joints of the model too, and the last ones.
    """
    joints, full = env.model.nq - 2, env.observation_space.shape[0]
    velocities = range(2 * joints + 2, 3 * joints + 2)
    return {"qpos": [i for i in range(full) if i not in velocities]}


PARTS: dict[str, Callable[[Any], Parts]] = {
    "Ant-v5": _blocks,
    "HalfCheetah-v5": _blocks,
    "Hopper-v5": _blocks,
    "Humanoid-v5": _blocks,
    "InvertedDoublePendulum-v5": _double_pendulum,
    "InvertedPendulum-v5": _blocks,
    "Reacher-v5": _reacher,
    "Swimmer-v5": _blocks,
    "Walker2d-v5": _blocks,
}
# Without the target no memory can tell where to reach.
POSITIONS_ONLY = ("Reacher-v5",)


def robot(base: str, part: str, zeroed: bool = False, **options: Any) -> AnyEnv:
    """The robot of `base`, of which `part` ("qpos" or "qvel") is seen.

    Args:
        base: Gymnasium's id of the fully observed task.
        part: of the observation.
        zeroed: multiply the rest by zero instead of cutting it out.
        options: for Gymnasium's environment.

    Raises:
        ValueError: for a task or a part that is not among ours.
    """
    # A checkpoint may carry `base`: only names of the table are made.
    parts = choose(PARTS, base, "MuJoCo task")
    env = bare(base, **options)
    return Registered(MaskObservation(env, choose(parts(env.unwrapped), part, "part"), zeroed))
