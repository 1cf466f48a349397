"""Acrobot without velocities as a vectorised NumPy environment.

States and observations equal Gymnasium's scalar environment to the last bit (numpy 2); constants are read from it.

Shapes: B environments, K visible entries of the observation.
"""

from typing import Any

import numpy as np
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.utils import maybe_parse_reset_bounds

from .classic import POSITIONS
from .masking import Mask
from .vector import Array, Dynamics, Flags, NumpyVectorEnv, Options, Rewards

_GRAVITY = 9.8  # m/s², a literal inside the scalar environment


def acrobot(num_envs: int = 1, zeroed: bool = False, **options: Any) -> NumpyVectorEnv:
    """Make a vectorised `minrl/AcrobotNoVel-v1`; `options` are those of NumpyVectorEnv."""
    return NumpyVectorEnv(Acrobot(num_envs, zeroed), num_envs, **options)


class Acrobot(Dynamics):
    """Acrobot's dynamics; state (4, B): angle of the first link (0 hangs), of the second to it, both velocities.

    Gymnasium's state is float32 at the start of an episode and float64 after the first step.
    """

    def __init__(self, num_envs: int, zeroed: bool) -> None:
        self._world = AcrobotEnv()
        self._mask = Mask(self._world.observation_space, POSITIONS["Acrobot-v1"], zeroed)
        self.observation_space, self.action_space = self._mask.space, self._world.action_space
        self._torques = np.array(self._world.AVAIL_TORQUE)
        self._state = np.zeros((4, num_envs))
        self._fresh = np.zeros(num_envs, dtype=np.bool_)  # True before an episode's first step

    def begin(self, row: int, generator: np.random.Generator, options: Options) -> None:
        """Draw a uniform state; `options` may hold its bounds `low` and `high`."""
        low, high = maybe_parse_reset_bounds(options, -0.1, 0.1)
        self._state[:, row] = generator.uniform(low, high, size=4).astype(np.float32)
        self._fresh[row] = True

    def advance(self, actions: Array) -> tuple[Rewards, Flags]:
        """Integrate `dt` seconds; the reward is 0 for the step that lifts the end above the line, else -1."""
        w, torques = self._world, self._torques[actions]
        state = self._integrated(torques)
        state[0], state[1] = _wrapped(state[0]), _wrapped(state[1])
        state[2] = np.clip(state[2], -w.MAX_VEL_1, w.MAX_VEL_1)
        state[3] = np.clip(state[3], -w.MAX_VEL_2, w.MAX_VEL_2)
        self._state = state
        self._fresh[:] = False
        lifted: Flags = -np.cos(state[0]) - np.cos(state[1] + state[0]) > 1.0
        return np.where(lifted, 0.0, -1.0), lifted

    def observe(self) -> Array:
        """Return the masked observations, (B, K) float32."""
        full = self._seen(self._state)
        if np.count_nonzero(self._fresh):
            # Gymnasium takes cosine and sine of the first state in float32.
            full = np.where(self._fresh[:, None], self._seen(self._state.astype(np.float32)), full)
        return self._mask.apply(full)

    def _seen(self, state: Array) -> Array:
        first, second, *rates = state
        parts = [np.cos(first), np.sin(first), np.cos(second), np.sin(second), *rates]
        return np.stack(parts, axis=1).astype(np.float32)

    def _integrated(self, torques: Array) -> Array:
        """Return the state after `dt` seconds by the classical fourth-order Runge-Kutta method."""
        y, dt = self._state, self._world.dt
        k1 = self._slope(y, torques)
        k2 = self._slope(y + dt / 2.0 * k1, torques)
        k3 = self._slope(y + dt / 2.0 * k2, torques)
        k4 = self._slope(y + dt * k3, torques)
        integrated: Array = y + dt / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        return integrated

    def _slope(self, state: Array, torques: Array) -> Array:
        """Compute the state's derivatives (4, B) by the equations of Sutton and Barto's book."""
        w = self._world
        m1, m2, l1, lc1, lc2 = w.LINK_MASS_1, w.LINK_MASS_2, w.LINK_LENGTH_1, w.LINK_COM_POS_1, w.LINK_COM_POS_2
        inertia = w.LINK_MOI
        first, second, rate1, rate2 = state
        cosine, sine = np.cos(second), np.sin(second)
        d1 = m1 * lc1**2 + m2 * (l1**2 + lc2**2 + 2 * l1 * lc2 * cosine) + inertia + inertia
        d2 = m2 * (lc2**2 + l1 * lc2 * cosine) + inertia
        phi2 = m2 * lc2 * _GRAVITY * np.cos(first + second - np.pi / 2.0)
        phi1 = (
            -m2 * l1 * lc2 * _square(rate2) * sine
            - 2 * m2 * l1 * lc2 * rate2 * rate1 * sine
            + (m1 * lc1 + m2 * l1) * _GRAVITY * np.cos(first - np.pi / 2)
            + phi2
        )
        pull = torques + d2 / d1 * phi1 - m2 * l1 * lc2 * _square(rate1) * sine - phi2
        acceleration2 = pull / (m2 * lc2**2 + inertia - _square(d2) / d1)
        acceleration1 = -(d2 * acceleration2 + phi1) / d1
        return np.stack([rate1, rate2, acceleration1, acceleration2])


def _square(values: Array) -> Array:
    """Compute squares by `pow`, as NumPy squares a scalar: its last digit can differ from the product's."""
    squares: Array = np.float_power(values, 2.0)
    return squares


def _wrapped(angles: Array) -> Array:
    """Return angles in [-pi, pi], subtracting or adding one turn at a time as Gymnasium does."""
    turn = np.pi - -np.pi
    while np.count_nonzero(angles > np.pi):
        angles = np.where(angles > np.pi, angles - turn, angles)
    while np.count_nonzero(angles < -np.pi):
        angles = np.where(angles < -np.pi, angles + turn, angles)
    return angles
