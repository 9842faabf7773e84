"""Two rings sampled as one: shares of batches, and what a batch holds."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdreamer.replay.mixture import Mixture
from tests.replay.feed import Feed, make


def rings(own=30, given=40, **more):
    one, two = make(200, 2, **more), make(given, 1, **more)
    feeds = Feed(one), Feed(two)
    feeds[0].add_many(own)
    feeds[1].add_many(given)
    return feeds


@pytest.mark.parametrize(("fraction", "wanted"), [(0.0, {0}), (0.25, {1}), (0.5, {2}), (1.0, {4})])
def test_a_fraction_of_every_batch_is_given(fraction, wanted):
    own, given = rings()
    mixture = Mixture(own.replay, given.replay, batch_size=4, fraction=fraction)
    indices = mixture.sample_indices(np.random.default_rng(0), 40)
    assert set((indices.lane == 2).reshape(10, 4).sum(1).tolist()) == wanted


def test_a_fraction_between_two_numbers_is_right_on_average_and_none_makes_all_windows_equally_likely():
    own, given = rings()
    drawn = Mixture(own.replay, given.replay, 4, 0.3).sample_indices(np.random.default_rng(0), 4000)
    assert set((drawn.lane == 2).reshape(-1, 4).sum(1).tolist()) == {1, 2}
    assert abs((drawn.lane == 2).mean() - 0.3) < 0.02
    mixture = Mixture(own.replay, given.replay, 4, None)
    windows = [(start, lane) for start in range(28) for lane in range(2)] + [(start, 2) for start in range(38)]
    drawn = mixture.sample_indices(np.random.default_rng(0), 9400)
    counts = np.unique(np.stack(drawn), axis=1, return_counts=True)
    assert sorted(map(tuple, counts[0].T.tolist())) == sorted(windows)
    # Each of the 94 windows is expected 100 times: four deviations either way.
    assert counts[1].min() > 60 and counts[1].max() < 140


def test_before_anything_is_collected_all_is_given():
    own, given = rings(own=2)
    mixture = Mixture(own.replay, given.replay, 4, 0.5)
    assert mixture.can_sample and not own.replay.can_sample
    assert set(mixture.sample_indices(np.random.default_rng(0), 12).lane.tolist()) == {2}


@pytest.mark.parametrize("groups", [None, 3])
def test_a_batch_holds_the_windows_of_both(groups):
    own, given = rings(cross_episodes=False)
    mixture = Mixture(own.replay, given.replay, batch_size=4, fraction=0.5)
    indices = mixture.next_indices(np.random.default_rng(0), 12)
    batch = mixture.gather(indices, groups)
    lists = [*own.lanes, *given.lanes]
    for number, (start, lane) in enumerate(zip(*indices)):
        for t in range(3):
            entry = lists[lane][start + t]
            place = (t, number) if groups is None else (number // 4, t, number % 4)
            assert batch.obs["tag"][place].tolist() == entry["obs"]["tag"].tolist()
            assert batch.reward[place] == entry["reward"] and batch.is_first[place] == entry["is_first"]


def test_the_online_queue_is_that_of_what_is_collected():
    own, given = rings()
    mixture = Mixture(own.replay, given.replay, batch_size=4, fraction=0.5)
    first = mixture.next_indices(np.random.default_rng(0), 8)
    collected = first.lane < 2
    assert first.start[collected].tolist() == [0, 0, 3, 3] and first.lane[collected].tolist() == [0, 1, 0, 1]
