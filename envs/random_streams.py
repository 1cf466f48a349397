"""Random numbers for compiled code: NumPy's default generator with its state in an array.

A stream is (6,) uint64: state (high, low) and increment (high, low) of PCG64 (O'Neill 2014, "PCG: A Family of Simple
Fast Space-Efficient Statistically Good Algorithms for Random Number Generation", HMC-CS-2014-0905), a flag that half of
the last word is unused, and that half. A stream made of a `numpy.random.Generator` draws the same numbers: `uniform`,
`integers` and `permutation` equal its methods to the bit.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .jit import jitted

Stream = npt.NDArray[np.uint64]

STREAM_SIZE = 6
_HIGH, _LOW = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)  # PCG64's multiplier
_LOW_0, _LOW_1 = np.uint64(0x9FCCF645), np.uint64(0x4385DF64)
_HALF = np.uint64(0xFFFFFFFF)
_ONE, _11, _32, _58, _63, _64 = (np.uint64(bits) for bits in (1, 11, 32, 58, 63, 64))
_WORD = (1 << 64) - 1
_TO_UNIT = 1.0 / 9007199254740992.0  # 2^-53


def stream_of(generator: np.random.Generator) -> Stream:
    """Return the state of a generator of PCG64 as a stream; raise ValueError for one of another kind."""
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"a stream needs a generator of PCG64, got {state['bit_generator']}")
    words = [state["state"]["state"] >> 64, state["state"]["state"] & _WORD]
    words += [state["state"]["inc"] >> 64, state["state"]["inc"] & _WORD, state["has_uint32"], state["uinteger"]]
    return np.array(words, dtype=np.uint64)


def continue_from(generator: np.random.Generator, stream: Stream) -> None:
    """Set `generator` to continue from `stream`."""
    high, low, inc_high, inc_low, has_half, half = (int(word) for word in stream)
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": has_half,
        "uinteger": half,
    }


@jitted
def next_word(stream: Any) -> Any:
    """Draw 64 random bits."""
    high, low = stream[0], stream[1]
    # The product's high half from halves of 32 bits: there are no integers of 128.
    low_0, low_1 = low & _HALF, low >> _32
    cross_0, cross_1 = low_0 * _LOW_1, low_1 * _LOW_0
    middle = (low_0 * _LOW_0 >> _32) + (cross_0 & _HALF) + (cross_1 & _HALF)
    carried = low_1 * _LOW_1 + (cross_0 >> _32) + (cross_1 >> _32) + (middle >> _32)
    high = carried + low * _HIGH + high * _LOW + stream[2]
    low = low * _LOW + stream[3]
    if low < stream[3]:
        high += _ONE
    stream[0], stream[1] = high, low
    turn, bits = high >> _58, high ^ low
    return (bits >> turn) | (bits << ((_64 - turn) & _63))


@jitted
def next_half(stream: Any) -> Any:
    """Draw 32 random bits, two at a time as NumPy does."""
    if stream[4]:
        stream[4] = 0
        return stream[5]
    word = next_word(stream)
    stream[4], stream[5] = _ONE, word >> _32
    return word & _HALF


@jitted
def uniform(stream: Any, low: float, high: float) -> float:
    """Draw from [low, high), as `Generator.uniform`."""
    return low + (high - low) * (np.float64(next_word(stream) >> _11) * _TO_UNIT)


@jitted
def integers(stream: Any, count: int) -> Any:
    """Draw one of 0, 1, …, count - 1 (at most 2^32 - 1 of them), as `Generator.integers`.

    Lemire 2019, "Fast Random Integer Generation in an Interval", arXiv 1805.10941.
    """
    if count <= 1:
        return 0
    size = np.uint64(count)
    product = next_half(stream) * size
    if (product & _HALF) < size:
        threshold = (_HALF + _ONE - size) % size
        while (product & _HALF) < threshold:
            product = next_half(stream) * size
    return np.int64(product >> _32)


@jitted
def permutation(stream: Any, target: Any) -> None:
    """Fill `target` (N,) with 0, 1, …, N - 1 in random order, as `Generator.permutation`."""
    for i in range(len(target)):
        target[i] = i
    mask = np.uint64(1)
    while mask < np.uint64(len(target)):
        mask <<= _ONE
    for i in range(len(target) - 1, 0, -1):
        # As many bits as i has, drawn until they are i or less, where `integers` multiplies.
        while mask >> _ONE > np.uint64(i):
            mask >>= _ONE
        drawn = next_half(stream) & (mask - _ONE)
        while drawn > np.uint64(i):
            drawn = next_half(stream) & (mask - _ONE)
        j = np.int64(drawn)
        target[i], target[j] = target[j], target[i]


@jitted
def normal(stream: Any) -> float:
    """Draw from the standard normal distribution by Box and Muller's method: not the numbers of NumPy's generator."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(stream, 0.0, 1.0)))
    return radius * math.cos(2.0 * math.pi * uniform(stream, 0.0, 1.0))
