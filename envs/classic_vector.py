"""CartPole, Pendulum and MountainCarContinuous without velocities as compiled tasks.

States, observations and rewards equal Gymnasium's scalar environment to the last bit (numpy 2). Constants are read from
it and compiled in. Continuous actions are float32, as their space says.
"""

import math
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.pendulum import DEFAULT_X, DEFAULT_Y, PendulumEnv
from gymnasium.envs.classic_control.utils import maybe_parse_reset_bounds, verify_number_and_cast

from .classic import POSITIONS
from .compiled import Task
from .masking import Mask
from .random_streams import uniform
from .vector import CompiledVectorEnv


def cartpole(
    num_envs: int = 1, zeroed: bool = False, sutton_barto_reward: bool = False, **options: Any
) -> CompiledVectorEnv:
    """Make a vectorised `minrl/CartPoleNoVel-v1`; `options` are those of CompiledVectorEnv."""
    mask = Mask(_POLE.observation_space, POSITIONS["CartPole-v1"], zeroed)

    def settings(given: dict[str, Any]) -> tuple[float, ...]:
        return (*maybe_parse_reset_bounds(given, -0.05, 0.05), float(sutton_barto_reward))

    functions = _reset_cartpole, _step_cartpole, _observe_cartpole
    task = Task(mask.space, _POLE.action_space, 4, *functions, settings({}), settings)
    return CompiledVectorEnv(task, num_envs, **options)


def pendulum(num_envs: int = 1, zeroed: bool = False, g: float = 10.0, **options: Any) -> CompiledVectorEnv:
    """Make a vectorised `minrl/PendulumNoVel-v1`; `g` is gravity in m/s²; `options` are those of CompiledVectorEnv."""
    mask = Mask(_PENDULUM.observation_space, POSITIONS["Pendulum-v1"], zeroed)

    def settings(given: dict[str, Any]) -> tuple[float, ...]:
        bounds = {"x_init": DEFAULT_X, "y_init": DEFAULT_Y, **given}
        return (*(verify_number_and_cast(bounds[name]) for name in ("x_init", "y_init")), g, 2.0)

    functions = _reset_pendulum, _step_pendulum, _observe_pendulum
    task = Task(mask.space, _PENDULUM.action_space, 2, *functions, settings({}), settings)
    return CompiledVectorEnv(task, num_envs, **options)


def mountain_car(
    num_envs: int = 1, zeroed: bool = False, goal_velocity: float = 0.0, **options: Any
) -> CompiledVectorEnv:
    """Make a vectorised `minrl/MountainCarContinuousNoVel-v0`; `options` are those of CompiledVectorEnv."""
    mask = Mask(_CAR.observation_space, POSITIONS["MountainCarContinuous-v0"], zeroed)

    def settings(given: dict[str, Any]) -> tuple[float, ...]:
        return (*maybe_parse_reset_bounds(given, -0.6, -0.4), goal_velocity)

    functions = _reset_car, _step_car, _observe_car
    task = Task(mask.space, _CAR.action_space, 3, *functions, settings({}), settings)
    return CompiledVectorEnv(task, num_envs, **options)


_POLE, _PENDULUM, _CAR = CartPoleEnv(), PendulumEnv(), Continuous_MountainCarEnv()
_FORCE, _TAU, _PULL_OF_EARTH = _POLE.force_mag, _POLE.tau, _POLE.gravity
_POLE_MASS, _TOTAL_MASS, _HALF_LENGTH, _MOMENT = _POLE.masspole, _POLE.total_mass, _POLE.length, _POLE.polemass_length
_FARTHEST, _STEEPEST = _POLE.x_threshold, _POLE.theta_threshold_radians


def _reset_cartpole(state: Any, stream: Any, settings: Any) -> None:
    """Draw cart position and velocity, pole angle and angular velocity from the settings' bounds."""
    for i in range(4):
        state[i] = uniform(stream, settings[0], settings[1])


def _step_cartpole(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Integrate `tau` seconds by Euler; the reward is 1 per step, or with Sutton and Barto's -1 for a fall."""
    x, x_dot, theta, theta_dot = state[0], state[1], state[2], state[3]
    force = _FORCE if action[0] == 1 else -_FORCE
    cosine, sine = math.cos(theta), math.sin(theta)
    pushed = (force + _MOMENT * (theta_dot * theta_dot) * sine) / _TOTAL_MASS
    inertia = _HALF_LENGTH * (4.0 / 3.0 - _POLE_MASS * (cosine * cosine) / _TOTAL_MASS)
    theta_acceleration = (_PULL_OF_EARTH * sine - cosine * pushed) / inertia
    acceleration = pushed - _MOMENT * theta_acceleration * cosine / _TOTAL_MASS
    state[0], state[1] = x + _TAU * x_dot, x_dot + _TAU * acceleration
    state[2], state[3] = theta + _TAU * theta_dot, theta_dot + _TAU * theta_acceleration
    fallen = abs(state[0]) > _FARTHEST or abs(state[2]) > _STEEPEST
    reward = 1.0
    if settings[2]:
        reward = -1.0 if fallen else 0.0
    return reward, fallen, False


def _observe_cartpole(state: Any, observation: Any, settings: Any) -> None:
    """Show cart position and pole angle."""
    observation[:] = 0.0
    observation[0], observation[len(observation) // 2] = state[0], state[2]


_STEP, _TORQUE, _SPEED = _PENDULUM.dt, _PENDULUM.max_torque, _PENDULUM.max_speed
_MASS, _LENGTH = _PENDULUM.m, _PENDULUM.l
_SMALL, _LEVER = np.float32(0.001), np.float32(3.0 / (_MASS * _LENGTH**2))


def _reset_pendulum(state: Any, stream: Any, settings: Any) -> None:
    """Draw the angle (0 upright) and the angular velocity within the settings' bounds."""
    for i in range(2):
        state[i] = uniform(stream, -settings[i], settings[i])


def _step_pendulum(state: Any, action: Any, settings: Any) -> tuple[Any, bool, bool]:
    """Integrate `dt` seconds; never terminated."""
    angle, speed = state[0], state[1]
    # NumPy squares scalars by `pow`, whose last digit can differ from the product's; with a constant exponent the
    # compiler would multiply.
    gravity, two = settings[2], settings[3]
    torque = np.float32(min(max(action[0], -_TORQUE), _TORQUE))
    off = (angle + math.pi) % (2 * math.pi) - math.pi
    cost = math.pow(off, two) + 0.1 * math.pow(speed, two) + _SMALL * math.pow(torque, np.float32(two))
    pull = 3 * gravity / (2 * _LENGTH) * math.sin(angle) + _LEVER * torque
    speed = min(max(speed + pull * _STEP, -_SPEED), _SPEED)
    state[0], state[1] = angle + speed * _STEP, speed
    return -cost, False, False


def _observe_pendulum(state: Any, observation: Any, settings: Any) -> None:
    """Show cosine and sine of the angle."""
    observation[:] = 0.0
    observation[0], observation[1] = math.cos(state[0]), math.sin(state[0])


_POWER, _POWER_32, _FASTEST = _CAR.power, np.float32(_CAR.power), np.float64(np.float32(_CAR.max_speed))
_GOAL, _LEFT, _RIGHT = (
    np.float64(np.float32(place)) for place in (_CAR.goal_position, _CAR.min_position, _CAR.max_position)
)


def _reset_car(state: Any, stream: Any, settings: Any) -> None:
    """Draw a position at rest; the third element of the state is 1 before an episode's first step."""
    state[0], state[1], state[2] = uniform(stream, settings[0], settings[1]), 0.0, 1.0


def _step_car(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Step; the reward is 100 at the goal, less a tenth of the squared action.

    Gymnasium's state is float64 at the start of an episode and float32 after the first step; here it is float64 and
    rounded where Gymnasium's arithmetic rounds. (A float32 sum or product formed in float64 and then rounded is the
    float32 one: 53 bits are more than 2 · 24 + 2.)
    """
    position, velocity, fresh = state[0], state[1], state[2] == 1.0
    steepness = 3 * position
    if not fresh:
        steepness = np.float64(np.float32(steepness))
    slope = 0.0025 * math.cos(steepness)
    force = min(max(action[0], -1.0), 1.0)
    # Gymnasium holds a clipped action as a Python float, any other as float32.
    push = np.float64(np.float32(np.float32(force) * _POWER_32 - np.float32(slope)))
    if force != action[0]:
        push = force * _POWER - slope
        if not fresh:
            push = np.float64(np.float32(push))
    velocity += push
    if not fresh:
        velocity = np.float64(np.float32(velocity))
    velocity = min(max(velocity, -_FASTEST), _FASTEST)
    position += velocity
    if not fresh:
        position = np.float64(np.float32(position))
    position = min(max(position, _LEFT), _RIGHT)
    if position == _LEFT and velocity < 0:
        velocity = 0.0
    reached = position >= _GOAL and velocity >= np.float64(np.float32(settings[2]))
    state[0], state[1], state[2] = np.float32(position), np.float32(velocity), 0.0
    return (100.0 if reached else 0.0) - 0.1 * (action[0] * action[0]), reached, False


def _observe_car(state: Any, observation: Any, settings: Any) -> None:
    """Show the position."""
    observation[:] = 0.0
    observation[0] = state[0]
