"""Statistics of episodes: counted entry by entry and merged, in NumPy and in JAX, against a plain list."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.train.scores import EpisodeStats, Running, count_entry, merge, no_episodes, stats_of
from jaxdreamer.types import Timestep


@pytest.mark.parametrize("xp", [np, jnp])
def test_entries_against_a_plain_count(xp):
    rng = np.random.default_rng(0)
    running, before, after = Running.none(3, xp), no_episodes(xp), no_episodes(xp)
    expected: list[list[tuple[float, int]]] = [[], []]
    latest = np.nan
    total, steps, first = np.zeros(3), np.zeros(3, int), np.ones(3, bool)
    for t in range(60):
        last = ~first & (rng.random(3) < 0.2)
        reward = np.where(first, 0, rng.integers(-3, 4, 3)).astype(np.float32)
        flags = [xp.asarray(flag) for flag in (first, last, last)]
        running, ended = count_entry(running, Timestep({}, xp.asarray(reward), *flags), xp)
        total, steps = np.where(first, 0, total + reward), np.where(first, 0, steps + 1)
        expected[t > 30] += [(total[lane], steps[lane]) for lane in np.flatnonzero(last)]
        latest = total[np.flatnonzero(last)[0]] if last.any() else latest
        if t > 30:
            after = merge(after, ended, xp)
        else:
            before = merge(before, ended, xp)
        first = last
    whole = merge(before, after, xp)
    for stats, episodes in ((before, expected[0]), (after, expected[1]), (whole, [*expected[0], *expected[1]])):
        returns, lengths = np.array(episodes).T
        assert len(returns) > 10
        np.testing.assert_allclose(
            [stats.episodes, stats.mean, stats.squares, stats.lowest, stats.highest, stats.steps],
            [
                len(returns),
                returns.mean(),
                np.sum((returns - returns.mean()) ** 2),
                returns.min(),
                returns.max(),
                lengths.sum(),
            ],
            rtol=1e-5,
        )
    assert float(whole.latest) == float(after.latest) == latest
    np.testing.assert_array_equal(running.returns, total)
    np.testing.assert_array_equal(running.lengths, steps)


def test_returns_that_are_large_and_alike_keep_their_deviation():
    """Sums of squares in float32 would have no digit of it."""
    returns = 1e4 + np.arange(8, dtype=np.float32)
    stats = no_episodes(jnp)
    for value in returns:
        stats = merge(stats, stats_of(jnp.full((1,), value), jnp.ones((1,), int), jnp.ones((1,), bool), jnp), jnp)
    assert EpisodeStats(*map(np.asarray, stats)).metrics("train")["train/return_std"] == pytest.approx(
        returns.std(), rel=1e-3
    )


def test_names_and_nothing_without_episodes():
    assert no_episodes().metrics("train") == {} and np.isnan(no_episodes().latest)
    one = stats_of(np.array([2.0, 9.0, 4.0]), np.array([1, 5, 3]), np.array([True, False, True]))
    assert one.metrics("eval") == {
        "eval/return": 3.0,
        "eval/return_std": 1.0,
        "eval/return_min": 2.0,
        "eval/return_max": 4.0,
        "eval/length": 2.0,
        "eval/episodes": 2,
    }
    nothing = merge(one, no_episodes())
    assert nothing == one and merge(no_episodes(), one) == one
