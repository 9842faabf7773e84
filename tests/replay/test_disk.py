import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.replay import disk
from jaxdreamer.types import ActionPart, ActionSpec, EnvSpec
from tests.replay.feed import SPEC, Feed, content_hash, make


def through_json(manifest):
    return json.loads(json.dumps(manifest))


def loaded(folder, manifest, **more):
    other = make(**more)
    disk.load(other, folder, through_json(manifest))
    return other


def assert_equal(one, two):
    assert content_hash(one) == content_hash(two)
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
    second = disk.save(replay, tmp_path, first, chunk_bytes=20 * replay.size.nbytes // replay.rows_max)
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
    content = content_hash(replay)
    feed.add_many(9)
    disk.save(replay, tmp_path, manifest)
    (tmp_path / "chunk-000000000030-000000000040-0a0b0c0d.77.tmp").write_bytes(b"half")
    (tmp_path / "chunk-of-wood").mkdir()
    assert content_hash(loaded(tmp_path, manifest)) == content
    assert len(disk.prune(tmp_path, [manifest])) == 3
    assert len(list(tmp_path.iterdir())) == len(manifest["chunks"])


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
    before = content_hash(replay)
    replay.close_episode(1)
    second = disk.save(replay, tmp_path, first)
    assert second["chunks"] == first["chunks"]
    other = loaded(tmp_path, second, cross_episodes=False)
    assert_equal(replay, other)
    assert other.last_row()[0].is_last.tolist() == [False, True]
    third = disk.save(other, tmp_path, through_json(second))  # and the amendment survives the next resume
    assert_equal(replay, loaded(tmp_path, third, cross_episodes=False))
    assert content_hash(loaded(tmp_path, first, cross_episodes=False)) == before


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


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("gone", [[0], [1], [2], [1, 2], [0, 2], [0, 1, 2]])
def test_going_on_without_damaged_chunks(tmp_path, gone, cross):
    """What is left moves together: rows that are gone are never sampled, and no episode lies on both sides of a gap."""
    replay = make(60, 2, cross_episodes=cross)
    feed = Feed(replay)
    feed.add_many(30, every=50)  # one episode over all chunks
    replay.close_episode(0)
    manifest = disk.save(replay, tmp_path, chunk_bytes=10 * replay.size.nbytes // replay.rows_max)
    assert len(manifest["chunks"]) == 3
    for index in gone:
        (tmp_path / manifest["chunks"][index]["file"]).write_bytes(b"?")
    other = make(60, 2, cross_episodes=cross)
    with pytest.raises(disk.ReplayDamaged, match="chunk-"):
        disk.load(other, tmp_path, through_json(manifest))
    told = disk.load(other, tmp_path, through_json(manifest), drop_damaged=True)
    assert len(told) == len(gone) and all("chunk-" in line for line in told)
    kept = [row for row in range(30) if row // 10 not in gone]
    assert other.total == 30 and other.rows == len(kept)
    if not kept:
        return
    rows = other.read_rows(other.oldest, other.total)
    np.testing.assert_array_equal(rows["obs/tag"][:, 0, 0], kept)
    for place, (one, two) in enumerate(pairwise(kept)):
        if two != one + 1:  # a gap
            assert rows["is_last"][place].all() and rows["is_first"][place + 1].all()
            assert not rows["is_terminal"][place].any() and not rows["action"][place + 1].any()
            assert (rows["episode"][place] < rows["episode"][place + 1]).all()
    # Nothing of an episode whose beginning is gone is played again; what ended before did so still.
    assert all(other.lane_episode(lane) is None for lane in range(2)) == bool(gone)
    assert rows["is_last"][-1].all() or 2 not in gone
    if 2 not in gone:
        assert rows["is_last"][-1, 0]
    if cross or gone != [0]:
        sampled = other.gather(other.sample_indices(np.random.default_rng(0), 200)).obs["tag"][..., 0]
        steps = np.diff(sampled, axis=0)
        assert set(np.unique(sampled)) <= set(kept) and (cross or (steps == 1).all())
    again = disk.save(other, tmp_path)  # as rows with new numbers, in files of their own
    assert not {c["file"] for c in again["chunks"]} & {c["file"] for c in manifest["chunks"]} or gone == [0]
    assert content_hash(loaded(tmp_path, again, capacity=60, cross_episodes=cross)) == content_hash(other)


def test_chunks_that_do_not_join_are_refused(tmp_path):
    replay = make()
    Feed(replay).add_many(9)
    manifest = disk.save(replay, tmp_path, chunk_bytes=3 * replay.size.nbytes // replay.rows_max)
    for missing in range(3):
        chunks = [chunk for index, chunk in enumerate(manifest["chunks"]) if index != missing]
        with pytest.raises(disk.ReplayDamaged, match="leave rows"):
            loaded(tmp_path, manifest | {"chunks": chunks})
    longer = [manifest["chunks"][0] | {"stop": 4}, *manifest["chunks"][1:]]
    with pytest.raises(disk.ReplayDamaged, match="overlap"):
        loaded(tmp_path, manifest | {"chunks": longer})
    # A checksum is no proof of meaning: the bytes must be the rows they are said to be.
    assert manifest["chunks"][2]["stop"] == 9
    shorter = [*manifest["chunks"][:2], manifest["chunks"][2] | {"stop": 8}]
    with pytest.raises(disk.ReplayDamaged, match="rows of this environment take"):
        loaded(tmp_path, manifest | {"chunks": shorter, "state": manifest["state"] | {"total": 8}})


def test_an_empty_replay(tmp_path):
    manifest = disk.save(make(), tmp_path)
    assert manifest["chunks"] == []
    assert loaded(tmp_path, manifest).total == 0
