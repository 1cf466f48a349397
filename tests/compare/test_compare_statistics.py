"""Statistics of comparisons against closed forms, plain loops and scipy's own tests."""

from itertools import product

import numpy as np
import pytest

pytest.importorskip("scipy")
from scipy import stats

from minrl.compare.stats import statistics
from minrl.compare.stats.statistics import Array


def normal(seed: int, tasks: int, seeds: int, mean: float = 0.0) -> list[Array]:
    return list(np.random.default_rng(seed).normal(mean, 1.0, (tasks, seeds)))


def test_interquartile_mean_drops_a_quarter_at_each_end() -> None:
    assert statistics.interquartile_mean([np.array([100.0, 1.0, 2.0, -50.0])]).value == 1.5
    # Eight runs of two tasks are pooled: 1 2 | 3 4 5 6 | 7 8.
    assert statistics.interquartile_mean([np.array([8.0, 1.0, 4.0, 5.0]), np.array([2.0, 7.0, 3.0, 6.0])]).value == 4.5
    assert statistics.interquartile_mean([np.array([1.0, 2.0, 9.0])]).value == 4.0  # too few to drop any


def test_mean_and_error() -> None:
    assert statistics.mean_and_error(np.array([1.0, 2.0, 3.0])) == (2.0, pytest.approx(1 / np.sqrt(3)))
    assert statistics.mean_and_error(np.array([4.0])) == (4.0, None)


def test_mean_weighs_tasks_alike() -> None:
    assert statistics.mean([np.array([0.0, 0.0, 0.0, 0.0]), np.array([1.0, 3.0])]).value == 1.0


def test_interval_is_that_of_the_binomial_distribution() -> None:
    """Draw seeds of 50 tasks with the scores 0, 0, 1 and 1: the mean is a binomial number of 200 throws over 200."""
    found = statistics.mean([np.array([0.0, 0.0, 1.0, 1.0])] * 50)
    low, high = stats.binom(200, 0.5).interval(0.95)
    assert found.value == 0.5
    assert (found.low, found.high) == (pytest.approx(low / 200, abs=0.006), pytest.approx(high / 200, abs=0.006))


def test_only_seeds_are_resampled_and_not_tasks() -> None:
    """Give no uncertainty where all seeds of a task agree, however far apart the tasks are."""
    found = statistics.mean([np.full(3, 10.0), np.full(3, 90.0)])
    assert (found.value, found.low, found.high) == (50.0, 50.0, 50.0)


def test_interval_agrees_with_a_plain_loop() -> None:
    strata, random, drawn = normal(1, 6, 5), np.random.default_rng(2), []
    for _ in range(4000):
        heap = np.sort(np.concatenate([random.choice(scores, len(scores)) for scores in strata]))
        drawn.append(heap[7:23].mean())
    found = statistics.interquartile_mean(strata)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)


def test_digits_repeat() -> None:
    assert statistics.interquartile_mean(normal(3, 2, 4)) == statistics.interquartile_mean(normal(3, 2, 4))


def test_fewer_than_three_seeds_have_no_interval() -> None:
    assert not statistics.interquartile_mean([np.array([1.0])]).has_interval
    assert not statistics.mean([np.array([1.0, 2.0]), np.array([1.0, 1.0])]).has_interval
    assert not statistics.mean([np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0])]).has_interval
    assert statistics.mean([np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0])]).has_interval


def test_the_interval_of_three_seeds_runs_from_the_lowest_to_the_highest() -> None:
    """Include the mean unless all three lie on one side of it: 1 - 2 / 2^3 of the time."""
    for seed in range(5):
        (scores,) = normal(seed, 1, 3)
        found = statistics.interquartile_mean([scores])
        assert (found.low, found.high) == (pytest.approx(scores.min()), pytest.approx(scores.max()))
    assert statistics.COVERAGE[1, 3] == 100 * (1 - 2 / 2**3)


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "seeds"), [(1, 5), (6, 3), (6, 5)])
def test_intervals_have_the_coverage_that_the_report_states(tasks: int, seeds: int) -> None:
    """Draw as many resamples as the report; 1000 comparisons tell the share within 0.01."""
    found = [statistics.interquartile_mean(normal(i, tasks, seeds)) for i in range(1000)]
    held = np.mean([e.low is not None and e.high is not None and e.low <= 0 <= e.high for e in found])
    assert held == pytest.approx(statistics.COVERAGE[tasks, seeds] / 100, abs=0.03)


def test_probability_of_improvement_counts_pairs() -> None:
    ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])
    assert statistics.probability_of_improvement([ours], [theirs]).value == (1 + 1.5 + 2) / 9
    # The mean of a task that is always won and one that is always lost.
    assert statistics.probability_of_improvement([ours, ours], [ours - 9, ours + 9]).value == 0.5


def test_probability_of_improvement_is_mann_whitneys_statistic() -> None:
    ours, theirs = normal(4, 3, 5, mean=0.5), normal(5, 3, 7)
    expected = np.mean([stats.mannwhitneyu(a, b).statistic / 35 for a, b in zip(ours, theirs, strict=True)])
    found, turned = (statistics.probability_of_improvement(a, b) for a, b in ((ours, theirs), (theirs, ours)))
    assert found.value == pytest.approx(expected)
    assert turned.value == pytest.approx(1 - expected)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < expected < found.high < 1


def test_performance_profile_is_the_share_above() -> None:
    scores = [np.array([0.0, 0.0, 2.0]), np.array([1.0, 1.0, 3.0])]
    shares, band = statistics.performance_profile(scores, np.array([-1.0, 1, 9]))
    assert shares.tolist() == [1.0, pytest.approx(1 / 3), 0.0]
    assert band is not None
    # 2 and 3 exceed 1: their number among a resample's six runs is binomial with p = 1/3.
    low, high = stats.binom(6, 1 / 3).interval(0.95)
    assert band[0].tolist() == [1.0, pytest.approx(low / 6), 0.0]
    assert band[1].tolist() == [1.0, pytest.approx(high / 6), 0.0]
    assert statistics.performance_profile([np.array([1.0])], np.array([0.0]))[1] is None


def test_paired_test_counts_all_flips() -> None:
    ours, theirs = normal(6, 1, 8, mean=1.0), normal(7, 1, 8)
    differences = ours[0] - theirs[0]
    flips = [np.mean(np.array(signs) * differences) for signs in product((-1, 1), repeat=8)]
    expected = np.mean(np.abs(flips) >= abs(differences.mean()) - 1e-12)
    found = statistics.paired_test(ours, theirs)
    assert found.p == pytest.approx(expected)
    assert (found.pairs, found.difference) == (8, pytest.approx(differences.mean()))


@pytest.mark.parametrize(("pairs", "p"), [(4, None), (5, None), (6, 2 / 64), (7, 2 / 128)])
def test_few_seeds_cannot_decide(pairs: int, p: float | None) -> None:
    """Check that four or five pairs of one sign are not significant at the level of 0.05."""
    found = statistics.paired_test([np.arange(pairs) + 1.0], [np.zeros(pairs)])
    assert found.p == p
    assert found.can_decide == (p is not None)
    assert found.smallest == 2 / 2**pairs


def test_ties_are_no_pairs() -> None:
    found = statistics.paired_test([np.array([1.0, 2, 3, 4, 5, 0])], [np.zeros(6)])
    assert (found.pairs, found.p) == (5, None)
    assert found.difference == 2.5
    assert statistics.paired_test([np.ones(6)], [np.ones(6)]).smallest == 1.0


def test_pairs_needed() -> None:
    assert statistics.pairs_needed() == 6
    assert statistics.pairs_needed(tests=23) == 10  # 23 * 2 / 2**10 = 0.045


def test_holm_adjusts_from_the_smallest_on() -> None:
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_agrees_with_rliable() -> None:
    """Compare with the published implementation's points, and its intervals as near as chance allows.

    The numbers are those of rliable 1.2.0 (Agarwal et al. 2021, arXiv 2108.13264; numpy 2.4.6, arch 7.2.0), which runs
    with old packages only and was run once, for the scores below: `get_interval_estimates` with `aggregate_iqm` and
    `aggregate_mean` (reps=50000) and `probability_of_improvement` (1500), `create_performance_profile` (1500).
    """
    strata, others = normal(8, 6, 5), normal(9, 6, 5, mean=0.3)
    assert [strata[0][0], others[5][4]] == pytest.approx(
        [-1.7382664, -0.8712404], abs=1e-7
    )  # numpy still draws the same
    found = [statistics.interquartile_mean(strata), statistics.mean(strata)]
    assert [e.value for e in found] == pytest.approx([-0.02277527, -0.09752035], abs=1e-7)
    assert [e.low for e in found] == pytest.approx([-0.38678697, -0.39313798], abs=0.03)
    assert [e.high for e in found] == pytest.approx([0.31810751, 0.1947767], abs=0.03)
    better = statistics.probability_of_improvement(strata, others)
    assert better.value == pytest.approx(59 / 150)
    assert [better.low, better.high] == pytest.approx([0.24666667, 0.54], abs=0.03)
    shares, band = statistics.performance_profile(strata, np.linspace(-1, 1, 5))
    assert shares == pytest.approx([24 / 30, 21 / 30, 13 / 30, 9 / 30, 4 / 30])
    assert band is not None
    lower, upper = [0.7, 0.56666667, 0.3, 0.16666667, 0.03333333], [0.9, 0.83333333, 0.6, 0.43333333, 0.26666667]
    assert np.array(band) == pytest.approx(np.array([lower, upper]), abs=0.04)
