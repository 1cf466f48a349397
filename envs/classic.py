"""Gymnasium's small control tasks with velocities hidden: observations hold positions and angles only.

With `state=True` an observation is a Dict: these as "observation", and all that Gymnasium's task shows as "state".
"""

from typing import Any

from .masking import AnyEnv, MaskObservation, Registered, StateBeside, bare

# Indices of each task's observation that are not velocities.
POSITIONS = {
    "CartPole-v1": (0, 2),  # cart position, pole angle
    "Pendulum-v1": (0, 1),  # cosine and sine of the angle
    "MountainCarContinuous-v0": (0,),  # position
    "Acrobot-v1": (0, 1, 2, 3),  # cosine and sine of either angle
    "LunarLander-v3": (0, 1, 4, 6, 7),  # position x and y, angle, contact of either leg
    "LunarLanderContinuous-v3": (0, 1, 4, 6, 7),
}


def cartpole(zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make CartPole observed by cart position (m) and pole angle (rad)."""
    return _without_velocities("CartPole-v1", zeroed, options)


def pendulum(zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make Pendulum observed by cosine and sine of its angle."""
    return _without_velocities("Pendulum-v1", zeroed, options)


def mountain_car(zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make MountainCarContinuous observed by its position."""
    return _without_velocities("MountainCarContinuous-v0", zeroed, options)


def acrobot(zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make Acrobot observed by cosine and sine of its two angles."""
    return _without_velocities("Acrobot-v1", zeroed, options)


def lunar_lander_discrete(zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make LunarLander observed by position, angle and leg contacts; needs `gymnasium[box2d]`."""
    return _without_velocities("LunarLander-v3", zeroed, options)


def lunar_lander(zeroed: bool = False, **options: Any) -> AnyEnv:
    """Make LunarLanderContinuous observed by position, angle and leg contacts; needs `gymnasium[box2d]`."""
    return _without_velocities("LunarLanderContinuous-v3", zeroed, options)


def _without_velocities(base: str, zeroed: bool, options: dict[str, Any]) -> AnyEnv:
    wrapper = StateBeside if options.pop("state", False) else MaskObservation
    return Registered(wrapper(bare(base, **options), POSITIONS[base], zeroed))
