"""Lanes of functional environments against lanes in plain Python, and what must never happen to an episode."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.device.functional import FunctionalEnv, make_lanes
from jaxdreamer.envs.device.hosted import _compiled
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec
from tests.envs.device.lane_oracle import SlowLane, rollout

ACTIONS = 3


@functools.cache
def played(lanes, steps, seed=0):
    """Entries of all lanes [steps, B, ...] under random choices, in one scan: (timestep, choices, broken, states)."""
    choices = np.random.default_rng(seed).integers(ACTIONS, size=(steps, lanes.num_envs))

    timestep, broken, states = rollout(lanes, jax.random.key(seed), np.eye(ACTIONS, dtype=np.float32)[choices])
    return jax.tree.map(np.asarray, timestep), choices, np.asarray(broken), states


CASES = {
    "plain": {},
    "termination inside a repeat": {"terminate_at": 5, "action_repeat": 3},
    "its own limit inside a repeat": {"time_limit": 7, "action_repeat": 4},
    "limit in agent steps": {"limit": 4, "action_repeat": 2},
    "its own limit comes first": {"limit": 9, "time_limit": 6},
    "failure and limit at once": {"terminate_at": 6, "limit": 3, "action_repeat": 2},
    "failure and its own limit at once": {"terminate_at": 6, "time_limit": 6},
    "the step before the limit": {"terminate_at": 5, "limit": 6},
    "no limit at all": {"time_limit": 0},
    "one step": {"terminate_at": 1},
    "breaks at once": {"break_at": 1, "action_repeat": 2},
    "breaks inside a repeat": {"break_at": 5, "action_repeat": 3},
    "breaks as it would end": {"break_at": 6, "terminate_at": 6},
    "ends before it would break": {"break_at": 6, "terminate_at": 5, "action_repeat": 3},
}


@pytest.mark.parametrize("name", CASES)
def test_lanes_equal_lanes_in_plain_python(name):
    case = dict(CASES[name])
    repeat, limit = case.pop("action_repeat", 1), case.pop("limit", 0)
    env = pure.counting(**case)
    lanes = make_lanes(env, 2, action_repeat=repeat, time_limit=limit)
    timestep, choices, broken, _ = played(lanes, 30)
    for lane in range(2):
        slow = SlowLane(
            repeat=repeat,
            limit=limit,
            own_limit=env.time_limit,
            ends_at=case.get("terminate_at", 0),
            breaks_at=case.get("break_at", 0),
        )
        expected = [slow.advance(choice) for choice in choices[:, lane]]
        shown = timestep.obs["state"][:, lane]
        columns = (*shown[:, 1:].T, timestep.reward, timestep.is_first, timestep.is_last, timestep.is_terminal, broken)
        for found, wanted in zip(columns, zip(*expected)):
            np.testing.assert_array_equal(found if found.ndim == 1 else found[:, lane], wanted)
    assert timestep.reward.dtype == np.float32 and timestep.is_terminal.dtype == bool


def test_a_sequence_by_hand():
    """Ends at simulator step 5, two a step: entries at times 0, 2, 4, 5; the last one's reward is step 5's alone."""
    timestep, choices, _, _ = played(make_lanes(pure.counting(terminate_at=5), 1, action_repeat=2), 9)
    assert timestep.obs["state"][:, 0, 1].tolist() == [0, 2, 4, 5, 0, 2, 4, 5, 0]
    assert timestep.reward[:, 0].tolist() == [0, 1 + 2, 3 + 4, 5, 0, 1 + 2, 3 + 4, 5, 0]
    assert timestep.is_first[:, 0].astype(int).tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert timestep.is_last[:, 0].astype(int).tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert timestep.is_terminal[:, 0].astype(int).tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    acted = [-1 if first else choice for first, choice in zip(timestep.is_first[:, 0], choices[:, 0])]
    assert timestep.obs["state"][:, 0, 2].tolist() == acted


def keys_used(states):
    return {tuple(pair) for pair in np.asarray(jax.random.key_data(states.key)).reshape(-1, 2).tolist()}


@pytest.mark.parametrize("task", ["counting", "pendulum"])
def test_every_reset_is_a_fresh_start(task):
    env = pure.counting(time_limit=3) if task == "counting" else pure.pendulum()
    lanes = make_lanes(env, 64, time_limit=3)

    def advance(state, _):
        state, timestep, _ = lanes.step(state, jnp.zeros((64, env.spec.action.size)))
        return state, (timestep, state)

    play = jax.jit(lambda key: jax.lax.scan(advance, lanes.init(key), None, 12)[1])
    timestep, states = play(jax.random.key(0))
    first = np.asarray(timestep.obs["state"])[np.asarray(timestep.is_first)]
    assert len(first) == 192 and np.asarray(timestep.is_first).sum(0).tolist() == [3] * 64
    assert len({tuple(row) for row in first.tolist()}) == 192
    assert len(keys_used(states)) == 192  # a lane's key changes with each reset, and only then
    again, _ = play(jax.random.key(0))
    other, _ = play(jax.random.key(1))
    np.testing.assert_array_equal(again.obs["state"], timestep.obs["state"])
    assert not np.isin(np.asarray(other.obs["state"])[0, :, 0], np.asarray(timestep.obs["state"])[0, :, 0]).any()


class Fragile(NamedTuple):
    """A task whose episodes know how they will fail."""

    key: jax.Array  # typed: states may hold keys
    time: jax.Array
    fate: jax.Array  # 0 lives, 1 its reset is nan, 2 its observation, 3 its reward, 4 its state at step 2


def fragile(fates=(0, 1, 2, 3, 4)):
    def reset(key):
        key, draw = jax.random.split(key)
        fate = jnp.asarray(fates)[jax.random.randint(draw, (), 0, len(fates))]
        return Fragile(key, jnp.where(fate == 1, jnp.nan, 0.0), fate)

    def step(state, action):
        time = state.time + 1
        broken = jnp.where((state.fate == 4) & (time == 2), jnp.nan, time)
        reward = jnp.where((state.fate == 3) & (time == 2), jnp.inf, 1.0)
        return state._replace(time=broken), reward, time >= 4

    def observe(state):
        return {
            "state": jnp.stack([jnp.where((state.fate == 2) & (state.time == 2), jnp.nan, state.time), state.fate]),
            "image": jnp.full((2, 2, 3), state.time).astype(jnp.uint8),
        }

    obs = {"state": ArraySpec((2,), "float32", "vector"), "image": ArraySpec((2, 2, 3), "uint8", "image")}
    return FunctionalEnv(EnvSpec(obs, ActionSpec((ActionPart("discrete", ACTIONS),))), reset, step, observe)


def test_what_is_not_finite_is_never_handed_out():
    """State, reward, observation or the reset itself: the lane is reset, and each such entry is told."""
    timestep, _, broken, _ = played(make_lanes(fragile(), 16), 60)
    time, fate = timestep.obs["state"][..., 0], timestep.obs["state"][..., 1]
    assert np.isfinite(timestep.obs["state"]).all() and np.isfinite(timestep.reward).all()
    assert timestep.is_first[broken].all() and not timestep.is_last[broken].any()
    assert not timestep.reward[timestep.is_first].any() and not timestep.is_terminal[timestep.is_first].any()
    assert timestep.is_first[1:][timestep.is_last[:-1]].all()
    # A fate of 2, 3 or 4 gives entries 0 and 1, then the reset; a life ends at 4.
    seen = set()
    for lane in range(16):
        starts = np.flatnonzero(timestep.is_first[:, lane])
        for start, end in itertools.pairwise(starts):
            length = end - start
            kind = int(fate[start, lane])
            blank = broken[start, lane] and length == 1 and not fate[start, lane]
            seen.add("failed reset" if blank else kind)
            assert length == (1 if blank else 5 if kind == 0 else 2)
            assert time[start:end, lane].tolist() == list(range(length))
            assert timestep.is_last[end - 1, lane] == (kind == 0 and not blank)
            assert timestep.is_terminal[end - 1, lane] == (kind == 0 and not blank)
            if not blank and kind:
                assert broken[end, lane]  # the entry in its place is the reset
    assert seen == {"failed reset", 0, 2, 3, 4}


def test_a_reset_that_always_fails_is_tried_again_and_counted_each_time():
    timestep, _, broken, states = played(make_lanes(fragile(fates=(1,)), 3), 5)
    assert broken.all() and timestep.is_first.all() and not timestep.is_last.any()
    assert not timestep.obs["state"].any() and not timestep.obs["image"].any()
    assert len(keys_used(states)) == 15


def test_stepping_by_hand_equals_the_scan_with_one_trace_and_vmap_equals_each_alone():
    lanes = make_lanes(pure.counting(terminate_at=3, break_at=5), 2, time_limit=4)
    timestep, choices, broken, _ = played(lanes, 9)
    traces = []

    def counted(state, action):
        traces.append(1)
        return lanes.step(state, action)

    actions = jnp.asarray(np.eye(ACTIONS, dtype=np.float32)[choices])
    step, state = jax.jit(counted), jax.jit(lanes.init)(jax.random.key(0))
    for t in range(9):
        state, entry, cut = step(state, actions[t])
        jax.tree.map(lambda a, b, t=t: np.testing.assert_array_equal(a, b[t]), (entry, cut), (timestep, broken))
    assert len(traces) == 1
    keys = jnp.stack([jax.random.key(0), jax.random.key(7)])
    many, stepped = jax.vmap(lanes.init)(keys), jax.jit(jax.vmap(counted))
    for t in range(9):
        many, entries, cut = stepped(many, jnp.stack([actions[t]] * 2))
        jax.tree.map(lambda a, b, t=t: np.testing.assert_array_equal(a[0], b[t]), (entries, cut), (timestep, broken))
    assert (np.asarray(entries.obs["state"])[0, :, 0] != np.asarray(entries.obs["state"])[1, :, 0]).all()


def test_weakly_typed_numbers_of_a_reset_are_kept_in_their_type():
    def step(state, action):
        return {"weak": state["weak"] + 1, "count": state["count"] + 1}, 1, False

    env = FunctionalEnv(
        EnvSpec({"state": ArraySpec((), "float32", "vector")}, ActionSpec((ActionPart("discrete", ACTIONS),))),
        lambda key: {"weak": 0.5, "count": jnp.int32(0)},
        step,
        lambda state: {"state": state["weak"]},
    )
    timestep, _, _, states = played(make_lanes(env, 2, time_limit=3, action_repeat=2), 5)
    assert timestep.obs["state"][:, 0].tolist() == [0.5, 2.5, 4.5, 6.5, 0.5] and timestep.reward[1, 0] == 2
    assert states.env["count"].dtype == np.int32 and states.env["count"][:, 0].tolist() == [0, 2, 4, 6, 0]


GOOD = {
    "reset": lambda key: {"place": jnp.int32(0)},
    "step": lambda state, action: ({"place": state["place"] + 1}, 1.0, False),
    "observe": lambda state: {"state": state["place"].astype(jnp.float32)},
}


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        (
            "step",
            lambda s, a: ({"place": s["place"] + 0.5}, 1.0, False),
            r"reset's: \['place'\]: expected int32\[\], found float32",
        ),
        ("step", lambda s, a: ({"spot": s["place"]}, 1.0, False), r"\['place'\]: expected int32\[\], found nothing"),
        ("step", lambda s, a: (s, a, False), r"step's reward: expected one number, found shape \(3,\)"),
        ("step", lambda s, a: (s, 0.0, a > 0), r"step's terminal: expected one number, found shape \(3,\)"),
        ("observe", lambda s: {"state": s["place"]}, r"spec.obs: \['state'\]: expected float32\[\], found int32"),
        ("observe", lambda s: {"seen": s["place"] * 1.0}, r"\['state'\]: expected float32\[\], found nothing"),
    ],
)
def test_functions_that_do_not_fit_together_are_refused_by_the_name_of_the_array(name, function, message):
    spec = EnvSpec({"state": ArraySpec((), "float32", "vector")}, ActionSpec((ActionPart("discrete", 3),)))
    make_lanes(FunctionalEnv(spec, **GOOD), 2)
    with pytest.raises(ConfigError, match=message):
        make_lanes(FunctionalEnv(spec, **GOOD | {name: function}), 2)


def test_a_step_that_writes_into_the_state_it_is_given_does_not_undo_an_end():
    """As Brax's steps do with their metrics: what they write after the end must not reach the state that was kept."""

    def step(state, action):
        state["metrics"].update(time=jnp.where(state["time"] >= 1, jnp.nan, state["time"]))
        return {"time": state["time"] + 1, "metrics": state["metrics"]}, 1.0, state["time"] == 0

    spec = EnvSpec({"state": ArraySpec((), "float32", "vector")}, ActionSpec((ActionPart("discrete", 3),)))
    reset = lambda key: {"time": jnp.zeros(()), "metrics": {"time": jnp.zeros(())}}  # noqa: E731
    env = FunctionalEnv(spec, reset, step, lambda state: {"state": state["time"]})
    timestep, _, broken, _ = played(make_lanes(env, 1, action_repeat=2), 2)
    assert timestep.is_terminal[:, 0].tolist() == [False, True] and not np.asarray(broken).any()


def test_products_of_the_environment_are_in_full_float32_on_every_device():
    """GPUs and TPUs round the factors by default; of the agent's products nothing is asked."""
    turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])
    env = FunctionalEnv(
        spec=EnvSpec({"state": ArraySpec((2,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 1),))),
        reset=lambda key: turn @ jax.random.normal(key, (2,)),
        step=lambda state, action: (turn @ state, action[0], jnp.zeros((), bool)),
        observe=lambda state: {"state": turn @ state},
    )
    lanes = make_lanes(env, 3)
    state, action = lanes.init(jax.random.key(0)), jnp.zeros((3, 1))
    reset, step, observe, _, _ = _compiled(env)
    programs = [
        jax.jit(lanes.init).lower(jax.random.key(0)),
        jax.jit(lanes.step).lower(state, action),
        reset.lower(jax.random.key(0)),
        step.lower(state.env[0], action[0]),
        observe.lower(state.env[0]),
    ]
    for program in programs:
        products = [line for line in program.as_text().splitlines() if "dot_general" in line]
        assert products and all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_what_is_said_of_the_lanes():
    lanes = make_lanes(pure.pendulum(), 3, action_repeat=4)
    assert lanes.num_envs == 3 and lanes.frame_rate == 5.0 and lanes.spec == pure.pendulum().spec
