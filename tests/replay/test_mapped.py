"""A ring in files: the samples of one in memory, and what a killed run finds again."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from jaxdreamer.data.episodes import split
from jaxdreamer.replay import disk
from jaxdreamer.replay.layout import ReplayTooLarge
from jaxdreamer.replay.mapped import MappedRing
from jaxdreamer.saving import StorageError
from jaxdreamer.types import flatten
from tests.replay.feed import SPEC, Feed, content_hash, make
from tests.replay.test_disk import assert_equal, through_json


def mapped(folder, slack=5, **more):
    return make(mapped=MappedRing(folder, slack), **more)


@pytest.mark.parametrize("cross", [True, False])
def test_its_samples_are_those_of_a_ring_in_memory(tmp_path, cross):
    options = {"cross_episodes": cross, "guard": 2, "kept": {"latent": ((2,), np.dtype(np.float32))}}
    one, two = make(**options), mapped(tmp_path, **options)
    feeds = []
    for replay in (one, two):
        add = replay.add
        latent = {"latent": np.full((2, 2), 7, np.float32)}
        replay.add = lambda timestep, action, add=add, latent=latent: add(timestep, action, latent)
        feeds.append(Feed(replay))
    for count in (4, 9, 30):  # the ring has 12 rows
        for feed in feeds:
            feed.add_many(count)
        if one.can_sample:
            draws = [replay.sample_indices(np.random.default_rng(3), 50) for replay in (one, two)]
            np.testing.assert_array_equal(np.stack(draws[0]), np.stack(draws[1]))
            batches = [replay.gather(found, 5) for replay, found in zip((one, two), draws)]
            for name, array in flatten(batches[0]).items():
                np.testing.assert_array_equal(array, flatten(batches[1])[name], strict=True)
        assert content_hash(one) == content_hash(two) and one.valid_starts == two.valid_starts


def test_a_killed_run_finds_the_rows_of_its_checkpoint_and_saving_copies_none(tmp_path):
    """Rows that it wrote later are not seen, nor an end that it gave to the newest episode."""
    replay, memory = mapped(tmp_path), make()
    feed, other = Feed(replay), Feed(memory)
    for one in (feed, other):
        one.add_many(31)
    before = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    manifest = through_json(disk.save(replay, tmp_path))
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == before
    assert all(name.startswith("ring-") for name in before) and not manifest["chunks"]
    replay.close_episode(0)
    feed.ended[0] = True
    feed.add_many(5)  # as many as there is slack
    again = mapped(tmp_path, slack=9)  # another cadence of checkpoints does not matter
    assert disk.problems(tmp_path, manifest) == []
    assert disk.load(again, tmp_path, manifest) == []
    assert_equal(again, memory)
    later = Feed(again)
    later.lanes = [list(entries) for entries in other.lanes]
    later.ended, later.episode = list(other.ended), list(other.episode)
    for one in (later, other):
        one.add_many(9)
    assert_equal(again, memory)


def test_what_was_overwritten_or_is_gone_is_told_and_can_be_done_without(tmp_path):
    replay = mapped(tmp_path, slack=2)
    feed = Feed(replay)
    feed.add_many(31)
    manifest = through_json(disk.save(replay, tmp_path))
    feed.add_many(4)
    again = mapped(tmp_path)
    with pytest.raises(disk.ReplayDamaged, match="rows 19 to 20 of the replay were overwritten since"):
        disk.load(again, tmp_path, manifest)
    assert "rows 19 to 20" in disk.load(again, tmp_path, manifest, drop_damaged=True)[0]
    assert (again.oldest, again.total) == (21, 31)
    Feed(again).check(again.gather(again.sample_indices(np.random.default_rng(0), 0)), ([], []))
    (tmp_path / "ring-reward.bin").unlink()
    again = mapped(tmp_path)
    with pytest.raises(disk.ReplayDamaged, match=r"ring-reward\.bin is missing"):
        disk.load(again, tmp_path, manifest)
    assert disk.load(again, tmp_path, manifest, drop_damaged=True) and not again.rows
    Feed(again).add_many(3)
    assert again.rows == 3


def test_who_only_reads_it_changes_nothing(tmp_path):
    replay = mapped(tmp_path)
    feed = Feed(replay)
    feed.add_many(31)
    manifest = through_json(disk.save(replay, tmp_path))
    bytes_before = (tmp_path / "ring-is_last.bin").read_bytes()
    reader = make(mapped=MappedRing(tmp_path, reader=True))
    disk.load(reader, tmp_path, manifest)
    reader.close_episode(0)
    assert content_hash(reader) != content_hash(replay) and reader.oldest == replay.oldest
    assert (tmp_path / "ring-is_last.bin").read_bytes() == bytes_before


def test_its_episodes_are_exported_as_those_in_memory(tmp_path):
    found = []
    for name, replay in {"files": mapped(tmp_path / "files"), "memory": make()}.items():
        (tmp_path / name).mkdir(exist_ok=True)
        Feed(replay).add_many(40)
        manifest = json.loads(json.dumps(disk.save(replay, tmp_path / name)))
        found.append(list(split(disk.blocks(tmp_path / name, manifest, SPEC), SPEC.layout)))
    assert len(found[0]) == len(found[1]) > 2
    for one, two in zip(*found):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], strict=True)


def test_room_that_the_disk_does_not_have_is_refused_at_the_start(tmp_path, monkeypatch):
    assert "on disk, in " in mapped(tmp_path).size.brief() and not list(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ReplayTooLarge, match=r"on disk, in .* but the disk has 1 kB available"):
        mapped(tmp_path)
    monkeypatch.undo()
    replay = mapped(tmp_path)

    def full(handle, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(StorageError, match="the disk is full"):
        Feed(replay).add_many(1)
