"""A replay's rows as episodes, and what others recorded: as a plain loop over entries has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.data.episodes import DataError, check_episode, split
from jaxdreamer.replay import disk
from tests.replay.feed import SPEC, Feed, make

LAYOUT = list(SPEC.layout)


def by_hand(feed, oldest):
    """Whole episodes of the entries that a ring still holds, from the lists of a feed."""
    found = []
    for entries in feed.lanes:
        episode = []
        for entry in entries[oldest:]:
            if entry["is_first"] and episode:
                found.append(episode)
                episode = []
            episode.append(entry)
        found.append(episode)
    return sorted(
        ([entry["row"] for entry in one], one[0]["obs"]["tag"][1], one[-1]["is_terminal"])
        for one in found
        if len(one) > 1
    )


@settings(max_examples=15, deadline=None)
@given(
    adds=st.lists(st.integers(1, 20), min_size=1, max_size=4), every=st.integers(1, 9), chunk=st.sampled_from([1, 500])
)
def test_rows_that_were_saved_come_back_as_whole_episodes(tmp_path_factory, adds, every, chunk):
    folder = tmp_path_factory.mktemp("replay")
    replay = make(kept={"latent": ((2,), np.dtype(np.float32))})  # 12 rows of two lanes
    feed, manifest = Feed(replay), None
    add = replay.add
    replay.add = lambda timestep, action: add(timestep, action, {"latent": np.ones((2, 2), np.float32)})
    for count in adds:
        feed.add_many(count, every)
        manifest = disk.save(replay, folder, manifest, chunk_bytes=chunk)
    episodes = list(split(disk.blocks(folder, manifest, SPEC), LAYOUT))
    seen = [(one["obs/tag"][:, 0].tolist(), one["obs/tag"][0, 1], one["is_terminal"][-1]) for one in episodes]
    assert sorted(seen) == by_hand(feed, replay.oldest)
    for episode in episodes:
        assert list(episode) == LAYOUT
        lane = feed.lanes[int(episode["obs/tag"][0, 1])]
        entries = [lane[int(row)] for row in episode["obs/tag"][:, 0]]
        np.testing.assert_array_equal(episode["is_first"], np.arange(len(entries)) == 0)
        np.testing.assert_array_equal(episode["is_last"], np.arange(len(entries)) == len(entries) - 1)
        assert not episode["action"][0].any() and episode["reward"][0] == 0
        for name in ("action", "reward"):
            np.testing.assert_array_equal(episode[name][1:], [entry[name] for entry in entries[1:]])
        for key in SPEC.obs:
            np.testing.assert_array_equal(episode[f"obs/{key}"], [entry["obs"][key] for entry in entries])


def good():
    return {
        "obs/image": np.zeros((3, 2, 2, 1), np.uint8),
        "obs/tag": np.zeros((3, 2)),
        "obs/choice": np.array([0, 7, 299]),
        "action": np.array([[9, 9, 9, 9, 9], [-1, 0.5, 1, 0, 0], [1, 0, 0, 0, 1]]),
        "reward": np.array([5.0, 1, 2]),
        "is_terminal": np.array([False, False, True]),
    }


def test_what_others_recorded_gets_the_dtypes_and_ends_of_an_episode():
    episode = check_episode(good() | {"surplus": np.zeros(9)}, SPEC, "a.npz")
    assert {name: value.dtype for name, value in episode.items()} == {n: d for n, (_, d) in SPEC.layout.items()}
    assert episode["is_first"].tolist() == [True, False, False] and episode["is_last"].tolist() == [False, False, True]
    assert not episode["action"][0].any() and episode["reward"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": None}, "a.npz has no 'reward'; it has action, is_terminal, obs/choice"),
        ({"reward": np.zeros(1)}, "a.npz has 1 entries"),
        ({"reward": np.zeros(4)}, r"a.npz, obs/image: expected the shape \(4, 2, 2, 1\), found \(3, 2, 2, 1\)"),
        ({"obs/tag": np.zeros((3, 3))}, r"obs/tag: expected the shape \(3, 2\), found \(3, 3\)"),
        ({"obs/image": np.zeros((3, 2, 2, 1))}, "obs/image: expected uint8, found float64"),
        ({"obs/tag": np.full((3, 2), np.nan)}, "obs/tag: entry 0 is not finite"),
        ({"reward": np.array([0, 0, 1e39])}, "reward: entry 2 is not finite"),
        ({"obs/choice": np.array([0, 1, 300])}, "obs/choice holds 0 to 300, expected 0 to 299"),
        ({"action": good()["action"] * 1.5}, "action holds -1.5 to 1.5, expected -1 to 1"),
        ({"action": np.zeros((3, 5))}, "action is no choice of 3: expected a single 1 among zeros"),
        ({"is_terminal": np.array([False, True, False])}, "is_terminal is true before the last entry"),
        ({"is_last": np.array([False, True, True])}, "is_last is true amid the episode"),
        ({"is_first": np.array([True, True, False])}, "is_first is true amid the episode"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_by_its_place(change, message):
    values = {name: value for name, value in (good() | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        check_episode(values, SPEC, "a.npz")
