"""The ring on the accelerator against plain Python lists, and what its compiled programs do with memory."""

import functools
import math
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.config import ConfigError
from jaxdreamer.replay import device
from jaxdreamer.replay.device import make_device_replay
from jaxdreamer.replay.layout import ReplayTooLarge
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec, Timestep
from tests.replay.feed import SPEC, Feed

IMAGE = EnvSpec(
    {"image": ArraySpec((64, 64, 3), "uint8", "image"), "state": ArraySpec((4,), "float32", "vector")},
    ActionSpec((ActionPart("continuous", 6),)),
)
KEY = jax.random.key(7)


@functools.cache
def compiled(rows, lanes, length, batch_size, cross_episodes, spec=None):
    """A replay with its functions compiled once for all tests."""
    replay = make_device_replay(
        spec or SPEC,
        capacity=rows * lanes,
        lanes=lanes,
        length=length,
        batch_size=batch_size,
        cross_episodes=cross_episodes,
    )
    donated = {name: jax.jit(getattr(replay, name), donate_argnums=0) for name in ("add", "close")}
    return replay._replace(**donated, sample=jax.jit(replay.sample), can_sample=jax.jit(replay.can_sample))


class Ring:
    """What Feed writes to: a replay and its state. ``guard`` is what Feed asks of a host replay."""

    guard, spec = 0, SPEC

    def __init__(self, rows=7, lanes=3, length=3, batch_size=300, cross_episodes=True):
        self.rows_max, self.lanes, self.length, self.cross_episodes = rows, lanes, length, cross_episodes
        self.replay = compiled(rows, lanes, length, batch_size, cross_episodes)
        self.state = self.replay.init()
        self.key = KEY

    def add(self, timestep, action):
        self.state = self.replay.add(self.state, timestep, action)

    def close(self, feed, lanes):
        self.state = self.replay.close(self.state, np.isin(np.arange(self.lanes), list(lanes)))
        for lane in lanes:
            if feed.lanes[lane]:
                feed.lanes[lane][-1]["is_last"], feed.ended[lane] = True, True

    def sample(self):
        self.key, key = jax.random.split(self.key)
        return jax.tree.map(np.asarray, self.replay.sample(self.state, key))


def windows(batch):
    """(start row, lane) of every sampled window, as its observation tells."""
    tags = batch.obs["tag"][0].astype(int)
    return list(zip(tags[:, 0].tolist(), tags[:, 1].tolist()))


def check_each(feed, batch):
    """Every window is the model's, entry for entry; each different one is looked at once."""
    found = windows(batch)
    once = [found.index(window) for window in dict.fromkeys(found)]
    feed.check(jax.tree.map(lambda x: x[:, once], batch), tuple(np.array([found[i] for i in once]).T))
    return set(found)


def ages(feed, rows):
    """[rows kept, lanes] oldest first: entries since is_first, by the definition."""
    table = []
    for entries in feed.lanes:
        since = []
        for entry in entries:
            since.append(0 if entry["is_first"] else since[-1] + 1)
        table.append(since[-rows:])
    return np.array(table).T


row_events = st.tuples(st.sets(st.integers(0, 2), max_size=2), st.sets(st.integers(0, 2), max_size=1))


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(row_events, min_size=1, max_size=24),
    size=st.sampled_from([(7, 3, 3), (7, 1, 4), (5, 2, 1)]),
    cross=st.booleans(),
    terminal=st.booleans(),
)
def test_samples_exactly_the_allowed_windows_of_a_plain_list(events, size, cross, terminal):
    ring = Ring(*size, cross_episodes=cross)
    feed = Feed(ring)
    assert not ring.replay.can_sample(ring.state)
    for ends, cut in events:
        feed.add([lane for lane in ends if lane < ring.lanes], terminal)
        ring.close(feed, [lane for lane in cut if lane < ring.lanes])
        valid = feed.valid()
        assert bool(ring.replay.can_sample(ring.state)) == bool(valid)
        if valid:
            # At least 20 draws for each: a window left out by right would be missed with a chance of e^-20.
            assert check_each(feed, ring.sample()) == valid
    kept = min(len(events), ring.rows_max)
    age = np.roll(ring.state.age, -int(ring.state.position) + kept, axis=0)[:kept]
    np.testing.assert_array_equal(age, ages(feed, ring.rows_max))


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("rows", [90, 200])  # not yet full, and wrapped around
def test_every_allowed_window_is_equally_likely(cross, rows):
    draws = 20_000
    ring = Ring(130, 3, 4, draws, cross)
    feed = Feed(ring)
    rng = np.random.default_rng(0)
    for _ in range(rows):
        feed.add(np.flatnonzero(rng.random(3) < [0.02, 0.1, 0.3]))  # lanes with many, some, and few whole windows
    counts = dict.fromkeys(feed.valid(), 0)
    for window in windows(ring.sample()):
        counts[window] += 1
    expected = draws / len(counts)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    assert abs(chi2 - len(counts)) < 5 * np.sqrt(2 * len(counts))  # mean and deviation of chi-squared


def test_windows_of_one_batch_are_drawn_independently():
    """Neither lane nor start tells the other, nor one window the next."""
    ring = Ring(130, 3, 4, 20_000, True)
    feed = Feed(ring)
    feed.add_many(100)
    start, lane = np.array(windows(ring.sample())).T
    for one, two in ((start, lane), (start[1:], start[:-1]), (lane[1:], lane[:-1])):
        assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(len(one))
    again = windows(ring.sample())
    assert again != list(zip(start, lane))


def test_a_window_never_holds_the_oldest_and_the_newest_row_side_by_side():
    ring = Ring(7, 3, 3, cross_episodes=True)
    feed = Feed(ring)
    for _ in range(20):
        feed.add()
        if ring.replay.can_sample(ring.state):
            tags = ring.sample().obs["tag"][..., 0]
            assert (np.diff(tags, axis=0) == 1).all() and tags.min() >= len(feed.lanes[0]) - 7


def test_the_first_window_is_there_with_its_last_row():
    ring = Ring(7, 3, 3)
    feed = Feed(ring)
    for held in range(1, 4):
        feed.add()
        assert bool(ring.replay.can_sample(ring.state)) == (held == 3)


def test_episodes_longer_than_the_ring_and_than_int32():
    ring = Ring(7, 3, 3, cross_episodes=False)
    feed = Feed(ring)
    for _ in range(30):
        feed.add()
    np.testing.assert_array_equal(np.sort(ring.state.age[:, 0]), np.arange(23, 30))
    ring.state = ring.state._replace(age=jnp.full((7, 3), 2**31 - 2, jnp.int32))
    for _ in range(9):
        feed.add()
    np.testing.assert_array_equal(ring.state.age, np.full((7, 3), 2**31 - 1))
    assert check_each(feed, ring.sample()) == feed.valid()


def test_a_ring_may_begin_in_the_middle_of_an_episode():
    ring = Ring(7, 3, 3, cross_episodes=False)
    feed = Feed(ring)
    feed.ended, feed.episode = [False] * 3, [0] * 3
    for held in range(1, 4):
        feed.add()
        assert ring.state.age[held - 1].tolist() == [held - 1] * 3
        assert bool(ring.replay.can_sample(ring.state)) == (held == 3)
    assert check_each(feed, ring.sample()) == feed.valid()


def test_counters_stay_within_the_ring():
    ring = Ring()
    feed = Feed(ring)
    for row in range(25):
        assert int(ring.state.position) == row % 7 and int(ring.state.filled) == min(row, 7)
        feed.add()
    assert ring.state.position.dtype == ring.state.filled.dtype == ring.state.age.dtype == np.int32


def test_a_reset_entry_is_stored_with_zero_action_and_reward():
    ring = Ring()
    feed = Feed(ring)
    feed.add(ends=[1])  # Feed hands over nonzero ones
    assert not ring.state.entries.action.any() and not ring.state.entries.reward.any()
    feed.add()
    assert ring.state.entries.reward[1].tolist() == [2, 0, 4]
    assert ring.state.entries.action[1].any(-1).tolist() == [True, False, True]


def test_close_ends_the_newest_entry_only():
    ring = Ring()
    feed = Feed(ring)
    empty = ring.replay.close(ring.state, np.ones(3, bool))
    assert not empty.entries.is_last.any()
    ring.state = empty
    for _ in range(7):  # the newest row is the ring's last, the next one goes to its first
        feed.add()
    before = jax.tree.map(np.array, ring.state)
    ring.close(feed, [1])
    ring.close(feed, [])
    wanted = np.zeros((7, 3), bool)
    wanted[6, 1] = True
    np.testing.assert_array_equal(ring.state.entries.is_last, wanted)
    rest = ring.state._replace(entries=ring.state.entries._replace(is_last=before.entries.is_last))
    jax.tree.map(np.testing.assert_array_equal, rest, before)
    ring.close(feed, [0])
    assert ring.state.entries.is_last[6].tolist() == [True, True, False]
    for mask in (np.ones(2, bool), np.ones(3, np.int32)):
        with pytest.raises(ValueError, match=r"mask: expected bool \(3,\)"):
            ring.replay.close(ring.state, mask)


def test_dtypes_and_shapes_are_the_environments():
    ring = Ring(7, 3, 3)
    Feed(ring).add_many(5)
    for batch, lead in ((ring.state.entries, (7, 3)), (ring.sample(), (3, 300))):
        for key, item in SPEC.obs.items():
            assert batch.obs[key].dtype == item.dtype and batch.obs[key].shape == lead + item.shape
        assert batch.action.dtype == batch.reward.dtype == np.float32 and batch.action.shape == (*lead, 5)
        assert batch.is_first.dtype == batch.is_last.dtype == batch.is_terminal.dtype == bool


def test_refuses_rows_of_another_kind_when_traced():
    ring = Ring()
    feed = Feed(ring)
    obs = {key: np.zeros((3, *item.shape), item.dtype) for key, item in SPEC.obs.items()}
    flags = np.zeros(3, bool)
    good, action = Timestep(obs, np.zeros(3, np.float32), flags, flags, flags), np.zeros((3, 5), np.float32)

    def refuse(match, timestep=good, action=action):
        with pytest.raises(ValueError, match=match):
            ring.replay.add(ring.state, timestep, action)

    refuse("obs/image: expected dtype uint8", good._replace(obs=obs | {"image": np.zeros((3, 2, 2, 1), np.float32)}))
    refuse("obs/tag: expected shape", good._replace(obs=obs | {"tag": np.zeros((3, 3), np.float32)}))
    refuse("observation keys", good._replace(obs={"tag": obs["tag"]}))
    refuse("is_first: expected dtype bool", good._replace(is_first=np.zeros(3, np.int32)))
    refuse("action: expected shape", action=action[:, :4])
    refuse("reward: expected shape", good._replace(reward=np.zeros((3, 1), np.float32)))
    feed.add()  # the state is still usable: nothing was donated


# ---- programs --------------------------------------------------------------------------------------------------------


def rows_of(spec, *lead, is_first=False):
    """Rows [*lead, ...] of random content, on the device."""
    rng = np.random.default_rng(0)
    obs = {k: jnp.asarray(rng.integers(0, 200, (*lead, *s.shape)).astype(s.dtype)) for k, s in spec.obs.items()}
    first = jnp.asarray(rng.random(lead) < 0.2) | is_first
    timestep = Timestep(obs, jnp.asarray(rng.normal(size=lead), jnp.float32), first, ~first, jnp.zeros(lead, bool))
    return timestep, jnp.asarray(rng.normal(size=(*lead, spec.action.size)), jnp.float32)


def add_all(replay, state, rows):
    return jax.lax.scan(lambda state, row: (replay.add(state, *row), None), state, rows)[0]


def collect_and_learn(replay, state, rows):
    """As a training loop does: add every step, and every other step sample, where there is something to sample."""

    def step(carry, row):
        state, seen, index = carry
        state = replay.add(state, *row)
        state = replay.close(state, state.entries.is_first[0])
        due = (index % 2 == 0) & replay.can_sample(state)

        def learn(seen):
            return seen + replay.sample(state, jax.random.fold_in(KEY, index)).obs["image"].astype(jnp.float32).sum()

        return (state, jax.lax.cond(due, learn, lambda seen: seen, seen), index + 1), None

    return jax.lax.scan(step, (state, jnp.float32(0), 0), rows)[0][:2]


@pytest.mark.parametrize("program", ["add", "close", "scan", "vmapped scan", "scan of vmapped", "loop", "vmapped loop"])
def test_the_ring_exists_once_in_every_compiled_program(program):
    lanes, seeds, steps = 4, 3, 5
    replay = make_device_replay(IMAGE, capacity=8000, lanes=lanes, length=5, batch_size=2, cross_episodes=False)
    mapped = "vmapped" in program
    lead = (seeds,) if mapped else ()
    state = jax.eval_shape(replay.init)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), state)
    one, many = rows_of(IMAGE, lanes), rows_of(IMAGE, *lead, steps, lanes)
    across = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), many) if mapped else None
    scan, loop = functools.partial(add_all, replay), functools.partial(collect_and_learn, replay)
    function, args = {
        "add": (replay.add, one),
        "close": (replay.close, (jnp.ones(lanes, bool),)),
        "scan": (scan, (many,)),
        "vmapped scan": (jax.vmap(scan), (many,)),
        "scan of vmapped": (functools.partial(add_all, replay._replace(add=jax.vmap(replay.add))), (across,)),
        "loop": (loop, (many,)),
        "vmapped loop": (jax.vmap(loop), (many,)),
    }[program]
    memory = jax.jit(function, donate_argnums=0).lower(state, *args).compile().memory_analysis()
    ring = replay.size.nbytes * (seeds if mapped else 1)
    assert memory.alias_size_in_bytes >= ring  # what goes in comes out
    assert memory.temp_size_in_bytes < ring / 20  # and no other place would hold a second one
    assert memory.output_size_in_bytes < 1.01 * ring


def test_adding_costs_the_same_whatever_the_capacity():
    """A row of a ring 1,000 times as large: about as fast, where a pass over the ring would take 1,000 times as long."""

    def fastest(rows):
        replay = compiled(rows, 4, 5, 2, False, SPEC)
        state, row, best = replay.init(), rows_of(SPEC, 4), float("inf")
        for _ in range(50):
            began = time.perf_counter()
            state = jax.block_until_ready(replay.add(state, *row))
            best = min(best, time.perf_counter() - began)
        return best

    assert fastest(200_000) < 10 * fastest(200)


def test_memory_is_flat_once_the_ring_is_full():
    replay = compiled(20, 4, 5, 2, False, IMAGE)
    state, rows, key = replay.init(), rows_of(IMAGE, 4), KEY
    live = []
    for index in range(60):
        state = replay.add(state, *rows)
        key, sample_key = jax.random.split(key)
        batch = replay.sample(state, sample_key)
        del sample_key, batch
        live.append(sum(array.nbytes for array in jax.live_arrays()))
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == replay.size.nbytes + 16, index
    assert len(set(live[20:])) == 1


@pytest.mark.parametrize("cross", [True, False])
def test_vmapped_seeds_are_single_rings_side_by_side(cross):
    seeds, steps, lanes = 3, 11, 3
    replay = compiled(7, lanes, 3, 300, cross)
    rows = rows_of(SPEC, seeds, steps, lanes)
    keys, mask = jax.random.split(KEY, seeds), jnp.asarray(np.random.default_rng(1).random((seeds, lanes)) < 0.5)

    def run(rows, key, mask):
        state = replay.close(add_all(replay, replay.init(), rows), mask)
        return state, replay.can_sample(state), replay.sample(state, key)

    together = jax.jit(jax.vmap(run))(rows, keys, mask)
    for seed in range(seeds):
        state = replay.init()
        for step in range(steps):
            state = replay.add(state, *jax.tree.map(lambda x, s=seed, t=step: x[s, t], rows))
        state = replay.close(state, mask[seed])
        alone = state, replay.can_sample(state), replay.sample(state, keys[seed])
        jax.tree.map(lambda x, y, s=seed: np.testing.assert_array_equal(x[s], y), together, alone)
    assert len({np.asarray(together[2].reward[seed]).tobytes() for seed in range(seeds)}) == seeds


def test_one_compilation_no_transfers_and_strict_types():
    replay = make_device_replay(SPEC, capacity=21, lanes=3, length=3, batch_size=4, cross_episodes=False)
    traced = []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, timestep, action, key):
        traced.append(1)
        state = replay.close(replay.add(state, timestep, action), timestep.is_last)
        return state, replay.can_sample(state), replay.sample(state, key)

    rows, state = rows_of(SPEC, 3), jax.jit(replay.init)()
    with (
        jax.transfer_guard("disallow"),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        for _ in range(20):
            state, _, _ = step(state, *rows, KEY)
    assert len(traced) == 1


# ---- size ------------------------------------------------------------------------------------------------------------


def make(capacity, **more):
    sizes = {"lanes": 4, "length": 10, "batch_size": 16, "cross_episodes": True}
    return make_device_replay(IMAGE, **(sizes | {"capacity": capacity} | more))


def test_size_is_told_and_true():
    replay = make(1003, lanes=2)
    truth = 1002 * (64 * 64 * 3 + 4 * 4 + 6 * 4 + 4 + 3 + 4)
    assert replay.size.rows == 501 and replay.size.nbytes == truth
    shapes = jax.tree.leaves(jax.eval_shape(replay.init))
    assert sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes) == truth + 4 * 4
    line = replay.size.describe()
    assert "1,002 entries (501 x 2 environments)" in line and "12.4 MB of host memory" in line and "obs/image" in line
    line = make(1003, lanes=2, copies=4).size.describe()
    assert "1,002 entries" in line and "each of 4 seeds" in line
    assert "take 49.5 MB" in line and "obs/image 49.3 MB" in line


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("where", ["cpu", "gpu"])
def test_refuses_what_does_not_fit(monkeypatch, where, copies):
    stats = {"bytes_limit": 10_000_000, "bytes_in_use": 5} if where == "gpu" else None
    fake = types.SimpleNamespace(platform=where, device_kind="Some GPU", memory_stats=lambda: stats)
    monkeypatch.setattr(device.jax, "local_devices", lambda: [fake])
    monkeypatch.setattr(device, "available_memory", lambda: 10_000_000 if where == "cpu" else 10**15)
    with pytest.raises(ReplayTooLarge, match=r"GB of .*has 10 MB available.*80%.*replay.capacity to (\d+)") as caught:
        make(1_000_000, copies=copies)
    assert isinstance(caught.value, MemoryError) and isinstance(caught.value, ConfigError)
    assert ("Some GPU memory" in str(caught.value)) == (where == "gpu")
    fits = int(str(caught.value).split("replay.capacity to ")[1].split()[0])
    replay = make(fits, copies=copies)
    assert 0.7 * 10_000_000 < replay.size.nbytes * copies <= 8_000_000
    with pytest.raises(ReplayTooLarge):
        make(fits + 4, copies=copies)
    make(fits // 2 - 2, copies=copies, memory_fraction=0.4)
    with pytest.raises(ReplayTooLarge):
        make(fits // 2 + 8, copies=copies, memory_fraction=0.4)


def test_a_device_that_does_not_tell_its_memory_is_left_to_refuse_by_itself(monkeypatch):
    fake = types.SimpleNamespace(platform="other", device_kind="Other", memory_stats=lambda: None)
    monkeypatch.setattr(device.jax, "local_devices", lambda: [fake])
    assert "TB of Other memory" in make(500_000_000).size.describe()


def test_refuses_rings_too_short_or_too_long(monkeypatch):
    with pytest.raises(ConfigError, match=r"replay.capacity 39 leaves 9 entries.*at least 40"):
        make(39)
    make(40)
    monkeypatch.setattr(device, "available_memory", lambda: 10**18)
    make(2**30)
    with pytest.raises(ConfigError, match="at most 1073741824 entries"):
        make(2**30 + 4)


@pytest.mark.parametrize("count", [0, 4, 9])  # nothing, not full, full and turned over
def test_the_filled_rows_are_all_that_has_to_be_kept(count):
    ring = Ring(rows=7)
    feed = Feed(ring)
    feed.add_many(count)
    kept = device.cut(ring.state, int(ring.state.filled))
    assert len(kept.age) == len(kept.entries.reward) == min(count, 7)
    whole = device.grow(kept, 7)
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(ring.state), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
