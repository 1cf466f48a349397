"""Statistics of a comparison: interquartile means, bootstrap intervals, probabilities of improvement, paired tests.

The measures of *Deep Reinforcement Learning at the Edge of the Statistical Precipice* (Agarwal et al., NeurIPS 2021),
computed by scipy. Intervals are percentile intervals of a stratified bootstrap: strata are tasks, within which seeds
are resampled with replacement. The random numbers are fixed, so that results repeat to the digit.

Shapes: N seeds of a task, M seeds of the same task on the other side, K thresholds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from minrl.system.extras import install_hint

Array = npt.NDArray[np.float64]
Strata = Sequence[Array]  # for each task the scores (N,) of its seeds

CONFIDENCE, SIGNIFICANCE = 0.95, 0.05
RESAMPLES, PROFILE_RESAMPLES, PERMUTATIONS = 10_000, 2_000, 9_999
# Coverage in % of the intervals of normally distributed scores, by numbers of tasks and seeds.
# Three seeds of one task: the interval is from the lowest score to the highest, as one of 27 resamples repeats a score
# three times, more than 2.5 %; all three lie on one side of the mean in one of four cases.
COVERAGE = {(1, 3): 75, (1, 5): 90, (6, 3): 87, (6, 5): 92}
FEWEST = 3  # runs of a task for an interval
_BATCH = 1_000  # resamples in memory at once
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """Statistic and its 95 % interval, which needs three seeds or more in every task."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def has_interval(self) -> bool:
        """True with enough seeds for an interval."""
        return self.low is not None


@dataclass(frozen=True)
class PairedTest:
    """Two-sided sign-flip test of paired differences."""

    pairs: int  # those that differ: equal ones carry no information
    difference: float  # mean over all pairs
    smallest: float  # possible p with this number of pairs
    p: float | None  # None if the smallest is not below 0.05

    @property
    def can_decide(self) -> bool:
        """True if the pairs suffice for p < 0.05."""
        return self.p is not None


def check_installed() -> None:
    """Raise ValueError with an install hint where scipy is missing."""
    _scipy()


def mean_and_error(values: Array) -> tuple[float, float | None]:
    """Compute the mean of (N,) and its standard error, None for a single value."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def interquartile_mean(strata: Strata) -> Estimate:
    """Average all runs of all tasks without the lowest and highest quarter; of fewer than four the plain mean."""
    trimmed = _scipy().trim_mean
    return _estimate(strata, lambda *drawn: trimmed(np.concatenate(drawn, axis=-1), 0.25, axis=-1))


def mean(strata: Strata) -> Estimate:
    """Average the means over seeds over the tasks."""
    return _estimate(strata, lambda *drawn: np.mean([np.mean(scores, axis=-1) for scores in drawn], axis=0))


def probability_of_improvement(ours: Strata, theirs: Strata) -> Estimate:
    """Estimate the probability that a run of ours beats one of theirs in the same task, averaged over tasks; a tie
    counts half.

    For one task it is the Mann-Whitney statistic over the number of pairs.

    Args:
        ours: for each task (N,).
        theirs: for the same tasks (M,).
    """
    return _estimate([*ours, *theirs], _improvement)


def performance_profile(strata: Strata, thresholds: Array) -> tuple[Array, tuple[Array, Array] | None]:
    """Compute the share of runs that score above each threshold.

    Returns:
        the shares (K,), and the ends of their pointwise 95 % intervals, None without three seeds in every task.
    """

    def share(*drawn: Array) -> Array:
        scores = np.sort(np.concatenate(drawn, axis=-1), axis=-1)
        above = [np.mean(scores > threshold, axis=-1) for threshold in thresholds]
        return np.asarray(above)

    return share(*strata), _interval(strata, share, PROFILE_RESAMPLES)


def paired_test(ours: Strata, theirs: Strata) -> PairedTest:
    """Test whether paired runs differ in the mean, by flipping the signs of their differences.

    Run i of a task on one side is paired with run i on the other. If the methods do not differ in any task, the sign of
    each difference is random: the p-value is the share of all sign flips (of 9,999 random ones if there are more) whose
    mean lies as far from zero. With n pairs that differ it is at least 2 / 2^n.

    Args:
        ours: for each task (N,).
        theirs: for the same tasks (N,).
    """
    differences = np.concatenate([a - b for a, b in zip(ours, theirs, strict=True)])
    telling = differences[differences != 0]
    smallest = min(1.0, 2.0 / 2.0 ** len(telling))
    p = None
    if smallest < SIGNIFICANCE:
        drawn = _scipy().permutation_test(
            (telling,), np.mean, permutation_type="samples", vectorized=True, n_resamples=PERMUTATIONS, rng=_rng()
        )
        p = float(drawn.pvalue)
    return PairedTest(len(telling), float(np.mean(differences)), smallest, p)


def pairs_needed(tests: int = 1) -> int:
    """Return the fewest pairs whose smallest p stays below 0.05 over `tests` tests (Bonferroni): six for one."""
    return next(pairs for pairs in count(1) if tests * 2.0 / 2.0**pairs < SIGNIFICANCE)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number m (Holm 1979): p_(i) becomes max_{j <= i} min(1, (m - j + 1) p_(j))."""
    tests, largest = len(p_values), 0.0
    adjusted = [0.0] * tests
    for rank, index in enumerate(sorted(range(tests), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (tests - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _improvement(*drawn: Array) -> Array:
    half = len(drawn) // 2
    shares = []
    for ours, theirs in zip(drawn[:half], drawn[half:], strict=True):
        a, b = ours[..., :, None], theirs[..., None, :]
        shares.append(np.mean((a > b) + 0.5 * (a == b), axis=(-2, -1)))
    return np.asarray(np.mean(shares, axis=0))


def _estimate(strata: Strata, statistic: Callable[..., Array]) -> Estimate:
    value, ends = float(statistic(*strata)), _interval(strata, statistic, RESAMPLES)
    return Estimate(value) if ends is None else Estimate(value, float(ends[0]), float(ends[1]))


def _interval(strata: Strata, statistic: Callable[..., Array], resamples: int) -> tuple[Array, Array] | None:
    """Return the ends of the interval; None where a task has too few runs to be resampled.

    With two runs half of all resamples repeat one of them, a quarter each: the percentiles are the runs themselves, an
    interval that covers the true mean of normally distributed scores half of the time, not 95 %.
    """
    if not strata or min(map(len, strata)) < FEWEST:
        return None
    found = _scipy().bootstrap(
        tuple(strata),
        lambda *drawn, axis: statistic(*drawn),
        n_resamples=resamples,
        batch=_BATCH,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=_rng(),
    )
    return found.confidence_interval.low, found.confidence_interval.high


def _rng() -> np.random.Generator:
    return np.random.default_rng(_SEED)


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise ValueError(f"the statistics of a comparison need scipy: {install_hint('compare')}") from error
    return stats
