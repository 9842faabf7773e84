"""The compiled program with a learner and a policy made for looking at: what is stored, learned from, counted and told."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Algorithm, Policy
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.device.functional import make_lanes
from jaxdreamer.ops.exploration import random_action
from jaxdreamer.replay.device import make_device_replay
from jaxdreamer.train.device.evaluate import make_episodes, make_film
from jaxdreamer.train.device.program import (
    Plan,
    make_program,
)
from jaxdreamer.types import Latent, PolicyState, TrainState
from tests.envs.device.test_functional import fragile

LANES, LENGTH, BATCH = 2, 4, 3
CHOICES = jnp.eye(3)


def looking(spec):
    """An algorithm whose learning counts updates and reports the largest reward that it was given."""

    def init(key):
        zero = jnp.zeros((), jnp.int32)
        params = {"model": jnp.zeros(()), "actor": jnp.zeros(()), "critic": jnp.zeros(())}
        return TrainState(params, {}, {}, zero, zero, zero, key)

    def update(state, batch):
        updates = state.updates + 1
        bad = updates % 7 >= 5  # two in a row of every seven are skipped
        in_a_row = jnp.where(bad, state.skipped_in_a_row + 1, 0)
        state = state._replace(
            params=jax.tree.map(lambda x: x + 1, state.params),
            updates=updates,
            skipped=state.skipped + bad,
            skipped_in_a_row=in_a_row,
        )
        metrics = {
            "loss/reward": jnp.where(bad, jnp.nan, jnp.max(batch.reward)),
            "number": updates,
            "skipped": state.skipped,
            "skipped_in_a_row": in_a_row,
        }
        return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return Algorithm(init, update, looking_policy(spec), acting=lambda params, aux: params)


def looking_policy(spec):
    """Chooses by what it sees, what it did before and what was learned; the latent counts calls since the start."""

    def init(lanes):
        return PolicyState(Latent(jnp.zeros((lanes, 1)), jnp.zeros((lanes, 1))), jnp.zeros((lanes, spec.action.size)))

    def act(params, state, obs, is_first, key, mode="explore"):
        if mode == "random":
            action = random_action(key, spec.action, len(is_first))
            return action, state._replace(action=action)
        calls = jnp.where(is_first, 0.0, state.latent.deter[:, 0]) + 1
        time = jnp.where(mode == "greedy", 2, obs["state"][:, 1] + params["actor"])
        action = jax.nn.one_hot(time.astype(jnp.int32) % 3, 3) * jnp.ones((len(calls), 1))
        return action, PolicyState(Latent(calls[:, None], state.latent.stoch), action)

    return Policy(init, act)


@functools.cache
def program(*overrides, rows=40, **task):
    config = configs.preset(
        "dreamer_v2,tiny", f"num_envs={LANES}", f"batch_length={LENGTH}", f"batch_size={BATCH}", *overrides
    )
    env = fragile() if task.pop("fragile", False) else pure.counting(**task)
    lanes = make_lanes(env, LANES)
    replay = make_device_replay(
        env.spec,
        capacity=rows * LANES,
        lanes=LANES,
        length=LENGTH,
        batch_size=BATCH,
        cross_episodes=config.replay.cross_episodes,
    )
    made = make_program(looking(env.spec), lanes, replay, cross_episodes=config.replay.cross_episodes)
    return made._replace(init=jax.jit(made.init), run=jax.jit(made.run))


def plan(*segments):
    random, rows, updates = zip(*segments, *[(False, 0, 0)] * (3 - len(segments)))  # one length, one compilation
    return Plan(np.array(random), np.array(rows, np.int32), np.array(updates, np.int32))


def mean(report, name):
    """Over the updates in which the metric was finite."""
    return float(report.learned.sums[name] / report.learned.counts[name])


def stored(carry):
    """The ring's rows, oldest first, of a ring that is not full yet."""
    return jax.tree.map(lambda x: np.asarray(x[: int(carry.replay.filled)]), carry.replay.entries)


def test_what_is_stored_is_what_the_lanes_made_and_the_action_is_what_led_there():
    """Episodes of 4 steps, chosen by what is seen: at time t the policy takes t mod 3, and 1 more after each update."""
    made = program("cross_episodes=true", terminate_at=4)
    carry, report = made.run(made.init(jax.random.key(0)), plan((False, 11, 0), (False, 0, 1), (False, 7, 0)))
    rows = stored(carry)
    time, shown = rows.obs["state"][..., 1], rows.obs["state"][..., 2]
    wanted = np.resize([0, 1, 2, 3, 4], 18)
    for lane in range(LANES):
        np.testing.assert_array_equal(time[:, lane], wanted)
    np.testing.assert_array_equal(rows.reward, time)
    np.testing.assert_array_equal(rows.is_first, time == 0)
    np.testing.assert_array_equal(rows.is_last, time == 4)
    np.testing.assert_array_equal(rows.is_terminal, time == 4)
    # By hand: the action that led to time t was chosen at t - 1, after one update from row 11 on; none led to a reset.
    learned = (np.arange(18) >= 11)[:, None]
    np.testing.assert_array_equal(shown[time > 0], ((time - 1 + learned) % 3)[time > 0])
    np.testing.assert_array_equal(rows.action[time > 0], np.eye(3)[shown[time > 0].astype(int)])
    assert not rows.action[time == 0].any() and (shown[time == 0] == -1).all()
    # The policy is told of resets: it has seen this episode's entries only, the newest aside.
    np.testing.assert_array_equal(carry.acting.latent.deter[:, 0], [2, 2])
    np.testing.assert_array_equal(carry.timestep.obs["state"], rows.obs["state"][-1])
    assert int(report.agent_steps) == LANES * (18 - 4) and not int(report.broken)
    assert int(report.ended.episodes) == 3 * LANES and float(report.ended.mean) == 1 + 2 + 3 + 4
    assert len(set(rows.obs["state"][rows.is_first, 0].tolist())) == 4 * LANES


def test_random_actions_are_drawn_anew_and_remembered():
    made = program("cross_episodes=true", terminate_at=4)
    carry, _ = made.run(made.init(jax.random.key(0)), plan((True, 20, 0), (True, 19, 0), (False, 0, 0)))
    rows = stored(carry)
    acted = rows.action[~rows.is_first]
    assert len(acted) == 2 * (39 - 8) and (acted.sum(-1) == 1).all() and (acted.sum(0) > 10).all()
    assert (rows.action[:, 0] != rows.action[:, 1]).any(-1).sum() > 10
    np.testing.assert_array_equal(rows.obs["state"][~rows.is_first, 2], acted.argmax(-1))
    np.testing.assert_array_equal(carry.acting.action, rows.action[-1])
    assert not carry.acting.latent.deter.any()  # as in the host's loop: the latent is left alone
    other, _ = made.run(made.init(jax.random.key(1)), plan((True, 20, 0), (True, 19, 0), (False, 0, 0)))
    assert (stored(other).action != rows.action).any()


def test_the_order_and_the_numbers_are_data():
    """Updates follow their segment's rows; one program for all plans; keys and counters go on from call to call."""
    made = program("cross_episodes=true", time_limit=0)
    carry, report = made.run(made.init(jax.random.key(0)), plan((True, 8, 0), (False, 0, 3), (False, 4, 2)))
    # The largest reward seen can be 7 at most before the last segment, 11 in it; the ring's newest time is 11.
    assert int(report.learned.updates) == 5 and float(carry.timestep.reward[0]) == 11
    # The policy acted with what was learned by then: rows 8 to 11 after 3 updates.
    np.testing.assert_array_equal(stored(carry).obs["state"][8:, 0, 2], (np.arange(7, 11) + 3) % 3)
    assert mean(report, "number") == 3.0  # of the updates 1 to 5
    carry, report = made.run(carry, plan((False, 1, 0), (False, 1, 0), (False, 1, 0)))
    assert (
        int(report.learned.updates) == 5
        and not report.learned.counts["number"]
        and not report.learned.worst["skipped_in_a_row"]
    )
    assert float(carry.timestep.reward[0]) == 14
    carry, report = made.run(carry, plan((False, 0, 1), (False, 0, 1), (False, 0, 5)))
    assert int(report.learned.updates) == 12 and mean(report, "number") == np.mean(range(6, 13))
    # Updates 6, and 12 and 13, are bad: means leave nan out, the longest run of skipped ones is told, and all are counted.
    assert int(report.learned.skipped) == 3 == int(carry.train.skipped)
    assert float(report.learned.worst["skipped_in_a_row"]) == 2 and float(report.learned.worst["number"]) == 6
    assert np.isfinite(mean(report, "loss/reward")) and int(report.learned.counts["loss/reward"]) == 5
    assert made.run._cache_size() == 1


def test_learning_waits_for_a_sequence():
    made = program("cross_episodes=false", terminate_at=3)
    carry, report = made.run(made.init(jax.random.key(0)), plan((True, 3, 5), (True, 0, 5)))
    assert int(report.learned.updates) == 0
    _, report = made.run(carry, plan((True, 1, 5)))
    assert int(report.learned.updates) == 5


def test_what_breaks_is_cut_out_of_the_episode_and_counted():
    made = program("cross_episodes=true", rows=80, fragile=True)
    carry, report = made.run(made.init(jax.random.key(3)), plan((True, 70, 0), (True, 0, 0)))
    rows = stored(carry)
    assert np.isfinite(rows.obs["state"]).all() and np.isfinite(rows.reward).all()
    # Whoever is reset had ended, the blank entries of failed resets included, so that nothing runs on over a cut.
    np.testing.assert_array_equal(rows.is_first[1:], rows.is_last[:-1])
    np.testing.assert_array_equal(rows.is_terminal, rows.obs["state"][..., 0] == 4)
    cuts = rows.is_last & ~rows.is_terminal
    blank = rows.is_first & cuts
    replaced = blank[1:] | (cuts & ~blank)[:-1]  # by a reset, or by a blank entry
    assert blank.any() and (cuts & ~blank).any()
    assert (
        0 <= int(report.broken) - replaced.sum() - blank[0].sum() <= LANES
    )  # the newest may be blank, and not cut yet
    assert int(report.agent_steps) == (~rows.is_first).sum()
    # Returns are of whole episodes only.
    assert int(report.ended.episodes) == rows.is_terminal.sum() and float(report.ended.lowest) == 4


def test_a_full_ring_holds_the_newest_rows():
    made = program("cross_episodes=true", time_limit=0)
    carry, _ = made.run(made.init(jax.random.key(0)), plan((True, 95, 0), (True, 2, 2)))
    assert int(carry.replay.filled) == 40
    assert sorted(np.asarray(carry.replay.entries.reward)[:, 0].tolist()) == list(range(57, 97))


@pytest.mark.parametrize(
    ("task", "limit", "length"), [({"terminate_at": 5}, 0, 5), ({}, 6, 6), ({"break_at": 4}, 0, 3)]
)
def test_evaluated_episodes_are_whole_greedy_and_one_a_lane(task, limit, length):
    env = pure.counting(**task)
    lanes = make_lanes(env, 3, time_limit=limit)
    found = play(lanes, looking_policy(env.spec), {"actor": jnp.zeros(())})
    assert found.lengths.tolist() == [length] * 3 and found.returns.tolist() == [length * (length + 1) / 2] * 3


def test_an_evaluation_with_failing_resets_ends_and_counts_steps_only():
    env = fragile()
    found = play(make_lanes(env, 32), looking_policy_of_time(env), {})
    # A life of 4 steps, or 1 step up to where it broke; a lane whose reset fails plays another episode.
    assert set(found.lengths.tolist()) == {1, 4} and found.missed.sum() > 0 and found.missed.max() < 20
    np.testing.assert_array_equal(found.returns, found.lengths)


def play(lanes, policy, params):
    """A few steps a call, so that an episode takes several."""
    begin, advance = make_episodes(lanes, policy, steps=2)
    episodes, advance = begin(jax.random.key(0)), jax.jit(advance)
    while not episodes.done.all():
        episodes = advance(params, episodes)
    return episodes


def looking_policy_of_time(env):
    def act(params, state, obs, is_first, key, mode="explore"):
        assert mode == "greedy"
        return state.action, state

    return looking_policy(env.spec)._replace(act=act)


@pytest.mark.parametrize(
    ("task", "steps", "length"),
    [({"terminate_at": 3}, 6, 4), ({}, 6, 7), ({"break_at": 3}, 6, 3), ({"break_at": 1}, 6, 1)],
)
def test_a_film_shows_one_episode_from_its_reset_to_its_last_entry(task, steps, length):
    env = pure.counting(**task)

    def render(state):
        return jnp.full((2, 2, 3), state[1] * 10 + state[2]).astype(jnp.uint8)

    film = jax.jit(make_film(make_lanes(env, 1), looking_policy(env.spec), render, steps))
    frames, shown = film({"actor": jnp.zeros(())}, jax.random.key(0))
    assert frames.shape == (steps + 1, 2, 2, 3) and int(shown.sum()) == length
    # Greedily choice 2 at every time: 10 t + 2.
    assert np.asarray(frames)[shown][1:, 0, 0, 0].tolist() == [10 * t + 2 for t in range(1, length)]
