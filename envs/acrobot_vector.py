"""Acrobot without velocities as a compiled task.

States, observations and rewards equal Gymnasium's scalar environment to the last bit (numpy 2); constants are read from
it and compiled in.
"""

import math
from typing import Any

import numpy as np
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.utils import maybe_parse_reset_bounds

from .classic import POSITIONS
from .compiled import Task
from .jit import jitted
from .masking import Mask
from .random_streams import uniform
from .vector import CompiledVectorEnv

_WORLD = AcrobotEnv()
_TORQUES, _STEP = np.array(_WORLD.AVAIL_TORQUE, dtype=np.float64), _WORLD.dt
_FASTEST_1, _FASTEST_2 = _WORLD.MAX_VEL_1, _WORLD.MAX_VEL_2
_M1, _M2, _L1, _INERTIA = _WORLD.LINK_MASS_1, _WORLD.LINK_MASS_2, _WORLD.LINK_LENGTH_1, _WORLD.LINK_MOI
_C1, _C2 = _WORLD.LINK_COM_POS_1, _WORLD.LINK_COM_POS_2
_GRAVITY = 9.8  # m/s², a literal inside the scalar environment
_TURN = math.pi - -math.pi
_TWO = 2  # index of the exponent in the settings


def acrobot(num_envs: int = 1, zeroed: bool = False, **options: Any) -> CompiledVectorEnv:
    """Make a vectorised `minrl/AcrobotNoVel-v1`; `options` are those of CompiledVectorEnv."""
    mask = Mask(_WORLD.observation_space, POSITIONS["Acrobot-v1"], zeroed)

    def settings(given: dict[str, Any]) -> tuple[float, ...]:
        return (*maybe_parse_reset_bounds(given, -0.1, 0.1), 2.0)

    task = Task(mask.space, _WORLD.action_space, 5, _reset, _step, _observe, settings({}), settings)
    return CompiledVectorEnv(task, num_envs, **options)


def _reset(state: Any, stream: Any, settings: Any) -> None:
    """Draw the angle of the first link (0 hangs), of the second to it, and both velocities.

    The fifth element of the state is 1 before an episode's first step, when Gymnasium's state is float32.
    """
    for i in range(4):
        state[i] = np.float32(uniform(stream, settings[0], settings[1]))
    state[4] = 1.0


def _step(state: Any, action: Any, settings: Any) -> tuple[float, bool, bool]:
    """Integrate `dt` seconds by the classical fourth-order Runge-Kutta method.

    The reward is 0 for the step that lifts the end above the line, else -1.
    """
    torque, two = _TORQUES[action[0]], settings[_TWO]
    a, b, c, d = state[0], state[1], state[2], state[3]
    half = _STEP / 2.0
    k1 = _slope(a, b, c, d, torque, two)
    k2 = _slope(a + half * k1[0], b + half * k1[1], c + half * k1[2], d + half * k1[3], torque, two)
    k3 = _slope(a + half * k2[0], b + half * k2[1], c + half * k2[2], d + half * k2[3], torque, two)
    k4 = _slope(a + _STEP * k3[0], b + _STEP * k3[1], c + _STEP * k3[2], d + _STEP * k3[3], torque, two)
    sixth = _STEP / 6.0
    a += sixth * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
    b += sixth * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    c += sixth * (k1[2] + 2 * k2[2] + 2 * k3[2] + k4[2])
    d += sixth * (k1[3] + 2 * k2[3] + 2 * k3[3] + k4[3])
    state[0], state[1] = _wrapped(a), _wrapped(b)
    state[2] = min(max(c, -_FASTEST_1), _FASTEST_1)
    state[3] = min(max(d, -_FASTEST_2), _FASTEST_2)
    state[4] = 0.0
    lifted = -math.cos(state[0]) - math.cos(state[1] + state[0]) > 1.0
    return 0.0 if lifted else -1.0, lifted, False


def _observe(state: Any, observation: Any, settings: Any) -> None:
    """Show cosine and sine of both angles."""
    observation[:] = 0.0
    for i in range(2):
        angle = state[i]
        # Gymnasium takes cosine and sine of the first state in float32.
        if state[4] == 1.0 and abs(angle) < math.pi / 4:
            observation[2 * i], observation[2 * i + 1] = _cosine_32(angle), _sine_32(angle)
        else:
            observation[2 * i], observation[2 * i + 1] = math.cos(angle), math.sin(angle)


@jitted
def _slope(first: float, second: float, rate1: float, rate2: float, torque: float, two: float) -> Any:
    """Compute the state's derivatives by the equations of Sutton and Barto's book.

    Squares are powers with an exponent that the compiler does not know: NumPy squares scalars by `pow`, whose last
    digit can differ from the product's.
    """
    cosine, sine = math.cos(second), math.sin(second)
    d1 = _M1 * _C1**2 + _M2 * (_L1**2 + _C2**2 + 2 * _L1 * _C2 * cosine) + _INERTIA + _INERTIA
    d2 = _M2 * (_C2**2 + _L1 * _C2 * cosine) + _INERTIA
    phi2 = _M2 * _C2 * _GRAVITY * math.cos(first + second - math.pi / 2.0)
    phi1 = (
        -_M2 * _L1 * _C2 * math.pow(rate2, two) * sine
        - 2 * _M2 * _L1 * _C2 * rate2 * rate1 * sine
        + (_M1 * _C1 + _M2 * _L1) * _GRAVITY * math.cos(first - math.pi / 2)
        + phi2
    )
    pull = torque + d2 / d1 * phi1 - _M2 * _L1 * _C2 * math.pow(rate1, two) * sine - phi2
    acceleration2 = pull / (_M2 * _C2**2 + _INERTIA - math.pow(d2, two) / d1)
    acceleration1 = -(d2 * acceleration2 + phi1) / d1
    return rate1, rate2, acceleration1, acceleration2


@jitted
def _wrapped(angle: float) -> float:
    """Return the angle in [-pi, pi], subtracting or adding one turn at a time as Gymnasium does."""
    while angle > math.pi:
        angle -= _TURN
    while angle < -math.pi:
        angle += _TURN
    return angle


@jitted
def _fused(a: float, b: float, c: float) -> float:
    """Compute a b + c in float32 with one rounding."""
    return np.float64(np.float32(a * b + c))


@jitted
def _cosine_32(x: float) -> float:
    """Compute a float32 cosine of |x| < pi / 4 as NumPy does: by a polynomial whose last digit is not always right.

    https://github.com/numpy/numpy/blob/main/numpy/_core/src/umath/loops_trigonometric.dispatch.cpp
    """
    square = np.float64(np.float32(x * x))
    y = _fused(_COSINE[0], square, _COSINE[1])
    for factor in _COSINE[2:]:
        y = _fused(y, square, factor)
    return y


@jitted
def _sine_32(x: float) -> float:
    """Compute a float32 sine of |x| < pi / 4 as NumPy does."""
    square = np.float64(np.float32(x * x))
    y = _fused(_SINE[0], square, _SINE[1])
    for factor in _SINE[2:]:
        y = _fused(y, square, factor)
    return _fused(np.float64(np.float32(y * square)), x, x)


_COSINE = np.array([float.fromhex(factor) for factor in (
    "0x1.98e616p-16", "-0x1.6c06dcp-10", "0x1.55553cp-05", "-0x1.000000p-01", "0x1.000000p+00",
)])  # fmt: skip
_SINE = np.array([float.fromhex(factor) for factor in (
    "0x1.7d3bbcp-19", "-0x1.a06bbap-13", "0x1.11119ap-07", "-0x1.555556p-03",
)])  # fmt: skip
