"""The order of stepping and learning on the device, against a slow definition of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.config import RunConfig
from jaxdreamer.train.schedule import Segments


def run_config(**changes):
    return RunConfig(
        **({"prefill": 40, "pretrain": 3, "train_every": 10, "updates": 2, "updates_per_call": 4} | changes)
    )


def by_definition(run, lanes, length, entries):
    """Updates that must be done once ``entries`` entries were stepped, one row at a time; None before learning."""
    prefill = max(run.prefill, length * lanes)
    started = -(-prefill // lanes) * lanes
    if entries < started:
        return None
    done = entries - started
    if lanes <= run.train_every:
        return run.pretrain + done // run.train_every * run.updates
    return run.pretrain + done * run.updates // run.train_every


sizes = st.fixed_dictionaries(
    {
        "prefill": st.integers(0, 60),
        "pretrain": st.integers(0, 9),
        "train_every": st.integers(1, 30),
        "updates": st.integers(1, 13),
        "updates_per_call": st.integers(1, 7),
    }
)


@settings(max_examples=60, deadline=None)
@given(sizes=sizes, lanes=st.integers(1, 40), offline=st.integers(1, 200), cut=st.integers(0, 30))
def test_what_is_given_comes_first_with_its_updates_and_changes_nothing_after_it(sizes, lanes, offline, cut):
    plain, run = Segments(run_config(**sizes), lanes, random=False), run_config(**sizes, offline=offline)
    segments, updates = Segments(run, lanes), 0
    counted = -(-offline // run.train_every) * run.train_every
    for number in range(400):
        if number == cut:
            state = json.loads(json.dumps(segments.state()))
            segments = Segments(run, lanes)
            segments.load(state)
        if segments.entries == counted and not segments.owed:
            break
        segment = segments.next()
        assert not segment.rows and 0 < segment.updates <= run.updates_per_call and not segments.random_next
        updates += segment.updates
        assert updates + segments.owed == segments.entries // run.train_every * run.updates
    else:
        return  # many small calls
    for _ in range(60):
        assert segments.next() == plain.next()
        assert segments.entries == counted + plain.entries and segments.collected == plain.entries


@settings(max_examples=150, deadline=None)
@given(sizes=sizes, lanes=st.integers(1, 40), length=st.integers(1, 8), random=st.booleans(), cut=st.integers(0, 60))
def test_the_train_ratio_is_exact(sizes, lanes, length, random, cut):
    run = run_config(**sizes)
    segments = Segments(run, lanes, length, random)
    entries = updates = 0
    for number in range(120):
        if number == cut:  # saved and loaded in the middle of anything
            state = json.loads(json.dumps(segments.state()))
            segments = Segments(run, lanes, length, random)
            segments.load(state)
        before = by_definition(run, lanes, length, entries)
        owed = 0 if before is None else before - updates
        segment = segments.next()
        assert 0 <= segment.updates <= run.updates_per_call and segment.rows >= 0 and segment.rows + segment.updates > 0
        assert (segment.rows == 0) == (owed > 0)  # what is due is done before the next step
        if owed > 0:
            assert segment.updates == min(owed, run.updates_per_call)
        entries, updates = entries + segment.rows * lanes, updates + segment.updates
        assert segments.entries == entries
        due = by_definition(run, lanes, length, entries)
        if due is None or before is None:  # the prefill, up to its last row
            assert segment.updates == 0 and segment.random == random
            assert entries - segment.rows * lanes < max(run.prefill, length * lanes)
            assert segment.rows * lanes <= max(run.train_every, lanes)
        else:
            assert not segment.random and updates <= due
            assert segments.owed == due - updates
    # The ratio over the whole run, to within one training and what is still owed.
    if started := by_definition(run, lanes, length, entries):
        exact = (entries - segments.started) * run.updates / run.train_every
        assert abs(updates + segments.owed - run.pretrain - exact) <= run.updates, started


@pytest.mark.parametrize(
    ("lanes", "train_every", "updates"), [(3, 10, 2), (64, 50, 25), (7, 7, 1), (64, 1000, 3), (5, 2, 3)]
)
def test_in_the_long_run_the_ratio_is_met(lanes, train_every, updates):
    run = run_config(train_every=train_every, updates=updates, pretrain=0, prefill=lanes)
    segments = Segments(run, lanes)
    done = 0
    while segments.entries < 20_000 or segments.owed:
        done += segments.next().updates
    learned = segments.entries - lanes
    assert abs(done - learned * updates / train_every) <= updates


def test_the_prefill_waits_for_a_whole_sequence_in_every_lane():
    segments = Segments(run_config(prefill=1), lanes=4, length=8)
    while segments.next().random:
        assert segments.started < 0
    assert segments.started == 8 * 4


@pytest.mark.parametrize(("lanes", "call"), [(3, 2), (30, 3), (64, 1)])
def test_calls_of_one_size_are_whole_and_rows_come_one_by_one(lanes, call):
    """As on the host: what is due and no whole call stays due, and the ratio holds."""
    run = run_config(updates=6, pretrain=0, prefill=lanes, updates_per_call=call)
    segments = Segments(run, lanes, call=call)
    done = 0
    for _ in range(3000):
        segment = segments.next()
        assert segment.rows in (0, 1) and segment.updates in (0, call)
        done += segment.updates
    assert abs(done + segments.owed - (segments.entries - segments.started) * 6 / 10) <= 6


def test_too_little_experience_is_waited_for():
    segments = Segments(run_config(), lanes=2, length=4, call=2)
    while not segments.next().updates:
        assert segments.random_next == (segments.entries < 40)
    segments.wait()
    assert segments.owed == 0 and not segments.random_next
    assert segments.next() == (False, 1, 0)
    assert segments.next() == (False, 0, 2) and segments.started == segments.entries  # pretraining again


def test_a_changed_train_ratio_makes_up_for_nothing():
    segments = Segments(run_config(), lanes=2)
    for _ in range(100):
        segments.next()
    state = segments.state()
    for changes in ({"updates": 50}, {"updates": 1}, {"train_every": 1000}, {"train_every": 4}):
        run = run_config(**changes)
        other = Segments(run, lanes=2)
        other.load(state)
        assert other.owed == segments.owed
        start, done = other.entries, -other.owed
        for _ in range(400):
            segment = other.next()
            assert segment.updates >= 0
            done += segment.updates
        assert abs(done + other.owed - (other.entries - start) * run.updates / run.train_every) <= run.updates


def test_longer_sequences_on_resume_are_waited_for():
    segments = Segments(run_config(prefill=8), lanes=2, length=4)
    for _ in range(6):
        segments.next()
    assert segments.started == 8
    other = Segments(run_config(prefill=8), lanes=2, length=40)
    other.load(segments.state())
    while other.entries < 80:
        segment = other.next()
        assert segment.updates == 0 and segment.rows > 0 and not segment.random
    assert any(other.next().updates for _ in range(3))
