"""The two scans: observe against NumPy, resets and causality; imagine's alignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.agent.rssm import forget, imagine, observe, prior_step
from jaxdreamer.ops.distributions import stop_gradient
from jaxdreamer.types import Latent
from tests import oracles
from tests.agent import cases

STEPS, LANES = 6, 3
VERSIONS = ("dreamer_v1", "dreamer_v2")
KEY = jax.random.key(7)


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def model(version):
    return cases.noisy_params(version)["model"]


@pytest.fixture
def sequence():
    """embed, action, is_first with an episode's start in the middle of two lanes."""
    rng = np.random.default_rng(0)

    embed = rng.normal(size=(STEPS, LANES, 16)).astype(np.float32)
    action = rng.uniform(-1, 1, (STEPS, LANES, 2)).astype(np.float32)
    is_first = np.zeros((STEPS, LANES), bool)
    is_first[0, 0] = is_first[3, 0] = is_first[4, 1] = True
    return embed, action, is_first


def numpy_latent(version, raw, noise):
    """(parameters of the distribution, sample) of one entry, from the last layer's output."""
    if version == "dreamer_v1":
        loc, raw_std = np.split(raw, 2)
        std = np.log1p(np.exp(raw_std)) + 0.1
        return np.concatenate([loc, std]), loc + std * noise
    logits = raw.reshape(noise.shape)
    sample = [np.eye(len(row))[np.argmax(row + n)] for row, n in zip(logits, noise)]
    return logits.ravel(), np.concatenate(sample)


def numpy_observe(version, model, embed, action, is_first, noise):
    """One lane, one entry at a time, nothing hoisted: the prior inside the loop, one kernel over [deter, embed]."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), model["rssm"])
    deter, stoch, out = np.zeros(16), np.zeros(noise[0].size), []
    for t in range(len(embed)):
        a = action[t]
        if is_first[t]:
            deter, stoch, a = np.zeros_like(deter), np.zeros_like(stoch), np.zeros_like(a)
        x = oracles.elu(oracles.dense(np.concatenate([stoch, a]), p["input"]))
        cell = p["recurrent"]
        if version == "dreamer_v1":
            deter = oracles.gru(deter, x, cell["kernel_x"], cell["kernel_h"], cell["bias_x"], cell["bias_h"])
        else:
            gates, norm = cell["gates"], cell["norm"]
            deter = oracles.layer_norm_gru(deter, x, gates["kernel"], gates["bias"], norm["scale"], norm["bias"])
        raw_prior = oracles.dense(oracles.elu(oracles.dense(deter, p["prior_hidden"])), p["prior_out"])
        first = {"kernel": p["posterior_kernel"], "bias": p["posterior_bias"]}
        hidden = oracles.elu(oracles.dense(np.concatenate([deter, embed[t]]), first))
        posterior, stoch = numpy_latent(version, oracles.dense(hidden, p["posterior_out"]), noise[t])
        prior, _ = numpy_latent(version, raw_prior, noise[t])
        out.append((deter, stoch, posterior, prior))
    return [np.stack(column) for column in zip(*out)]


def flat(dist):
    """A distribution's parameters as one vector an entry."""
    steps, lanes = dist.mean().shape[:2]
    return np.concatenate([np.asarray(leaf).reshape(steps, lanes, -1) for leaf in jax.tree.leaves(dist)], axis=-1)


def test_observe_equals_numpy_without_hoisting(version, model, sequence):
    embed, action, is_first = sequence
    latent, posterior, prior = cases.compiled_observe(version)(model, embed, action, is_first, KEY)
    noise = np.asarray(cases.networks(version).rssm.noise(KEY, (STEPS, LANES)), np.float64)
    for lane in range(LANES):
        expected = numpy_observe(version, model, *(x[:, lane] for x in (embed, action, is_first, noise)))
        found = latent.deter[:, lane], latent.stoch[:, lane], flat(posterior)[:, lane], flat(prior)[:, lane]
        for a, b in zip(found, expected):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_observe_is_one_step_after_another(version, model, sequence):
    """The state carried over calls of one entry each gives what the scan gives, with the same noise."""
    embed, action, is_first = sequence
    rssm = cases.networks(version).rssm
    latent, posterior, _ = cases.compiled_observe(version)(model, embed, action, is_first, KEY)
    noise = rssm.noise(KEY, (STEPS, LANES))

    @jax.jit
    def step(state, t):
        deter = rssm.step(model, *forget(state, action[t], is_first[t]))
        dist = rssm.posterior(model, deter, rssm.embed_part(model, embed[t]))
        return Latent(deter, dist.from_noise(noise[t])), dist

    embed, action, is_first = map(jnp.asarray, sequence)
    state, states = rssm.initial((LANES,)), []
    for t in range(STEPS):
        state, dist = step(state, t)
        states.append((state, dist))
    by_hand = jax.tree.map(lambda *x: jnp.stack(x), *states)
    cases.assert_trees_close(by_hand, (latent, posterior), rtol=1e-5, atol=1e-6)


def test_observe_resumes_from_a_given_latent(version, model, sequence):
    """The start matters where the sequence does not begin an episode, and not where it does."""
    embed, action, is_first = sequence
    rssm = cases.networks(version).rssm
    zeros = rssm.initial((LANES,))
    ones = jax.tree.map(jnp.ones_like, zeros)
    run = cases.compiled_observe(version)
    default, _, _ = run(model, embed, action, is_first, KEY)
    assert cases.trees_equal(default, run(model, embed, action, is_first, KEY, zeros)[0])
    other, _, _ = run(model, embed, action, is_first, KEY, ones)
    np.testing.assert_array_equal(other.deter[:, 0], default.deter[:, 0])
    assert not np.allclose(other.deter[0, 1], default.deter[0, 1])


def test_a_sequence_over_two_episodes_equals_its_halves_run_apart(version, model, sequence):
    embed, action, _ = sequence
    is_first = np.zeros((STEPS, LANES), bool)
    is_first[[0, 3]] = True
    run = cases.compiled_observe(version)
    whole, _, prior = run(model, embed, action, is_first, KEY)
    noise = cases.networks(version).rssm.noise(KEY, (STEPS, LANES))
    # The halves need the noise of their place in the whole, and no key would draw it.
    rssm = cases.networks(version).rssm._replace(noise=lambda key, shape: noise[3:])
    second, _, second_prior = observe(
        rssm,
        model,
        embed=jnp.asarray(embed[3:]),
        action=jnp.asarray(action[3:]),
        is_first=jnp.asarray(is_first[3:]),
        key=KEY,
    )
    cases.assert_trees_close(jax.tree.map(lambda x: x[3:], whole), second, rtol=1e-5, atol=1e-6)
    cases.assert_trees_close(jax.tree.map(lambda x: x[3:], prior), second_prior, rtol=1e-5, atol=1e-6)


def test_the_action_of_a_reset_entry_does_not_matter(version, model, sequence):
    embed, action, is_first = sequence
    run = cases.compiled_observe(version)
    changed = np.where(is_first[..., None], action + 1, action)
    before, after = run(model, embed, action, is_first, KEY), run(model, embed, changed, is_first, KEY)
    assert cases.trees_equal(before, after)


def test_the_action_of_any_other_entry_matters_from_that_entry_on(version, model, sequence):
    embed, action, is_first = sequence
    run = cases.compiled_observe(version)
    changed = action.copy()
    changed[2, 2] += 1
    before, after = (run(model, embed, a, is_first, KEY)[0].deter for a in (action, changed))
    np.testing.assert_array_equal(after[:2], before[:2])
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (np.abs(after - before)[2:, 2].max(-1) > 1e-6).all()


def test_an_observation_reaches_posteriors_from_its_entry_on_and_priors_after_it(version, model, sequence):
    embed, action, is_first = sequence
    run = cases.compiled_observe(version)
    changed = embed.copy()
    changed[2, 2] += 1
    (_, posterior, prior), (_, new_posterior, new_prior) = (
        run(model, e, action, is_first, KEY) for e in (embed, changed)
    )
    moved = np.abs(flat(new_posterior) - flat(posterior)).max(-1) > 1e-6
    np.testing.assert_array_equal(moved[:3, 2], [False, False, True])
    moved = np.abs(flat(new_prior) - flat(prior)).max(-1) > 1e-6
    np.testing.assert_array_equal(moved[:3, 2], [False, False, False])
    # What a sample passes on may, for a categorical, happen to be the same choice; a Gaussian's never is.
    if version == "dreamer_v1":
        assert moved[3:, 2].all()
    assert not moved[:, :2].any()


def test_nothing_passes_over_an_episodes_start(version, model, sequence):
    embed, action, is_first = sequence
    run = cases.compiled_observe(version)
    changed = embed.copy()
    changed[:3, 0] += 1
    before, after = (run(model, e, action, is_first, KEY)[0] for e in (embed, changed))
    assert cases.trees_equal(*(jax.tree.map(lambda x: x[3:, 0], latent) for latent in (before, after)))


def test_unrolling_changes_nothing(version, model, sequence):
    once, thrice = (cases.compiled_observe(version, unroll=unroll)(model, *sequence, KEY) for unroll in (1, 3))
    cases.assert_trees_close(once, thrice, rtol=1e-5, atol=1e-6)


def test_samples_differ_by_key_and_follow_the_posterior(version, model, sequence):
    run = cases.compiled_observe(version)
    a, b = (run(model, *sequence, jax.random.key(seed))[0].stoch for seed in (1, 2))
    assert not np.allclose(a, b)
    if version == "dreamer_v2":
        groups = np.asarray(a).reshape(STEPS, LANES, 4, 4)
        np.testing.assert_array_equal(np.sort(groups, -1)[..., :-1], 0)
        np.testing.assert_array_equal(groups.sum(-1), 1)


def test_the_posterior_is_trained_through_its_samples(version, model, sequence):
    """A later prior depends on what was sampled before: the gradient gets there."""
    embed, action, is_first = map(jnp.asarray, sequence)

    def loss(embed):
        _, posterior, prior = cases.compiled_observe(version)(model, embed, action, is_first, KEY)
        return jnp.sum(
            jax.tree.map(lambda x: x[5, 2], stop_gradient(posterior)).kl(jax.tree.map(lambda x: x[5, 2], prior))
        )

    grads = np.abs(jax.grad(loss)(embed)).max(-1)
    assert (grads[:5, 2] > 0).all(), "entries before it"
    assert (grads[5] == 0).all() and (grads[:, :2] == 0).all(), "its own entry, other lanes"


def test_forget_wipes_even_what_is_not_finite():
    latent = Latent(jnp.full((2, 3), jnp.nan), jnp.full((2, 1), jnp.inf))
    latent, action = forget(latent, jnp.full((2, 2), jnp.nan), jnp.array([True, False]))
    for x in (*latent, action):
        np.testing.assert_array_equal(x[0], 0)
        assert not np.isfinite(x[1]).any()


def test_observe_refuses_batch_major_and_unequal_inputs(version, model, sequence):
    embed, action, is_first = sequence
    rssm = cases.networks(version).rssm
    for bad in (
        (embed, action, is_first.T),
        (embed[:, :2], action, is_first),
        (embed[:, 0], action[:, 0], is_first[:, 0]),
    ):
        with pytest.raises(ValueError, match=r"observe: .*\[T, B"):
            observe(rssm, model, embed=bad[0], action=bad[1], is_first=bad[2], key=KEY)


def counting_dream(horizon, unroll=1):
    """A state that counts, and a policy that names the state it acts in."""
    return imagine(
        policy=lambda state, key: 100 + state.deter,
        step=lambda state, action, key: Latent(state.deter + 1, action),
        start=Latent(jnp.array([[0.0], [10.0]]), jnp.full((2, 1), -1.0)),
        horizon=horizon,
        key=KEY,
        unroll=unroll,
    )


def test_imagine_starts_with_the_start_and_has_one_more_state_than_actions():
    dream = counting_dream(3)
    np.testing.assert_array_equal(dream.latent.deter[..., 0], [[0, 10], [1, 11], [2, 12], [3, 13]])
    assert dream.action.shape == (3, 2, 1)


def test_imagined_action_k_was_chosen_in_state_k_and_leads_to_the_next():
    dream = counting_dream(3)
    np.testing.assert_array_equal(dream.action, 100 + dream.latent.deter[:-1])
    # The toy's step writes the action it was given into the state it leads to.
    np.testing.assert_array_equal(dream.latent.stoch[1:], dream.action)
    np.testing.assert_array_equal(dream.latent.stoch[0], [[-1], [-1]])


def test_imagine_unrolled_is_the_same():
    assert cases.trees_equal(counting_dream(5), counting_dream(5, unroll=5))


def test_imagine_uses_fresh_randomness_at_every_step_and_for_action_and_state():
    draw = lambda key: jax.random.normal(key, (1,))  # noqa: E731
    dream = imagine(
        policy=lambda state, key: draw(key), step=lambda s, a, key: draw(key), start=jnp.zeros(1), horizon=20, key=KEY
    )
    assert len(np.unique(np.concatenate([dream.action, dream.latent[1:]]))) == 40


@pytest.mark.parametrize("horizon", [0, -1])
def test_imagine_refuses_a_horizon_below_one(horizon):
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        counting_dream(horizon)


def test_prior_step_is_the_prior_of_the_next_state(version, model):
    rssm = cases.networks(version).rssm
    latent = jax.tree.map(lambda x: x + 0.5, rssm.initial((LANES,)))
    action = jnp.full((LANES, 2), 0.3)
    new = prior_step(rssm, model)(latent, action, KEY)
    np.testing.assert_allclose(new.deter, rssm.step(model, latent, action), rtol=1e-6)
    np.testing.assert_allclose(new.stoch, rssm.prior(model, new.deter).sample(KEY), rtol=1e-6)
