"""Gymnasium's small control tasks with velocities hidden: observations hold positions and angles only.

With `state=True` an observation is a Dict: these as "observation", and all that Gymnasium's task shows as "state".
"""

from functools import partial
from typing import Any

from .masking import AnyEnv, MaskObservation, Registered, StateBeside, bare

# Indices of each task's observation that are not velocities.
POSITIONS = {
    "CartPole-v1": (0, 2),  # cart position (m), pole angle (rad)
    "Pendulum-v1": (0, 1),  # cosine and sine of the angle
    "MountainCarContinuous-v0": (0,),  # position
    "Acrobot-v1": (0, 1, 2, 3),  # cosine and sine of either angle
    "LunarLander-v3": (0, 1, 4, 6, 7),  # position x and y, angle, contact of either leg
    "LunarLanderContinuous-v3": (0, 1, 4, 6, 7),
}


def without_velocities(base: str, zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make Gymnasium's `base` observed by its `POSITIONS`; `zeroed` multiplies the rest by zero instead."""
    wrapper = StateBeside if options.pop("state", False) else MaskObservation
    return Registered(wrapper(bare(base, **options), POSITIONS[base], zeroed))


cartpole = partial(without_velocities, "CartPole-v1")
pendulum = partial(without_velocities, "Pendulum-v1")
mountain_car = partial(without_velocities, "MountainCarContinuous-v0")
acrobot = partial(without_velocities, "Acrobot-v1")
lunar_lander_discrete = partial(without_velocities, "LunarLander-v3")  # needs gymnasium[box2d], as the next
lunar_lander = partial(without_velocities, "LunarLanderContinuous-v3")
