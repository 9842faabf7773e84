"""KL divergences, free nats and balancing: values, and who gets which gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.ops.distributions import Bernoulli, Categoricals, Normal, OneHot
from jaxdreamer.ops.kl import balanced_kl, free_nats, kl_divergence
from tests import oracles

compiled_kl = jax.jit(kl_divergence)
SEEDS = st.integers(0, 2**31 - 1)


def some_normals(seed, shape=(4, 3)):
    rng = np.random.default_rng(seed)
    locs = rng.normal(size=(2, *shape)).astype(np.float32)
    stds = rng.uniform(0.1, 2.0, size=(2, *shape)).astype(np.float32)
    return Normal(locs[0], stds[0]), Normal(locs[1], stds[1])


def some_categoricals(seed, shape=(2, 3, 5)):
    rng = np.random.default_rng(seed)
    return tuple(Categoricals(rng.normal(scale=2.0, size=shape).astype(np.float32)) for _ in range(2))


def test_golden():
    p, q = Normal(jnp.array([0.0, 1.0]), jnp.ones(2)), Normal(jnp.zeros(2), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(kl_divergence(p, q), np.log(2.0) + 2 / 8 - 0.5, rtol=1e-6)
    p, q = Categoricals(jnp.log(jnp.array([[0.5, 0.5]]))), Categoricals(jnp.log(jnp.array([[0.25, 0.75]])))
    np.testing.assert_allclose(kl_divergence(p, q), 0.5 * np.log(2) + 0.5 * np.log(2 / 3), rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_normal_equals_oracle_and_is_zero_only_on_itself(seed):
    p, q = some_normals(seed)
    wide = [np.asarray(x, np.float64) for x in jax.tree.leaves((p, q))]
    expected = [oracles.normal_kl(*(x[i] for x in wide)) for i in range(4)]
    np.testing.assert_allclose(compiled_kl(p, q), expected, rtol=1e-5, atol=1e-5)
    assert (np.asarray(compiled_kl(p, q)) > 0).all()
    np.testing.assert_allclose(compiled_kl(p, p), 0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_categoricals_equal_oracle_and_sum_over_groups(seed):
    p, q = some_categoricals(seed)
    wide_p, wide_q = (np.asarray(d.logits, np.float64) for d in (p, q))
    expected = [sum(oracles.categorical_kl(wide_p[i, g], wide_q[i, g]) for g in range(3)) for i in range(2)]
    np.testing.assert_allclose(compiled_kl(p, q), expected, rtol=1e-5, atol=1e-5)
    one = compiled_kl(OneHot(p.logits), OneHot(q.logits))
    assert one.shape == (2, 3)
    np.testing.assert_allclose(one.sum(-1), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(compiled_kl(p, p), 0, atol=1e-6)


@pytest.mark.parametrize("pair", [some_normals(3, (3,)), some_categoricals(3, (3, 5))], ids=["normal", "categoricals"])
def test_equals_the_mean_log_ratio_of_samples(pair):
    p, q = pair
    ratios = jax.jit(jax.vmap(lambda key: (lambda x: p.log_prob(x) - q.log_prob(x))(p.sample(key))))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    error = ratios.std() / np.sqrt(20_000)
    assert abs(ratios.mean() - kl_divergence(p, q)) < 4 * error
    assert error < 0.02 * kl_divergence(p, q)


def test_kinds_and_shapes_must_agree():
    normal, _ = some_normals(0)
    categoricals, _ = some_categoricals(0)
    with pytest.raises(TypeError, match="Normal and Categoricals"):
        kl_divergence(normal, categoricals)
    with pytest.raises(TypeError, match="Bernoulli"):
        kl_divergence(Bernoulli(jnp.zeros(3)), Bernoulli(jnp.zeros(3)))
    with pytest.raises(ValueError, match="3 and 4"):
        kl_divergence(normal, some_normals(0, (4, 4))[0])
    with pytest.raises(ValueError, match="groups"):
        kl_divergence(categoricals, some_categoricals(0, (2, 3, 4))[0])


def test_free_nats_mean_first_or_element_first():
    kl = jnp.array([1.0, 5.0])
    assert free_nats(kl, 2.0) == 3.0
    assert free_nats(kl, 4.0) == 4.0
    assert free_nats(kl, 2.0, per_element=True) == 3.5
    np.testing.assert_allclose(jax.grad(free_nats)(kl, 2.0), [0.5, 0.5])
    np.testing.assert_allclose(jax.grad(free_nats)(kl, 4.0), [0.0, 0.0])
    np.testing.assert_allclose(jax.grad(lambda x: free_nats(x, 2.0, per_element=True))(kl), [0.0, 0.5])


def gradients(post, prior, **options):
    return jax.grad(lambda a, b: balanced_kl(a, b, **options)[0], argnums=(0, 1))(post, prior)


@pytest.mark.parametrize("pair", [some_normals(5), some_categoricals(5)], ids=["normal", "categoricals"])
def test_balance_shares_out_the_gradient_and_leaves_the_value(pair):
    plain, raw = balanced_kl(*pair, balance=None, free_nats=0.0)
    loss, raw_balanced = balanced_kl(*pair, balance=0.8, free_nats=0.0)
    np.testing.assert_allclose([loss, raw, raw_balanced], plain, rtol=1e-6)
    np.testing.assert_allclose(plain, kl_divergence(*pair).mean(), rtol=1e-6)
    full_post, full_prior = gradients(*pair, balance=None, free_nats=0.0)
    post, prior = gradients(*pair, balance=0.8, free_nats=0.0)
    assert max(np.abs(x).max() for x in jax.tree.leaves(full_prior)) > 1e-3
    # 0.8 trains the prior.
    for part, full in zip(*map(jax.tree.leaves, (prior, full_prior))):
        np.testing.assert_allclose(part, 0.8 * full, rtol=1e-5, atol=1e-8)
    for part, full in zip(*map(jax.tree.leaves, (post, full_post))):
        np.testing.assert_allclose(part, 0.2 * full, rtol=1e-5, atol=1e-8)


def test_below_the_free_nats_nobody_is_trained():
    pair = some_normals(5)
    raw = float(kl_divergence(*pair).mean())
    for balance in (None, 0.8):
        loss, reported = balanced_kl(*pair, balance=balance, free_nats=raw + 1)
        np.testing.assert_allclose([loss, reported], [raw + 1, raw], rtol=1e-6)
        for side in gradients(*pair, balance=balance, free_nats=raw + 1):
            assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(side))


def test_per_element_reaches_both_terms():
    pair = some_normals(5)
    kl = np.asarray(kl_divergence(*pair))
    nats = float(np.median(kl))
    expected = np.maximum(kl, nats).mean()
    assert expected > max(kl.mean(), nats) + 1e-3
    for balance in (None, 0.8):
        loss, _ = balanced_kl(*pair, balance=balance, free_nats=nats, per_element=True)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
