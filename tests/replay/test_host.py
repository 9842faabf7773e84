import threading
import time
import tracemalloc

import jax
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.config import ConfigError
from jaxdreamer.replay import layout
from jaxdreamer.replay.host import Indices
from jaxdreamer.replay.layout import ReplayTooLarge
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec, Timestep
from tests.replay.feed import Feed, content_hash, make


@settings(max_examples=150, deadline=None)
@given(
    lanes=st.integers(1, 3),
    length=st.integers(1, 5),
    guard=st.integers(0, 3),
    extra=st.integers(0, 7),
    cross=st.booleans(),
    ends=st.lists(st.sets(st.integers(0, 2)), max_size=40),
    terminal=st.booleans(),
)
def test_samples_exactly_the_valid_windows_of_a_plain_list(lanes, length, guard, extra, cross, ends, terminal):
    least = length + guard + (0 if cross else length - 1)
    replay = make((least + extra) * lanes, lanes, length, cross, guard)
    feed = Feed(replay)
    rng = np.random.default_rng(0)
    for row_ends in ends:
        feed.add([lane for lane in row_ends if lane < lanes], terminal)
        valid = feed.valid()
        assert replay.valid_starts == len(valid)
        # Episodes of whatever lengths: there is a window as soon as there are entries enough for one.
        assert replay.can_sample == bool(valid) == (len(feed.lanes[0]) >= length)
        if not valid:
            with pytest.raises(ConfigError):
                replay.sample_indices(rng, 1)
            continue
        indices = replay.sample_indices(rng, 8)
        assert {(int(s), int(lane)) for s, lane in zip(*indices)} <= valid
        feed.check(replay.gather(indices), indices)
    if replay.can_sample:
        # Every one is reachable: 15 draws for each leave a chance of e^-15 to miss it.
        found = replay.sample_indices(rng, 15 * len(feed.valid()) + 50)
        assert {(int(s), int(lane)) for s, lane in zip(*found)} == feed.valid()


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("every", [4, 40])  # 4: hardly any window is valid, so the full scan is what answers
@pytest.mark.parametrize("draws", [1, 20_000])
def test_uniform(cross, every, draws):
    replay = make(600, 3, 4, cross, guard=5)
    feed = Feed(replay)
    feed.add_many(450, every)
    rng = np.random.default_rng(1)
    valid = feed.valid()
    counts = dict.fromkeys(valid, 0)
    for _ in range(20_000 // draws):
        for start, lane in zip(*replay.sample_indices(rng, draws)):
            counts[int(start), int(lane)] += 1
    expected = 20_000 / len(valid)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(chi2 - len(valid)) < 5 * np.sqrt(2 * len(valid))  # mean and deviation of chi-squared


def test_the_same_generator_draws_the_same_windows():
    replay = make(200, 2, 4, False)
    Feed(replay).add_many(150, 7)
    one, two = (replay.sample_indices(np.random.default_rng(3), 50) for _ in range(2))
    np.testing.assert_array_equal(one.start, two.start)
    np.testing.assert_array_equal(one.lane, two.lane)
    assert one.start.dtype == one.lane.dtype == np.int64
    again = Indices.from_json(one.to_json())
    np.testing.assert_array_equal(again.start, one.start)


def test_gather_shapes_dtypes_and_groups():
    replay = make(60, 2, 4)
    feed = Feed(replay)
    feed.add_many(50)
    indices = replay.sample_indices(np.random.default_rng(0), 6)
    batch = replay.gather(indices)
    assert batch.obs["image"].shape == (4, 6, 2, 2, 1) and batch.obs["image"].dtype == np.uint8
    assert batch.obs["choice"].shape == (4, 6) and batch.obs["choice"].dtype == np.int32
    assert batch.action.shape == (4, 6, 5) and batch.action.dtype == np.float32
    assert batch.is_first.dtype == bool
    assert all(array.flags.c_contiguous for array in jax.tree.leaves(batch))
    grouped = replay.gather(indices, groups=3)
    assert grouped.obs["image"].shape == (3, 4, 2, 2, 2, 1)
    for k in range(3):
        part = Indices(indices.start[2 * k : 2 * k + 2], indices.lane[2 * k : 2 * k + 2])
        np.testing.assert_array_equal(grouped.reward[k], replay.gather(part).reward)
        np.testing.assert_array_equal(grouped.obs["tag"][k], replay.gather(part).obs["tag"])
    out = replay.buffers(6, groups=3)
    assert replay.gather(indices, groups=3, out=out).reward is out["reward"]
    np.testing.assert_array_equal(out["action"], grouped.action)


def test_a_window_drawn_before_guard_additions_is_still_there_and_one_more_is_told():
    replay = make(40, 2, 4, guard=6)
    feed = Feed(replay)
    feed.add_many(50)
    oldest = min(feed.valid())[0]
    indices = Indices(np.array([oldest]), np.array([1]))
    feed.add_many(6)
    feed.check(replay.gather(indices), indices)
    feed.add_many(1)
    with pytest.raises(LookupError, match="raise guard=6"):
        replay.gather(indices)
    with pytest.raises(LookupError):
        replay.gather(Indices(np.array([replay.total - 3]), np.array([0])))


def test_gathering_in_a_thread_while_rows_are_added():
    replay = make(200, 2, 8, guard=8)
    feed = Feed(replay)
    feed.add_many(120)
    rng = np.random.default_rng(0)
    problems = []

    def work(queue, stop):
        while not stop.is_set():
            if not queue:
                time.sleep(0)
                continue
            indices = queue.pop(0)
            try:
                rows = replay.gather(indices).obs["tag"][..., 0]
                np.testing.assert_array_equal(rows, indices.start + np.arange(8)[:, None])
            except LookupError:
                pass  # too late, and it knows
            except BaseException as error:
                problems.append(error)

    queue, stop = [], threading.Event()
    thread = threading.Thread(target=work, args=(queue, stop))
    thread.start()
    for _ in range(1500):
        queue.append(replay.sample_indices(rng, 16))
        feed.add_many(1)
        if len(queue) > 6:
            time.sleep(0.0005)
    stop.set()
    thread.join()
    assert not problems


def test_short_episodes_are_sampled_from_their_beginnings():
    replay = make(60, 2, 10, cross_episodes=False)
    feed = Feed(replay)
    feed.add_many(4, every=3)
    with pytest.raises(ConfigError, match=r"holds 4 entries.*takes 10"):
        replay.sample_indices(np.random.default_rng(0), 1)
    feed.add_many(20, every=6)
    found = set(zip(*replay.sample_indices(np.random.default_rng(0), 200)))
    assert len(found) > 3 and all(feed.lanes[lane][start]["is_first"] for start, lane in found)
    with pytest.raises(ConfigError, match=r"sequences of 10 need 19: set replay.capacity to at least 38$"):
        make(36, 2, 10, cross_episodes=False)


def test_a_reset_entry_is_stored_with_zero_action_and_reward():
    replay = make()
    feed = Feed(replay)
    feed.add()  # Feed hands over nonzero ones
    timestep, action = replay.last_row()
    assert timestep.is_first.all() and not action.any() and not timestep.reward.any()
    feed.add()
    timestep, action = replay.last_row()
    assert action.any() and timestep.reward.tolist() == [2, 3]


def test_refuses_what_the_contract_forbids():
    replay = make()
    feed = Feed(replay)
    feed.add(ends=[1])
    good, _ = replay.last_row()
    action = np.zeros((2, 5), np.float32)
    good = good._replace(is_first=np.array([False, True]), is_last=np.zeros(2, bool), is_terminal=np.zeros(2, bool))
    before = content_hash(replay)

    def refuse(match, timestep=good, action=action):
        with pytest.raises(ValueError, match=match):
            replay.add(timestep, action)

    refuse("environment 1 ended", good._replace(is_first=np.zeros(2, bool)))
    refuse("reward: environment 1 .*not finite", good._replace(reward=np.array([0, np.nan], np.float32)))
    refuse("reward: environment 0 .*not finite", good._replace(reward=np.array([1e300, 0])))
    refuse("obs/image: expected dtype uint8", good._replace(obs=good.obs | {"image": np.zeros((2, 2, 2, 1))}))
    refuse("obs/tag: expected shape", good._replace(obs=good.obs | {"tag": np.zeros((2, 3), np.float32)}))
    refuse("observation keys", good._replace(obs={"tag": good.obs["tag"]}))
    refuse("action: expected shape", action=action[:, :4])
    refuse("is_terminal without is_last", good._replace(is_terminal=np.ones(2, bool)))
    assert content_hash(replay) == before
    replay.add(good._replace(reward=np.zeros(2)), action.astype(np.float64))


def test_lane_episode_and_close_episode():
    replay = make(16, 2, 3)
    feed = Feed(replay)
    assert replay.lane_episode(0) is None
    feed.add(ends=[1])
    assert replay.lane_episode(0).shape == (0, 5)
    assert replay.lane_episode(1) is None  # it is over
    feed.add()
    feed.add()
    np.testing.assert_array_equal(replay.lane_episode(0)[:, 0], [1.5, 2.5])
    np.testing.assert_array_equal(replay.lane_episode(1)[:, 0], [2.5])
    for _ in range(5):
        feed.add()
    assert len(replay.lane_episode(0)) == 7  # the ring is full, the reset still in it
    feed.add()
    assert replay.lane_episode(0) is None  # overwritten
    assert len(replay.lane_episode(1)) == 7
    replay.close_episode(0)
    replay.close_episode(0)
    timestep, _ = replay.last_row()
    assert timestep.is_last.tolist() == [True, False] and not timestep.is_terminal.any()
    assert replay.state()["closed"] == [[8, 0]]
    with pytest.raises(ValueError, match="must be a reset"):
        feed.add()
    feed.ended[0] = True
    feed.add()
    assert replay.lane_episode(0).shape == (0, 5)
    for _ in range(8):
        feed.add()
    assert replay.state()["closed"] == []  # forgotten with its row


def test_size_is_told_and_true():
    spec = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ActionSpec((ActionPart("continuous", 6),)))
    replay = make(1003, 2, 50, spec=spec)
    assert replay.rows_max * replay.lanes == 1002
    truth = 1002 * (64 * 64 * 3 + 6 * 4 + 4 + 3 + 8 + 1)
    assert replay.size.nbytes == truth
    assert "1,002 entries" in replay.size.describe() and "12.4 MB" in replay.size.describe()


def test_refuses_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(layout, "available_memory", lambda: 10_000_000)
    spec = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ActionSpec((ActionPart("continuous", 6),)))
    began = time.monotonic()
    with pytest.raises(ReplayTooLarge, match=r"12.3 GB.*10 MB available.*replay.capacity to (\d+)") as caught:
        make(1_000_000, 4, 50, spec=spec)
    assert time.monotonic() - began < 1
    assert isinstance(caught.value, MemoryError) and isinstance(caught.value, ConfigError)
    fits = int(str(caught.value).split("replay.capacity to ")[1].split()[0])
    make(fits, 4, 50, spec=spec)
    with pytest.raises(ReplayTooLarge):
        make(fits + 4, 4, 50, spec=spec)


def test_refuses_a_ring_shorter_than_a_window():
    with pytest.raises(ConfigError, match="at least 28"):
        make(27, 2, 10, guard=4)
    make(28, 2, 10, guard=4)


def test_memory_is_flat_once_the_ring_is_full():
    replay = make(2000, 2, 10, cross_episodes=False, guard=4)
    feed = Feed(replay)
    feed.add_many(50)
    timestep, action = replay.last_row()
    flags = np.zeros(2, bool)
    timestep = Timestep(timestep.obs, timestep.reward, flags, flags, flags)
    rng = np.random.default_rng(0)

    def fill(count):
        for row in range(count):
            replay.add(timestep._replace(is_first=np.full(2, row % 50 == 0)), action)
            if row % 10 == 0 and replay.can_sample:
                replay.gather(replay.sample_indices(rng, 4))

    fill(1200)
    tracemalloc.start()
    try:
        fill(200)
        before, _ = tracemalloc.get_traced_memory()
        resident = psutil.Process().memory_info().rss
        fill(6000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One kept object a row would be 300 kB; other threads and the garbage collector make some ten kB of noise.
    assert after - before < 150_000
    assert psutil.Process().memory_info().rss - resident < 20_000_000


def test_importing_the_room_imports_no_jax():
    import subprocess
    import sys

    code = "import sys, jaxdreamer.replay.host, jaxdreamer.replay.disk, jaxdreamer.replay.prefetch; "
    code += "assert not {'jax', 'psutil'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
