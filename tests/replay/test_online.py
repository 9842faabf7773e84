"""The online queue of both rings against a plain list: every complete window once, in order, before others are drawn."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.config import ConfigError, preset
from jaxdreamer.replay import disk
from jaxdreamer.replay.device import make_device_replay
from tests.replay.feed import SPEC, Feed, make

LANES, LENGTH, BATCH, ROWS = 2, 3, 4, 12


class Queue:
    """What must come next: windows [first row, lane] that are complete, were not given out, and are still in the ring."""

    def __init__(self):
        self.waiting, self.rows = [], 0

    def add(self):
        self.rows += 1
        if self.rows % LENGTH == 0:
            self.waiting += [(self.rows - LENGTH, lane) for lane in range(LANES)]
        self.waiting = [window for window in self.waiting if window[0] >= self.rows - ROWS]

    def take(self):
        taken, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
        return taken


class Host:
    def __init__(self):
        self.replay, self.rng = make(ROWS * LANES, LANES, LENGTH), np.random.default_rng(0)

    def draw(self):
        indices = self.replay.next_indices(self.rng, BATCH)
        return self.replay.gather(indices)


@functools.cache
def compiled():
    replay = make_device_replay(
        SPEC, capacity=ROWS * LANES, lanes=LANES, length=LENGTH, batch_size=BATCH, cross_episodes=True, online=True
    )
    return replay._replace(**{name: jax.jit(getattr(replay, name)) for name in ("add", "sample", "seen")})


class Device:
    """What Feed writes to, and draws from it."""

    guard, spec, lanes, length, rows_max, cross_episodes = 0, SPEC, LANES, LENGTH, ROWS, True

    def __init__(self):
        self.replay, self.state, self.key = self, compiled().init(), jax.random.key(0)

    def add(self, timestep, action):
        self.state = compiled().add(self.state, timestep, action)

    def draw(self):
        self.key, key = jax.random.split(self.key)
        batch = compiled().sample(self.state, key)
        self.state = compiled().seen(self.state)
        return batch


@pytest.mark.parametrize("kind", [Host, Device])
@settings(max_examples=40, deadline=None)
@given(events=st.lists(st.booleans(), min_size=6, max_size=60))
def test_every_window_is_given_out_once_and_in_order(kind, events):
    ring, queue = kind(), Queue()
    feed = Feed(ring.replay)
    for draws in events:
        feed.add()
        queue.add()
        if draws and queue.rows >= LENGTH:
            expected, batch = queue.take(), ring.draw()
            tags = np.asarray(batch.obs["tag"][0]).astype(int)
            assert list(map(tuple, tags[: len(expected)].tolist())) == expected
            # The rest is drawn: whole windows of what is there.
            assert (tags[:, 0] >= max(0, queue.rows - ROWS)).all() and (tags[:, 0] <= queue.rows - LENGTH).all()
            feed.check(jax.tree.map(np.asarray, batch), (tags[:, 0], tags[:, 1]))


def test_the_queue_goes_on_where_a_checkpoint_left_it(tmp_path):
    ring = Host()
    Feed(ring.replay).add_many(11, 5)
    ring.draw()
    manifest = disk.save(ring.replay, tmp_path, None)
    other, longer = Host(), make(ROWS * LANES, LANES, LENGTH + 1)
    disk.load(other.replay, tmp_path, manifest)
    left = [window.tolist() for window in ring.replay.next_indices(np.random.default_rng(1), 2)]
    assert left == [[6, 6], [0, 1]]
    assert [window.tolist() for window in other.replay.next_indices(np.random.default_rng(1), 2)] == left
    disk.load(longer, tmp_path, manifest)  # of other windows nobody knows which were learned from: none waits
    rng, plain = np.random.default_rng(2), np.random.default_rng(2)
    assert longer.next_indices(rng, 3).to_json() == longer.sample_indices(plain, 3).to_json()


def test_the_queue_needs_windows_that_may_cross_episodes():
    with pytest.raises(ConfigError, match=r"needs replay\.cross_episodes=true"):
        preset("dreamer_v3", "cross_episodes=false", "online=true")
