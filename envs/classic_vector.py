"""CartPole, Pendulum and MountainCarContinuous without velocities as vectorised NumPy environments.

States and observations equal Gymnasium's scalar environment to the last bit (numpy 2); Pendulum's rewards to 1e-9, as
NumPy squares a scalar by `pow` and an array by multiplication. Constants are read from the scalar environment.
Continuous actions are float32, as their space says.

Shapes: B environments, K visible entries of the observation.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.pendulum import DEFAULT_X, DEFAULT_Y, PendulumEnv
from gymnasium.envs.classic_control.utils import maybe_parse_reset_bounds, verify_number_and_cast

from .classic import POSITIONS
from .masking import Mask
from .vector import Array, Dynamics, Flags, NumpyVectorEnv, Options, Rewards


def cartpole(
    num_envs: int = 1, zeroed: bool = False, sutton_barto_reward: bool = False, **options: Any
) -> NumpyVectorEnv:
    """Make a vectorised `minrl/CartPoleNoVel-v1`; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(CartPole(num_envs, zeroed, sutton_barto_reward), num_envs, **options)


def pendulum(num_envs: int = 1, zeroed: bool = False, g: float = 10.0, **options: Any) -> NumpyVectorEnv:
    """Make a vectorised `minrl/PendulumNoVel-v1`; `g` is gravity in m/s²; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(Pendulum(num_envs, zeroed, g), num_envs, **options)


def mountain_car(num_envs: int = 1, zeroed: bool = False, goal_velocity: float = 0.0, **options: Any) -> NumpyVectorEnv:
    """Make a vectorised `minrl/MountainCarContinuousNoVel-v0`; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(MountainCar(num_envs, zeroed, goal_velocity), num_envs, **options)


class CartPole(Dynamics):
    """CartPole's dynamics; state (4, B) float64: cart position and velocity, pole angle and angular velocity."""

    def __init__(self, num_envs: int, zeroed: bool, sutton_barto_reward: bool) -> None:
        self._world = CartPoleEnv()
        self._mask = Mask(self._world.observation_space, POSITIONS["CartPole-v1"], zeroed)
        self.observation_space, self.action_space = self._mask.space, self._world.action_space
        self._sutton_barto_reward = sutton_barto_reward
        self._state = np.zeros((4, num_envs))
        self._rates = np.zeros((4, num_envs))

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Draw a uniform state; `options` may hold its bounds `low` and `high`."""
        low, high = maybe_parse_reset_bounds(options, -0.05, 0.05)
        self._state[:, row] = generator.uniform(low, high, size=4)

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Integrate `tau` seconds by Euler; the reward is 1 per step, or with Sutton and Barto's -1 for a fall."""
        w = self._world
        _, x_dot, theta, theta_dot = self._state
        force = np.where(actions == 1, w.force_mag, -w.force_mag)
        cosine, sine = np.cos(theta), np.sin(theta)
        pushed = (force + w.polemass_length * np.square(theta_dot) * sine) / w.total_mass
        inertia = w.length * (4.0 / 3.0 - w.masspole * np.square(cosine) / w.total_mass)
        theta_acceleration = (w.gravity * sine - cosine * pushed) / inertia
        self._rates[0], self._rates[2], self._rates[3] = x_dot, theta_dot, theta_acceleration
        self._rates[1] = pushed - w.polemass_length * theta_acceleration * cosine / w.total_mass
        self._state = self._state + w.tau * self._rates
        fallen = (np.abs(self._state[0]) > w.x_threshold) | (np.abs(self._state[2]) > w.theta_threshold_radians)
        rewards = -fallen.astype(np.float64) if self._sutton_barto_reward else np.ones(len(fallen))
        return rewards, fallen

    def observe(self) -> Array:
        """Return the masked observations, (B, K) float32."""
        return self._mask.apply(self._state.T.astype(np.float32, order="C"))


class Pendulum(Dynamics):
    """Pendulum's dynamics; state (2, B) float64: angle (0 upright) and angular velocity."""

    def __init__(self, num_envs: int, zeroed: bool, g: float) -> None:
        self._world = PendulumEnv(g=g)
        self._mask = Mask(self._world.observation_space, POSITIONS["Pendulum-v1"], zeroed)
        self.observation_space, self.action_space = self._mask.space, self._world.action_space
        self._state = np.zeros((2, num_envs))

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Draw a uniform state within ±`x_init` (angle) and ±`y_init` (velocity), which `options` may hold."""
        bounds = {"x_init": DEFAULT_X, "y_init": DEFAULT_Y, **(options or {})}
        high = np.array([verify_number_and_cast(bounds["x_init"]), verify_number_and_cast(bounds["y_init"])])
        self._state[:, row] = generator.uniform(-high, high)

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Integrate `dt` seconds; never terminated."""
        w = self._world
        angle, speed = self._state
        torque = _clipped(actions[:, 0], -w.max_torque, w.max_torque)
        off = (angle + np.pi) % (2 * np.pi) - np.pi
        costs = np.square(off) + 0.1 * np.square(speed) + 0.001 * np.square(torque)
        pull = 3 * w.g / (2 * w.l) * np.sin(angle) + 3.0 / (w.m * w.l**2) * torque
        speed = _clipped(speed + pull * w.dt, -w.max_speed, w.max_speed)
        self._state[0], self._state[1] = angle + speed * w.dt, speed
        return -costs, np.zeros(len(costs), dtype=np.bool_)

    def observe(self) -> Array:
        """Return the masked observations, (B, K) float32."""
        angle, speed = self._state
        full = np.empty((len(angle), 3), dtype=np.float32)
        full[:, 0], full[:, 1], full[:, 2] = np.cos(angle), np.sin(angle), speed
        return self._mask.apply(full)


class MountainCar(Dynamics):
    """MountainCarContinuous's dynamics; state (2, B): position and velocity.

    Gymnasium's state is float64 at the start of an episode and float32 after the first step; here it is float64 and
    rounded where Gymnasium's arithmetic rounds. (A float32 sum or product formed in float64 and then rounded is the
    float32 one: 53 bits are more than 2 · 24 + 2.)
    """

    def __init__(self, num_envs: int, zeroed: bool, goal_velocity: float) -> None:
        self._world = Continuous_MountainCarEnv(goal_velocity=goal_velocity)
        self._mask = Mask(self._world.observation_space, POSITIONS["MountainCarContinuous-v0"], zeroed)
        self.observation_space, self.action_space = self._mask.space, self._world.action_space
        w = self._world
        self._power, self._speed, self._goal_position, self._goal_velocity, self._low, self._high = (
            np.float32(value)
            for value in (w.power, w.max_speed, w.goal_position, w.goal_velocity, w.min_position, w.max_position)
        )
        self._state = np.zeros((2, num_envs))
        self._fresh = np.zeros(num_envs, dtype=np.bool_)  # True before an episode's first step

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Draw a uniform position at rest; `options` may hold its bounds `low` and `high`."""
        self._state[:, row] = generator.uniform(*maybe_parse_reset_bounds(options, -0.6, -0.4)), 0.0
        self._fresh[row] = True

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Step; the reward is 100 at the goal, less a tenth of the squared action."""
        position, velocity = self._state
        push = self._push(actions[:, 0], 0.0025 * np.cos(self._rounded(3 * position)))
        velocity = _clipped(self._rounded(velocity + push), -self._speed, self._speed)
        position = _clipped(self._rounded(position + velocity), self._low, self._high)
        velocity[(position == self._low) & (velocity < 0)] = 0.0
        reached = (position >= self._goal_position) & (velocity >= self._goal_velocity)
        self._state[0], self._state[1] = position.astype(np.float32), velocity.astype(np.float32)
        self._fresh[:] = False
        return 100.0 * reached - 0.1 * np.square(actions[:, 0], dtype=np.float64), reached

    def observe(self) -> Array:
        """Return the masked observations, (B, K) float32."""
        return self._mask.apply(self._state.T.astype(np.float32, order="C"))

    def _push(self, action: npt.NDArray[np.float32], slope: Rewards) -> Rewards:
        """Return the change of velocity. Gymnasium holds a clipped action as a Python float, any other as float32."""
        force = _clipped(action, -1.0, 1.0)
        precise = self._rounded(force * np.float64(self._world.power) - slope)
        return np.where(force == action, force * self._power - slope.astype(np.float32), precise)

    def _rounded(self, values: Rewards) -> Rewards:
        """Round to float32, except in rows before their first step."""
        return np.where(self._fresh, values, values.astype(np.float32))


def _clipped(values: Array, low: Any, high: Any) -> Array:
    """Clip as np.clip does, without its checks, which take longer than clipping a few rows."""
    clipped: Array = np.minimum(np.maximum(values, low), high)
    return clipped
