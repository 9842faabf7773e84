"""Curves of several runs as one: a mean, or an interquartile mean, with a bootstrap band over the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from jaxdreamer.config import ConfigError

__all__ = ["IN_WORDS", "Band", "Center", "Points", "band", "interquartile_mean", "interval"]

Points = list[tuple[float, float]]
Center = Literal["mean", "iqm"]
IN_WORDS = {"mean": "mean", "iqm": "interquartile mean"}
_MOST_POINTS = 200
_RESAMPLES = 2000


class Band(NamedTuple):
    """A curve with its band; ``low`` and ``high`` are None for a single run, of which nothing is known of other seeds."""

    x: np.ndarray  # float64 [N], ascending
    center: np.ndarray  # float64 [N]
    low: np.ndarray | None  # float64 [N]
    high: np.ndarray | None  # float64 [N]
    runs: int


def band(curves: Sequence[Points], center: Center = "mean") -> Band:
    """The curves' mean or interquartile mean and its 95 % interval, over the stretch of x that all of them have.

    Seeds are evaluated at slightly different frames, as a reset counts none: each curve is interpolated linearly at the
    others' points. Curves of a single point each are taken to be of the same x, their mean.

    Raises:
        ConfigError: they have no stretch in common.
    """
    arrays = [np.array(sorted(points), np.float64) for points in curves]
    if len(arrays) == 1:
        return Band(arrays[0][:, 0], arrays[0][:, 1], None, None, 1)
    if all(len(points) == 1 for points in arrays):
        grid = np.array([np.mean([points[0, 0] for points in arrays])])
    else:
        first, last = max(points[0, 0] for points in arrays), min(points[-1, 0] for points in arrays)
        every = np.unique(np.concatenate([points[:, 0] for points in arrays]))
        grid = every[(first <= every) & (every <= last)]
        if not len(grid):
            raise ConfigError(
                f"these runs have nothing in common: one begins at {first:,.0f}, where another has ended at {last:,.0f}; "
                "plot them apart, or wait for the others"
            )
        grid = grid[np.unique(np.linspace(0, len(grid) - 1, _MOST_POINTS).round().astype(int))]
    values = np.stack([np.interp(grid, points[:, 0], points[:, 1]) for points in arrays], axis=1)
    middle = _statistic(center)(values)
    low, high = interval(values, center)
    return Band(grid, middle, low, high, len(arrays))


def interval(values: np.ndarray, center: Center = "mean", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % percentile-bootstrap interval of the statistic over the last axis.

    Runs are drawn with replacement, as many as there are, 2,000 times, the same ones at every point of the curve; the ends
    are the 2.5th and 97.5th percentile of the statistics (Efron 1979; for few runs: Agarwal et al. 2021).

    Args:
        values: [N, runs], two runs or more.
        center: which statistic.
        seed: of the draws.
    """
    runs, statistic = values.shape[1], _statistic(center)
    drawn = np.random.default_rng(seed).integers(0, runs, (_RESAMPLES, runs))
    statistics = np.stack([statistic(row[drawn]) for row in values])  # a row at a time: all at once fill the memory
    low, high = np.percentile(statistics, [2.5, 97.5], axis=1)
    return low, high


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis without its lowest and its highest quarter, each rounded down; of three it is the mean."""
    cut = values.shape[-1] // 4
    return np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)


def _statistic(center: Center) -> Callable[[np.ndarray], np.ndarray]:
    return interquartile_mean if center == "iqm" else _mean


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=-1)
