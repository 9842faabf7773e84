"""Acting: on what is seen, from where an episode begins, with the noise that was asked for and no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.agent.policy import acting, make_policy
from jaxdreamer.nets.networks import features, make_networks
from jaxdreamer.ops.distributions import policy_mode
from jaxdreamer.ops.exploration import random_action
from jaxdreamer.types import EnvSpec, PolicyState
from tests.agent import cases

LANES = 32
KEY = jax.random.key(13)
VERSIONS = ("dreamer_v1", "dreamer_v2")
MODES = ("explore", "sample", "greedy")
SEEN = {"vector": {"state": cases.STATE}, "pixels": {"image": cases.IMAGE}}
ACTIONS = {"continuous": cases.CONTINUOUS, "discrete": cases.DISCRETE, "hybrid": cases.HYBRID}


@functools.cache
def agent(version, seen="vector", actions="continuous", **changes):
    """(spec, networks' parameters, policy with act compiled); parameters random enough for clear choices."""
    spec, config = EnvSpec(SEEN[seen], ACTIONS[actions]), cases.config(version, **changes)
    networks = make_networks(config.model, spec)
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(networks.init, KEY)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(scale=0.5, size=s.shape), jnp.float32), shapes)
    policy = make_policy(config, spec, networks)
    params = acting(params, {"statistics": networks.statistics})
    return networks, params, policy._replace(act=jax.jit(policy.act, static_argnames="mode"))


def observation(seen, bright):
    if seen == "pixels":
        return {"image": jnp.full((LANES, 16, 16, 3), 255 if bright else 0, jnp.uint8)}
    state = np.random.default_rng(0).normal(size=(LANES, 3)).astype(np.float32)
    return {"state": jnp.asarray(state if bright else -state)}


def some_state(policy, fill=0.5):
    return jax.tree.map(lambda x: jnp.full_like(x, fill), policy.init(LANES))


NOT_FIRST, FIRST = jnp.zeros(LANES, bool), jnp.ones(LANES, bool)


@pytest.mark.parametrize("mode", ["sample", "greedy"])
@pytest.mark.parametrize("actions", ["continuous", "discrete"])
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_action_depends_on_the_observation(version, seen, actions, mode):
    """All else is the same, the key too: an agent that acts on its prior, or looks away, fails here."""
    _, params, policy = agent(version, seen, actions)
    args = some_state(policy), NOT_FIRST, KEY
    dark, bright = (
        policy.act(params, args[0], observation(seen, b), args[1], args[2], mode=mode)[0] for b in (False, True)
    )
    assert dark.shape == (LANES, ACTIONS[actions].size)
    assert not np.allclose(dark, bright)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_action_depends_on_memory_and_on_the_last_action_until_a_reset(version):
    _, params, policy = agent(version)
    base = some_state(policy)
    others = {
        "deter": base._replace(latent=base.latent._replace(deter=-base.latent.deter)),
        "stoch": base._replace(latent=base.latent._replace(stoch=-base.latent.stoch)),
        "action": base._replace(action=-base.action),
    }
    seen = observation("vector", True)
    for name, other in others.items():
        for is_first, same in ((NOT_FIRST, False), (FIRST, True)):
            a, b = (policy.act(params, state, seen, is_first, KEY, mode="greedy")[1] for state in (base, other))
            assert cases.trees_equal(a, b) == same, name


def test_one_lanes_reset_is_no_other_lanes():
    _, params, policy = agent("dreamer_v1")
    base, seen = some_state(policy), observation("vector", True)
    none, one = (
        policy.act(params, base, seen, f, KEY, mode="greedy")[1] for f in (NOT_FIRST, NOT_FIRST.at[3].set(True))
    )
    changed = np.abs(one.latent.deter - none.latent.deter).max(-1) > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(changed), [3])


def test_a_reset_recovers_from_a_broken_state():
    _, params, policy = agent("dreamer_v1")
    action, state = policy.act(params, some_state(policy, jnp.nan), observation("vector", True), FIRST, KEY)
    assert np.isfinite(action).all() and np.isfinite(state.latent.deter).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_state_carries_the_action_that_was_returned(version, mode):
    _, params, policy = agent(version)
    action, state = policy.act(params, some_state(policy), observation("vector", True), NOT_FIRST, KEY, mode=mode)
    assert isinstance(state, PolicyState)
    np.testing.assert_array_equal(state.action, action)
    assert action.dtype == jnp.float32 and (np.abs(action) <= 1).all()


@pytest.mark.parametrize(("version", "actions"), [("dreamer_v2", "continuous"), ("dreamer_v1", "discrete")])
def test_greedy_is_the_mode_for_the_sampled_latent(version, actions):
    networks, params, policy = agent(version, actions=actions)
    action, state = policy.act(params, some_state(policy), observation("vector", True), NOT_FIRST, KEY, mode="greedy")
    dist = networks.actor(params["actor"], features(state.latent))
    np.testing.assert_allclose(action, policy_mode(dist, KEY), rtol=1e-5, atol=1e-6)


def test_greedy_of_v1_is_denser_than_nearly_all_samples():
    """A tanh-Normal has no mode in closed form: the best of many samples takes its place."""
    networks, params, policy = agent("dreamer_v1")
    # A narrow actor: where tanh rounds to 1, a density cannot be told from the action any more.
    out = {"kernel": 0.1 * params["actor"]["out"]["kernel"], "bias": jnp.array([0.2, -0.4, -6.0, -6.0])}
    params = params | {"actor": params["actor"] | {"out": out}}
    action, state = policy.act(params, some_state(policy), observation("vector", True), NOT_FIRST, KEY, mode="greedy")
    dist = networks.actor(params["actor"], features(state.latent))
    samples = jax.vmap(lambda key: dist.log_prob(dist.sample(key)))(jax.random.split(KEY, 200))
    assert (np.mean(np.asarray(samples) <= dist.log_prob(action), axis=0) > 0.9).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_latent_is_sampled_in_every_mode(version):
    _, params, policy = agent(version)
    for mode in MODES:
        a, b = (
            policy.act(params, some_state(policy), observation("vector", True), NOT_FIRST, key, mode=mode)[1].latent
            for key in jax.random.split(KEY)
        )
        assert not np.allclose(a.stoch, b.stoch)
        np.testing.assert_allclose(a.deter, b.deter, rtol=1e-5, atol=1e-6)


def test_exploring_adds_gaussian_noise_for_v1_and_nothing_for_v2():
    for version, deviation in (("dreamer_v1", 0.3), ("dreamer_v2", 0.0)):
        _, params, policy = agent(version)
        args = some_state(policy), observation("vector", True), NOT_FIRST, KEY
        sampled, explored = (policy.act(params, *args, mode=mode)[0] for mode in ("sample", "explore"))
        inside = np.abs(explored) < 1
        noise = np.asarray(explored - sampled)[inside]
        assert (noise.size > 10) and abs(np.sqrt(np.mean(noise**2)) - deviation) < 0.12, version


def test_exploring_replaces_choices_and_shakes_numbers_of_a_hybrid_action():
    _, params, policy = agent("dreamer_v1", actions="hybrid", exploration_epsilon=1.0)
    args = some_state(policy), observation("vector", True), NOT_FIRST, KEY
    sampled, explored = (policy.act(params, *args, mode=mode)[0] for mode in ("sample", "explore"))
    assert (np.abs(sampled - explored)[:, :2].max(-1) > 0).mean() > 0.5  # at the bounds noise may be cut off
    np.testing.assert_array_equal(np.sort(explored[:, 2:]), np.tile([0, 0, 1], (LANES, 1)))
    assert (explored[:, 2:].sum(0) > 2).all(), "every choice comes up"
    assert not np.array_equal(sampled[:, 2:], explored[:, 2:])


def test_an_unknown_mode_is_refused():
    _, params, policy = agent("dreamer_v1")
    with pytest.raises(ValueError, match="mode must be one of explore, sample, greedy, random, found 'eval'"):
        policy.act(params, policy.init(LANES), observation("vector", True), FIRST, KEY, mode="eval")


def test_the_first_state_is_zero():
    _, _, policy = agent("dreamer_v1")
    state = policy.init(5)
    assert all(leaf.shape[0] == 5 and not leaf.any() for leaf in jax.tree.leaves(state))
    assert state.action.shape == (5, 2)


@pytest.mark.parametrize("spec", [cases.CONTINUOUS, cases.DISCRETE, cases.MULTI_DISCRETE, cases.HYBRID])
def test_random_actions_are_valid_and_cover_everything(spec):
    action = random_action(KEY, spec, 500)
    assert action.shape == (500, spec.size) and action.dtype == jnp.float32
    for part, where in zip(spec.parts, spec.slices):
        x = np.asarray(action[:, where])
        if part.kind == "continuous":
            assert x.min() < -0.95 and x.max() > 0.95 and np.abs(x).max() <= 1 and abs(x.mean()) < 0.1
        else:
            np.testing.assert_array_equal(np.sort(x)[:, -1], 1)
            np.testing.assert_array_equal(x.sum(-1), 1)
            np.testing.assert_allclose(x.mean(0), 1 / part.size, atol=0.08)
    assert np.unique(action, axis=0).shape[0] > 1
