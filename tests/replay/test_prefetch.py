import gc
import threading
import time
import traceback

import jax
import numpy as np
import pytest

from jaxdreamer.replay.prefetch import Gatherer, Prefetcher
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec
from tests.replay.feed import Feed, make


def test_order_and_pending():
    gate = threading.Semaphore(0)

    def gather(number):
        gate.acquire()
        return number * 10

    with Prefetcher(gather, lambda value: value + 1, depth=2) as prefetcher:
        for number in range(5):
            prefetcher.request(number)
        assert prefetcher.pending == [0, 1, 2, 3, 4]  # 0 is being gathered
        for _ in range(5):
            gate.release()
        assert prefetcher.get() == 1
        assert prefetcher.pending == [1, 2, 3, 4]
        assert [prefetcher.get() for _ in range(4)] == [11, 21, 31, 41]
        assert prefetcher.pending == []
        with pytest.raises(RuntimeError, match="no batch was requested"):
            prefetcher.get()


def test_works_ahead_by_depth_and_no_further():
    made = []
    with Prefetcher(made.append, lambda _: None, depth=2) as prefetcher:
        for number in range(6):
            prefetcher.request(number)
        deadline = time.monotonic() + 5
        while len(made) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert made == [0, 1]
        prefetcher.get()
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert made == [0, 1, 2]


def test_an_exception_arrives_in_its_turn_with_its_traceback():
    def the_culprit(number):
        if number == 2:
            raise LookupError("rows are gone")
        return number

    with Prefetcher(the_culprit, lambda value: value) as prefetcher:
        for number in range(4):
            prefetcher.request(number)
        assert [prefetcher.get(), prefetcher.get()] == [0, 1]
        for _ in range(2):
            with pytest.raises(LookupError, match="rows are gone") as caught:
                prefetcher.get()
        assert "the_culprit" in "".join(traceback.format_tb(caught.value.__traceback__))
        assert prefetcher.pending == [2, 3]


def test_close_ends_the_thread_even_in_the_middle():
    prefetcher = Prefetcher(lambda number: time.sleep(0.05), lambda value: value)
    for number in range(20):
        prefetcher.request(number)
    (thread,) = prefetcher._pool._threads
    prefetcher.close()
    prefetcher.close()
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        prefetcher.request(1)


def test_a_forgotten_one_ends_its_thread():
    prefetcher = Prefetcher(lambda number: number, lambda value: value)
    prefetcher.request(1)
    (thread,) = prefetcher._pool._threads
    del prefetcher
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


@pytest.fixture
def filled():
    spec = EnvSpec(
        {"tag": ArraySpec((2,), "float32", "vector"), "image": ArraySpec((2, 2, 1), "uint8", "image")}
        | {"choice": ArraySpec((), "int32", "discrete", 300)},
        ActionSpec((ActionPart("continuous", 2), ActionPart("discrete", 3))),
    )
    replay = make(400, 2, 8, spec=spec, guard=10)
    feed = Feed(replay)
    feed.add_many(180)
    return replay, feed


def test_buffers_are_used_again_when_free_and_only_then(filled):
    replay, feed = filled
    gatherer = Gatherer(replay)
    rng = np.random.default_rng(0)

    def pointer(batch):
        return batch.obs["image"].ctypes.data

    batch = gatherer(replay.sample_indices(rng, 6))
    assert all(array.ctypes.data % 64 == 0 for array in jax.tree.leaves(batch))
    first = pointer(batch)
    other = gatherer(replay.sample_indices(rng, 6))
    assert pointer(other) != first
    view = batch.obs["tag"][:, 2:3][0]  # a view of a view of one array holds the whole set
    kept = view.copy()
    del batch
    third = gatherer(replay.sample_indices(rng, 6))
    assert pointer(third) not in (first, pointer(other))
    np.testing.assert_array_equal(view, kept)
    del view
    indices = replay.sample_indices(rng, 6)
    fourth = gatherer(indices)
    assert pointer(fourth) == first
    feed.check(fourth, indices)
    assert gatherer(replay.sample_indices(rng, 4)).reward.shape == (8, 4)


def test_jax_arrays_never_change_under_reuse(filled):
    """On the CPU jax takes the aligned memory over without a copy: the buffer is free when the jax array is gone."""
    replay, _ = filled
    gatherer = Gatherer(replay, groups=2)
    rng = np.random.default_rng(0)
    held, truths, pointers = [], [], set()
    double = jax.jit(lambda batch: jax.tree.map(lambda x: x + x, batch))
    for step in range(60):
        indices = replay.sample_indices(rng, 8)
        host = gatherer(indices)
        pointers.add(host.action.ctypes.data)
        device = jax.device_put(host)
        del host
        truths.append(replay.gather(indices, 2))
        held.append((device, double(device)) if step % 3 else (jax.tree.map(lambda x: x[0], device), double(device)))
        if len(held) > 3:
            held.pop(0)
            truths.pop(0)
        for (batch, doubled), truth in zip(held, truths):
            wanted = truth if batch.reward.ndim == 3 else jax.tree.map(lambda x: x[0], truth)
            jax.tree.map(np.testing.assert_array_equal, batch, wanted)
            np.testing.assert_array_equal(doubled.action, 2 * truth.action)
    assert len(pointers) < 30  # and yet they were used again


def test_from_ring_to_device_while_the_ring_moves_on(filled):
    replay, feed = filled
    rng = np.random.default_rng(0)
    with Prefetcher(Gatherer(replay), jax.device_put, depth=2) as prefetcher:
        asked = []
        for _ in range(3):
            asked.append(replay.sample_indices(rng, 5))
            prefetcher.request(asked[-1])
        for _ in range(60):
            batch = prefetcher.get()
            feed.check(jax.device_get(batch), asked.pop(0))
            feed.add_many(2)
            asked.append(replay.sample_indices(rng, 5))
            prefetcher.request(asked[-1])
        assert [a.start.tolist() for a in prefetcher.pending] == [a.start.tolist() for a in asked]
