import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.replay import disk
from jaxdreamer.types import ActionPart, ActionSpec, EnvSpec
from tests.replay.feed import SPEC, Feed, make


def through_json(manifest):
    return json.loads(json.dumps(manifest))


def loaded(folder, manifest, **more):
    other = make(**more)
    disk.load(other, folder, through_json(manifest))
    return other


def assert_equal(one, two):
    assert one.content_hash() == two.content_hash()
    assert one.state() == two.state()
    assert one.valid_starts == two.valid_starts
    for lane in range(one.lanes):
        a, b = one.lane_episode(lane), two.lane_episode(lane)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)
    if one.can_sample:
        a, b = (replay.sample_indices(np.random.default_rng(0), 20) for replay in (one, two))
        np.testing.assert_array_equal(a.start, b.start)
        np.testing.assert_array_equal(one.gather(a).obs["tag"], two.gather(b).obs["tag"])


@settings(max_examples=40, deadline=None)
@given(
    adds=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    every=st.integers(2, 9),
    cross=st.booleans(),
    chunk=st.sampled_from([1, 200, 10_000]),
    guard=st.integers(0, 2),
)
def test_saved_step_by_step_and_loaded_is_the_same(tmp_path_factory, adds, every, cross, chunk, guard):
    folder = tmp_path_factory.mktemp("replay")
    replay = make(cross_episodes=cross, guard=guard)
    feed, manifest = Feed(replay), None
    for count in adds:
        feed.add_many(count, every)
        manifest = disk.save(replay, folder, manifest and through_json(manifest), chunk_bytes=chunk)
        other = loaded(folder, manifest, cross_episodes=cross, guard=guard)
        assert_equal(replay, other)
        disk.prune(folder, [manifest])
        assert disk.problems(folder, manifest) == []
        assert sorted(path.name for path in folder.iterdir()) == sorted(c["file"] for c in manifest["chunks"])
        assert len(manifest["chunks"]) <= replay.rows_max
    # The loaded one goes on exactly as the first would have.
    later = Feed(other)
    later.lanes = [list(entries) for entries in feed.lanes]
    later.ended, later.episode = list(feed.ended), list(feed.episode)
    feed.add_many(9, every)
    later.add_many(9, every)
    assert_equal(replay, other)


def test_writes_only_what_is_new_in_bounded_chunks(tmp_path):
    replay = make(400, 2)
    feed = Feed(replay)
    feed.add_many(50)
    first = disk.save(replay, tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert [(c["start"], c["stop"]) for c in first["chunks"]] == [(0, 50)]
    assert disk.save(replay, tmp_path, first)["chunks"] == first["chunks"]
    feed.add_many(30)
    second = disk.save(replay, tmp_path, first, chunk_bytes=20 * replay.nbytes // replay.rows_max)
    assert [(c["start"], c["stop"]) for c in second["chunks"]] == [(0, 50), (50, 70), (70, 80)]
    assert all((tmp_path / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    feed.add_many(175)  # the first chunk is overwritten in the ring, the second in part
    third = disk.save(replay, tmp_path, second)
    assert third["chunks"][:2] == second["chunks"][1:]
    assert_equal(replay, loaded(tmp_path, third, capacity=400))
    assert (tmp_path / first["chunks"][0]["file"]).exists()  # the older checkpoint still needs it
    assert disk.problems(tmp_path, second) == []
    removed = disk.prune(tmp_path, [third])
    assert removed == [first["chunks"][0]["file"]]


def test_what_a_killed_run_wrote_later_is_not_seen(tmp_path):
    replay = make()
    feed = Feed(replay)
    feed.add_many(8)
    manifest = disk.save(replay, tmp_path)
    content = replay.content_hash()
    feed.add_many(9)
    disk.save(replay, tmp_path, manifest)
    (tmp_path / "chunk-000000000030-000000000040.npz.77.tmp").write_bytes(b"half")
    assert loaded(tmp_path, manifest).content_hash() == content
    assert len(disk.prune(tmp_path, [manifest])) == 2


def test_a_missing_chunk_is_written_again(tmp_path):
    replay = make()
    feed = Feed(replay)
    feed.add_many(4)
    first = disk.save(replay, tmp_path)
    feed.add_many(4)
    second = disk.save(replay, tmp_path, first)
    (tmp_path / first["chunks"][0]["file"]).write_bytes(b"short")
    third = disk.save(replay, tmp_path, second)
    assert_equal(replay, loaded(tmp_path, third))


def test_an_episode_closed_after_its_row_was_saved(tmp_path):
    replay = make(cross_episodes=False)
    feed = Feed(replay)
    feed.add_many(7, every=50)
    first = disk.save(replay, tmp_path)
    before = replay.content_hash()
    replay.close_episode(1)
    second = disk.save(replay, tmp_path, first)
    assert second["chunks"] == first["chunks"]
    other = loaded(tmp_path, second, cross_episodes=False)
    assert_equal(replay, other)
    assert other.last_row()[0].is_last.tolist() == [False, True]
    third = disk.save(other, tmp_path, through_json(second))  # and the amendment survives the next resume
    assert_equal(replay, loaded(tmp_path, third, cross_episodes=False))
    assert loaded(tmp_path, first, cross_episodes=False).content_hash() == before


@pytest.mark.parametrize("capacity", [12, 24, 80])
def test_another_capacity_takes_what_fits(tmp_path, capacity):
    replay = make(24, 2)
    feed = Feed(replay)
    feed.add_many(30)
    manifest = disk.save(replay, tmp_path)
    other = loaded(tmp_path, manifest, capacity=capacity)
    assert other.total == 30 and other.rows == min(capacity // 2, 12)
    indices = other.sample_indices(np.random.default_rng(0), 300)
    feed.check(other.gather(indices), indices)
    assert indices.start.min() == other.oldest
    with pytest.raises(LookupError):
        other.gather(indices._replace(start=np.full(300, other.oldest - 1)))
    manifest = disk.save(other, tmp_path, manifest)
    assert_equal(other, loaded(tmp_path, manifest, capacity=capacity))


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damage_is_found_and_named(tmp_path, damage):
    replay = make()
    Feed(replay).add_many(8)
    manifest = disk.save(replay, tmp_path)
    path = tmp_path / manifest["chunks"][0]["file"]
    data = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(data[:-5])
    elif damage == "flip":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    else:
        path.unlink()
    with pytest.raises(disk.ReplayDamaged, match=path.name):
        loaded(tmp_path, manifest)
    assert path.name in disk.problems(tmp_path, manifest)[0]


def test_another_environment_is_refused(tmp_path):
    replay = make()
    Feed(replay).add_many(8)
    manifest = disk.save(replay, tmp_path)
    with pytest.raises(disk.ReplayDamaged, match=r"env\.num_envs=2"):
        loaded(tmp_path, manifest, lanes=1)
    with pytest.raises(disk.ReplayDamaged, match="another environment"):
        loaded(tmp_path, manifest, spec=EnvSpec(SPEC.obs, ActionSpec((ActionPart("continuous", 5),))))


def test_an_empty_replay(tmp_path):
    manifest = disk.save(make(), tmp_path)
    assert manifest["chunks"] == []
    assert loaded(tmp_path, manifest).total == 0
