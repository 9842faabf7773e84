"""Normal, UnitNormal, TanhNormal, TruncatedNormal: densities, samples, entropies, gradients."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.ops.distributions import (
    Normal,
    TanhNormal,
    TruncatedNormal,
    UnitNormal,
    tanh_normal_from_raw,
    truncated_normal_from_raw,
)
from tests import oracles

SEEDS = st.integers(0, 2**31 - 1)
# Middle, near the border, on it, narrow and wide: where an inverse CDF in float32 goes wrong first.
TRUNCATED = [(0.0, 1.1), (0.3, 0.1), (0.95, 0.1), (-0.999, 0.3), (1.0, 0.1), (-1.0, 1.1), (0.9999, 2.1)]

log_prob = jax.jit(lambda dist, x: dist.log_prob(x))
from_noise = jax.jit(lambda dist, noise: dist.from_noise(noise))


def draw(dist, count, seed=0):
    """Samples [count, ...]."""
    return np.asarray(jax.jit(jax.vmap(dist.sample))(jax.random.split(jax.random.key(seed), count)))


def on_a_line(dist):
    """Density of a distribution over vectors of width one, as an array function."""
    return lambda x: np.exp(np.asarray(log_prob(dist, jnp.asarray(x[:, None], jnp.float32)), np.float64))


def agrees_with_histogram(dist, low, high, bins=12, count=20_000):
    """Whether samples fall into equal bins as often as the density says."""
    edges = np.linspace(low, high, bins + 1)
    samples = draw(dist, count)[:, 0]
    for left, right in itertools.pairwise(edges):
        expected = oracles.integrate(on_a_line(dist), left, right, points=400)
        found = ((samples >= left) & (samples < right)).mean()
        assert abs(found - expected) < 4.5 * math.sqrt(expected * (1 - expected) / count) + 1e-3, (left, right)


# --- Normal ---


def test_normal_golden():
    dist = Normal(jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(dist.log_prob(jnp.array([1.0, 1.0])), -0.5 - np.log(2 * np.pi) - np.log(2), rtol=1e-6)
    np.testing.assert_allclose(dist.entropy(), np.log(2 * np.pi * np.e) + np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(dist.from_noise(jnp.array([1.0, -1.0])), [1.0, -1.0])
    np.testing.assert_array_equal(dist.mode(), [0.0, 1.0])
    np.testing.assert_array_equal(dist.mean(), [0.0, 1.0])
    assert dist.size == 2


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_normal_log_prob_equals_oracle(seed):
    rng = np.random.default_rng(seed)
    x, loc = (rng.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    std = rng.uniform(0.1, 2, size=(4, 3)).astype(np.float32)
    expected = [oracles.normal_log_prob(*(a[i].astype(np.float64) for a in (x, loc, std))) for i in range(4)]
    np.testing.assert_allclose(log_prob(Normal(loc, std), x), expected, rtol=1e-5, atol=1e-5)


def test_normal_density_integrates_to_one_and_samples_follow_it():
    dist = Normal(jnp.array([0.5]), jnp.array([0.7]))
    assert abs(oracles.integrate(on_a_line(dist), -6, 7) - 1) < 1e-4
    agrees_with_histogram(dist, -2, 3)


def test_normal_samples_pass_gradients():
    grad = jax.grad(lambda d: d.from_noise(jnp.array([2.0, -3.0])).sum())(Normal(jnp.zeros(2), jnp.ones(2)))
    np.testing.assert_array_equal(grad.loc, [1, 1])
    np.testing.assert_array_equal(grad.std, [2, -3])


# --- UnitNormal ---


def test_unit_normal_golden_and_event_axes():
    dist = UnitNormal(jnp.zeros((2, 3, 4, 5)))
    x = jnp.ones((2, 3, 4, 5))
    each = -0.5 - 0.5 * np.log(2 * np.pi)
    for event_ndim in range(4):
        found = dist.log_prob(x, event_ndim)
        assert found.shape == (2, 3, 4, 5)[: 4 - event_ndim]
        np.testing.assert_allclose(found, each * np.prod((2, 3, 4, 5)[4 - event_ndim :]), rtol=1e-5)
        entropy = dist.entropy(event_ndim=event_ndim)
        assert entropy.shape == found.shape
        np.testing.assert_allclose(entropy, -each * np.prod((2, 3, 4, 5)[4 - event_ndim :]), rtol=1e-5)
    assert dist.log_prob(x).shape == (2, 3, 4, 5)


def test_unit_normal_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(3,\).*\(3, 1\)"):
        UnitNormal(jnp.zeros((3, 1))).log_prob(jnp.zeros(3))


# --- TanhNormal ---


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_tanh_normal_log_prob_equals_oracle(seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(4, 3))
    loc, std = rng.normal(size=(4, 3)).astype(np.float32), rng.uniform(0.3, 5, size=(4, 3)).astype(np.float32)
    expected = [
        oracles.tanh_normal_log_prob_at_tanh_of(x[i], loc[i].astype(float), std[i].astype(float)) for i in range(4)
    ]
    found = log_prob(TanhNormal(loc, std), jnp.asarray(np.tanh(x), jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_tanh_normal_sample_knows_its_log_prob_even_in_saturation():
    dist = TanhNormal(jnp.array([15.0, -20.0, 0.3]), jnp.array([0.5, 2.0, 0.7]))
    key = jax.random.key(0)
    y, found = dist.sample_and_log_prob(key)
    np.testing.assert_array_equal(y, dist.sample(key))
    assert abs(y[0]) > 0.999999  # tanh has rounded, to 1 or near it: the sample alone no longer tells its density
    x = np.asarray(dist.loc + dist.std * dist.noise(key), np.float64)
    expected = oracles.tanh_normal_log_prob_at_tanh_of(x, np.asarray(dist.loc, float), np.asarray(dist.std, float))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_tanh_normal_density_integrates_to_one_and_samples_follow_it():
    for loc, std in [(0.3, 0.5), (-0.5, 1.5)]:
        dist = TanhNormal(jnp.array([loc]), jnp.array([std]))
        assert abs(oracles.integrate(on_a_line(dist), -1, 1, points=20_001) - 1) < 5e-3
        agrees_with_histogram(dist, -0.95, 0.95)


@pytest.mark.parametrize("y", [1.0, -1.0, 0.99999994, -0.9999999, 0.0])
def test_tanh_normal_is_finite_up_to_the_border(y):
    def total(loc, std, y):
        return TanhNormal(loc, std).log_prob(y)

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(
        jnp.array([0.5]), jnp.array([0.8]), jnp.array([y], jnp.float32)
    )
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert gradients[0] != 0


def test_tanh_normal_entropy_and_its_gradient():
    # H(tanh(x)) = H(x) + E[log(1 - tanh(x)^2)], the expectation by numeric integration.
    def exact(loc, std):
        x = loc + std * np.linspace(-9, 9, 20_001)
        weights = np.exp(-0.5 * np.linspace(-9, 9, 20_001) ** 2)
        return 0.5 + 0.5 * np.log(2 * np.pi) + np.log(std) - 2 * np.average(np.log(np.cosh(x)), weights=weights)

    def estimate(loc, std):
        return TanhNormal(jnp.array([loc]), jnp.array([std])).entropy(jax.random.key(0), samples=20_000)[()]

    value, (by_loc, by_std) = jax.jit(jax.value_and_grad(estimate, argnums=(0, 1)))(0.4, 1.2)
    assert abs(value - exact(0.4, 1.2)) < 0.03
    assert abs(by_loc - (exact(0.41, 1.2) - exact(0.39, 1.2)) / 0.02) < 0.03
    assert abs(by_std - (exact(0.4, 1.21) - exact(0.4, 1.19)) / 0.02) < 0.05
    with pytest.raises(ValueError, match="key"):
        TanhNormal(jnp.zeros(1), jnp.ones(1)).entropy()


def test_tanh_normal_mean_equals_that_of_samples():
    dist = TanhNormal(jnp.array([0.0, 0.5, -3.0, 2.0]), jnp.array([1.0, 0.2, 5.0, 8.0]))
    np.testing.assert_allclose(dist.mean(), draw(dist, 40_000).mean(0), atol=0.02)
    fine = np.linspace(-8, 8, 100_001)
    weights = np.exp(-0.5 * fine**2)
    expected = [
        np.average(np.tanh(m + s * fine), weights=weights) for m, s in zip(np.asarray(dist.loc), np.asarray(dist.std))
    ]
    np.testing.assert_allclose(dist.mean(), expected, atol=1e-4)


def test_tanh_normal_best_of_is_the_densest_of_its_draws():
    dist = TanhNormal(jnp.array([[0.5, -0.3], [1.0, 0.0]]), jnp.array([[0.4, 0.3], [0.2, 0.3]]))
    key = jax.random.key(3)
    best = dist.best_of(key, samples=50)
    draws = np.asarray(jax.vmap(dist.sample)(jax.random.split(key, 50)))
    densities = np.asarray(dist.log_prob(jnp.asarray(draws)))
    for row in range(2):
        np.testing.assert_allclose(best[row], draws[densities[:, row].argmax(), row], rtol=1e-5)
    assert densities.argmax(0)[0] != densities.argmax(0)[1]  # else a choice shared by all rows would pass
    np.testing.assert_allclose(dist.mode(), np.tanh(np.asarray(dist.loc)), rtol=1e-6)


def test_tanh_normal_from_raw_golden():
    dist = tanh_normal_from_raw(jnp.array([0.0, 5.0, 1e3]), jnp.array([0.0, 0.0, -1e3]))
    np.testing.assert_allclose(dist.loc, [0.0, 5 * np.tanh(1.0), 5.0], rtol=1e-6)
    np.testing.assert_allclose(dist.std, [5.0001, 5.0001, 1e-4], rtol=1e-6)
    other = tanh_normal_from_raw(jnp.array([1e3]), jnp.array([0.0]), mean_scale=2.0, init_std=1.0, min_std=0.1)
    np.testing.assert_allclose([other.loc[0], other.std[0]], [2.0, 1.1], rtol=1e-6)


# --- TruncatedNormal ---


@pytest.mark.parametrize("loc, std", TRUNCATED)
def test_truncated_quantiles_equal_bisection(loc, std):
    u = np.array([1e-5, 0.003, 0.2, 0.5, 0.71, 0.98, 0.9999, 1 - 1e-5], np.float32)
    dist = TruncatedNormal(jnp.full(8, loc, jnp.float32), jnp.full(8, std, jnp.float32))
    wide = float(np.float32(loc)), float(np.float32(std))
    expected = [oracles.truncated_quantile(float(v), *wide) for v in u]
    np.testing.assert_allclose(from_noise(dist, u), np.clip(expected, -1 + 1e-6, 1 - 1e-6), atol=3e-6)


@pytest.mark.parametrize("loc, std", TRUNCATED)
def test_truncated_gradients_equal_finite_differences(loc, std):
    u = np.array([1e-5, 0.003, 0.2, 0.5, 0.71, 0.98, 0.9999], np.float32)
    dist = TruncatedNormal(jnp.full(7, loc, jnp.float32), jnp.full(7, std, jnp.float32))
    grad = jax.jit(jax.grad(lambda d: d.from_noise(u).sum()))(dist)
    for found, (dl, ds) in [(grad.loc, (1e-5, 0)), (grad.std, (0, 1e-5))]:
        differences = [
            oracles.truncated_quantile(float(v), loc + dl, std + ds)
            - oracles.truncated_quantile(float(v), loc - dl, std - ds)
            for v in u
        ]
        np.testing.assert_allclose(found, np.array(differences) / 2e-5, rtol=2e-3, atol=2e-4)


def test_truncated_gradients_stay_finite_at_the_extremes():
    loc, std, u = np.meshgrid([-1.0, -0.9999999, 0.0, 1.0], [0.1, 0.1001, 2.1], [0.0, 2.0**-24, 1 - 2.0**-24, 1.0])
    dist = TruncatedNormal(*(jnp.asarray(a.ravel(), jnp.float32) for a in (loc, std)))
    samples = from_noise(dist, jnp.asarray(u.ravel(), jnp.float32))
    gradients = jax.jit(jax.grad(lambda d: d.from_noise(jnp.asarray(u.ravel(), jnp.float32)).sum()))(dist)
    assert np.isfinite(samples).all() and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert np.abs(samples).max() <= 1 - 1e-6 + 1e-7


def test_truncated_noise_is_open_and_uniform():
    noise = np.asarray(TruncatedNormal(jnp.zeros(40_000), jnp.ones(40_000)).noise(jax.random.key(0)))
    assert noise.min() > 0 and noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.006 and abs(noise.var() - 1 / 12) < 0.002


@pytest.mark.parametrize("loc, std", TRUNCATED)
def test_truncated_density_and_moments(loc, std):
    dist = TruncatedNormal(jnp.array([loc], jnp.float32), jnp.array([std], jnp.float32))
    density = on_a_line(dist)
    assert abs(oracles.integrate(density, -1, 1) - 1) < 1e-4
    expected_mean = oracles.integrate(lambda x: x * density(x), -1, 1)
    np.testing.assert_allclose(dist.mean()[0], expected_mean, atol=1e-4)
    expected_entropy = oracles.integrate(lambda x: -density(x) * np.log(np.maximum(density(x), 1e-38)), -1, 1)
    np.testing.assert_allclose(dist.entropy(), expected_entropy, atol=1e-3)
    for x in (-0.9, 0.0, 0.4):
        expected = oracles.truncated_log_prob(x, float(np.float32(loc)), float(np.float32(std)))
        np.testing.assert_allclose(log_prob(dist, jnp.array([x])), expected, rtol=1e-5, atol=1e-5)


def test_truncated_samples_follow_the_density():
    for loc, std in [(0.0, 1.1), (0.95, 0.3)]:
        agrees_with_histogram(TruncatedNormal(jnp.array([loc]), jnp.array([std])), -1, 1)


def test_truncated_vectors_sum_and_borders():
    loc, std = jnp.array([0.2, 1.0]), jnp.array([0.5, 1.0])
    dist = TruncatedNormal(loc, std)
    x = jnp.array([0.1, -0.7])
    one_by_one = [TruncatedNormal(loc[i : i + 1], std[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(dist.log_prob(x), sum(d.log_prob(x[i : i + 1]) for i, d in enumerate(one_by_one)))
    np.testing.assert_allclose(dist.entropy(), sum(d.entropy() for d in one_by_one), rtol=1e-6)
    np.testing.assert_array_equal(dist.mode(), np.array([0.2, 1 - 1e-6], np.float32))
    assert dist.log_prob(jnp.array([0.1, 1.5])) == -np.inf
    assert np.isfinite(dist.log_prob(jnp.array([1.0, -1.0])))


def test_truncated_from_raw_golden():
    dist = truncated_normal_from_raw(jnp.array([0.0, 1.0, 1e3]), jnp.array([0.0, 2.0, -1e3]))
    np.testing.assert_allclose(dist.loc, [0, np.tanh(1.0), 1.0], rtol=1e-6)
    np.testing.assert_allclose(dist.std, [1.1, 2 / (1 + np.exp(-1.0)) + 0.1, 0.1], rtol=1e-6)
