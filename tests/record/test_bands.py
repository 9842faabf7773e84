"""Curves over seeds: held to SciPy's bootstrap, and to all resamples there are."""

import itertools

import numpy as np
import pytest
import scipy.stats

from jaxdreamer.config import ConfigError
from jaxdreamer.record.bands import band, interquartile_mean, interval

SIMPLY = {"mean": lambda x, axis: np.mean(x, axis), "iqm": lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis)}


@pytest.mark.parametrize("center", ["mean", "iqm"])
@pytest.mark.parametrize("runs", [2, 3, 5, 8])
def test_bands_are_scipys(center, runs):
    rng = np.random.default_rng(runs)
    steps = np.arange(12) * 1000
    values = np.cumsum(rng.normal(size=(12, runs)), axis=0) * 100
    found = band([list(zip(steps, column)) for column in values.T], center)
    expected = scipy.stats.bootstrap(
        (values,), SIMPLY[center], axis=1, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    np.testing.assert_array_equal(found.x, steps)
    np.testing.assert_allclose(found.center, SIMPLY[center](values, 1))
    np.testing.assert_allclose(found.low, expected.low)
    np.testing.assert_allclose(found.high, expected.high)
    assert found.runs == runs


@pytest.mark.parametrize("center", ["mean", "iqm"])
def test_draws_are_as_all_possible_ones(center):
    """With five runs there are 5^5 resamples: the ends of the band are those percentiles, to a draw's accuracy."""
    values = np.random.default_rng(1).normal(size=5)
    every = np.array([SIMPLY[center](np.array(drawn), 0) for drawn in itertools.product(values, repeat=5)])
    low, high = interval(np.tile(values, (1, 1)), center)
    ranks = [np.mean(every <= end) for end in (low[0], high[0])]
    np.testing.assert_allclose(ranks, [0.025, 0.975], atol=0.02)


def test_a_quarter_of_the_runs_is_cut_at_either_end():
    assert interquartile_mean(np.array([1000.0, 1, 2, -500])) == 1.5
    assert interquartile_mean(np.array([0.0, 3, 9])) == 4
    assert interquartile_mean(np.array([[9.0, 1, 2, 3, 4, 5, 6, 0, 7]])) == pytest.approx(np.mean([2, 3, 4, 5, 6]))


def test_curves_meet_where_all_of_them_are():
    """Seeds are evaluated at slightly different frames; the one stopped early ends the band."""
    found = band([[(0, 0.0), (100, 10.0), (200, 20.0)], [(50, 1.0), (150, 3.0)]])
    np.testing.assert_array_equal(found.x, [50, 100, 150])
    np.testing.assert_allclose(found.center, [(5 + 1) / 2, (10 + 2) / 2, (15 + 3) / 2])
    np.testing.assert_allclose(found.low, [1, 2, 3])  # of two runs the lowest resample has the lower one twice
    np.testing.assert_allclose(found.high, [5, 10, 15])


def test_one_run_has_no_band_and_keeps_its_points():
    points = [(float(step), step**0.5) for step in range(1000)]
    found = band([points[::-1]])
    assert found.low is None and found.high is None and found.runs == 1
    np.testing.assert_array_equal(found.x, range(1000))


def test_runs_that_were_evaluated_once_are_a_point():
    found = band([[(998, 1.0)], [(1002, 3.0)]])
    assert (found.x.tolist(), found.center.tolist()) == ([1000], [2])


def test_runs_without_a_common_stretch_are_told():
    with pytest.raises(ConfigError, match="one begins at 300, where another has ended at 200"):
        band([[(0, 1), (200, 1)], [(300, 1), (400, 1)]])


def test_long_curves_are_thinned_to_what_a_picture_shows():
    many = [[(step, step * seed) for step in range(5000)] for seed in (1, 2)]
    found = band(many)
    assert len(found.x) == 200 and (found.x[0], found.x[-1]) == (0, 4999)
    np.testing.assert_allclose(found.center, found.x * 1.5)
