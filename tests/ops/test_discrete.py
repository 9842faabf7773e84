"""OneHot, Categoricals, Bernoulli, TwoHot: probabilities, straight-through gradients, stability."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.ops.distributions import Bernoulli, Categoricals, OneHot, TwoHot
from jaxdreamer.ops.transforms import symmetric_bins
from tests import oracles

SEEDS = st.integers(0, 2**31 - 1)
evaluate = jax.jit(lambda dist, x: (dist.log_prob(x), dist.entropy(), dist.mean()))


from_noise = jax.jit(lambda dist, noise: dist.from_noise(noise))


def draw(dist, count):
    return np.asarray(jax.jit(jax.vmap(dist.sample))(jax.random.split(jax.random.key(0), count)))


def some_logits(seed, shape):
    return np.random.default_rng(seed).normal(scale=2.0, size=shape).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_one_hot_equals_oracle(seed):
    logits = some_logits(seed, (3, 5))
    choice = np.random.default_rng(seed + 1).integers(5, size=3)
    found_log_prob, entropy, mean = evaluate(OneHot(logits), jnp.asarray(np.eye(5)[choice], jnp.float32))
    probs = np.array([oracles.softmax(row) for row in logits.astype(np.float64)])
    np.testing.assert_allclose(found_log_prob, np.log(probs[np.arange(3), choice]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entropy, [oracles.categorical_entropy(r) for r in logits.astype(float)], atol=1e-5)
    np.testing.assert_allclose(mean, probs, atol=1e-6)


def test_one_hot_samples_follow_the_probabilities():
    probs = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0001]])
    samples = draw(OneHot(jnp.log(jnp.asarray(probs, jnp.float32))), 10_000)
    assert set(np.unique(samples)) == {0.0, 1.0}  # exactly: the straight-through sum must not leave a rounding error
    assert (samples.sum(-1) == 1).all()
    np.testing.assert_allclose(samples.mean(0), probs, atol=0.02)


@pytest.mark.parametrize("make", [OneHot, lambda logits: Categoricals(logits.reshape(1, -1))], ids=["onehot", "groups"])
def test_straight_through_gradient_is_that_of_the_probabilities(make):
    logits, weights = jnp.array([0.3, -1.0, 2.0]), jnp.array([1.0, -2.0, 5.0])
    through = jax.grad(lambda x: (make(x).sample(jax.random.key(0)) * weights).sum())(logits)
    exact = jax.grad(lambda x: (jax.nn.softmax(x) * weights).sum())(logits)
    np.testing.assert_allclose(through, exact, rtol=1e-5)
    assert np.abs(exact).max() > 0.1
    np.testing.assert_array_equal(jax.grad(lambda x: (make(x).mode() * weights).sum())(logits), np.zeros(3))


def test_mode_takes_the_likeliest():
    np.testing.assert_array_equal(OneHot(jnp.array([[0.0, 3.0, 1.0]])).mode(), [[0, 1, 0]])
    groups = Categoricals(jnp.array([[[0.0, 3.0], [9.0, 1.0], [1.0, 2.0]]]))
    np.testing.assert_array_equal(groups.mode(), [[0, 1, 1, 0, 0, 1]])
    assert groups.size == 6 and OneHot(jnp.zeros((2, 4))).size == 4


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_categoricals_are_groups_of_one_hots_flattened(seed):
    logits = some_logits(seed, (2, 3, 4))
    groups, single = Categoricals(logits), OneHot(logits)
    noise = groups.noise(jax.random.key(seed))
    sample = from_noise(groups, noise)
    np.testing.assert_array_equal(sample, from_noise(single, noise).reshape(2, 12))
    log_prob, entropy, mean = evaluate(groups, sample)
    np.testing.assert_allclose(log_prob, single.log_prob(sample.reshape(2, 3, 4)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(entropy, single.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_allclose(mean, single.mean().reshape(2, 12), rtol=1e-6)


def test_categoricals_probabilities_of_all_outcomes_add_up_to_one():
    groups = Categoricals(jnp.asarray(some_logits(0, (2, 3))))
    outcomes = [np.concatenate([np.eye(3)[a], np.eye(3)[b]]) for a, b in itertools.product(range(3), repeat=2)]
    log_probs = np.asarray(groups.log_prob(jnp.asarray(np.array(outcomes), jnp.float32)))
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(-(np.exp(log_probs) * log_probs).sum(), groups.entropy(), rtol=1e-5)


def test_extreme_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    dist = OneHot(logits)
    np.testing.assert_allclose(dist.entropy(), [0.0, np.log(3)], atol=1e-6)
    gradient = jax.grad(lambda x: OneHot(x).entropy().sum() + OneHot(x).kl(OneHot(-x)).sum())(logits)
    assert np.isfinite(gradient).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), st.lists(st.floats(-8, 8, width=32), min_size=4))
def test_bernoulli_takes_soft_labels(labels, logits):
    logits = logits[:4]
    log_prob, entropy, mean = evaluate(Bernoulli(jnp.array(logits, jnp.float32)), jnp.array(labels, jnp.float32))
    expected = [oracles.bernoulli_log_prob(x, z) for x, z in zip(labels, logits)]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean, [1 / (1 + np.exp(-z)) for z in logits], rtol=1e-5)
    expected = [-oracles.bernoulli_log_prob(1 / (1 + np.exp(-z)), z) for z in logits]
    np.testing.assert_allclose(entropy, expected, rtol=1e-4, atol=1e-6)


def test_bernoulli_is_stable_and_sums_nothing():
    dist = Bernoulli(jnp.array([[500.0], [-500.0]]))
    np.testing.assert_allclose(dist.log_prob(jnp.array([[1.0], [1.0]])), [[0.0], [-500.0]])
    np.testing.assert_allclose(dist.log_prob(jnp.array([[0.0], [0.0]])), [[-500.0], [0.0]])
    np.testing.assert_allclose(dist.entropy(), [[0.0], [0.0]])
    gradient = jax.grad(lambda z: Bernoulli(z).log_prob(jnp.full((2, 1), 0.99)).sum())(dist.logits)
    np.testing.assert_allclose(gradient, [[-0.01], [0.99]], rtol=1e-4)
    with pytest.raises(ValueError, match=r"\(2,\).*\(2, 1\)"):
        dist.log_prob(jnp.zeros(2))


def test_bernoulli_samples_and_mode():
    dist = Bernoulli(jnp.array([-1.0, 0.5, 3.0]))
    np.testing.assert_array_equal(dist.mode(), [0, 1, 1])
    samples = draw(dist, 10_000)
    assert set(np.unique(samples)) == {0.0, 1.0}
    np.testing.assert_allclose(samples.mean(0), dist.mean(), atol=0.02)


@pytest.mark.parametrize("count", [40, 255])
def test_two_hot_head_predicts_exactly_zero_at_first(count):
    dist = TwoHot(jnp.zeros((3, count)), symmetric_bins(20.0, count))
    for mean in (dist.mean(), jax.jit(lambda d: d.mean())(dist)):
        np.testing.assert_array_equal(mean, np.zeros(3))


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(-500, 500))
def test_two_hot_equals_oracle(seed, x):
    x = float(np.float32(x))
    bins = np.array([-8.0, -3.0, -1.0, 0.5, 2.0, 3.0, 7.5], np.float32)  # uneven on purpose
    logits = some_logits(seed, (2, 7))
    log_prob, entropy, mean = evaluate(TwoHot(logits, bins), jnp.full(2, x, jnp.float32))
    probs = np.array([oracles.softmax(row) for row in logits.astype(np.float64)])
    target = oracles.two_hot(oracles.symlog(x), bins.astype(float))
    np.testing.assert_allclose(log_prob, np.log(probs) @ target, rtol=1e-4, atol=1e-4)
    flat = probs @ bins.astype(float)
    np.testing.assert_allclose(mean, np.sign(flat) * np.expm1(np.abs(flat)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(entropy, [oracles.categorical_entropy(r) for r in logits.astype(float)], atol=1e-5)


def test_two_hot_log_prob_is_best_at_its_target_and_mode_gives_it_back():
    bins = symmetric_bins(20.0, 41)
    x = jnp.array([-1234.5, 0.0, 0.3, 77.0])
    gradient = jax.jit(jax.grad(lambda z: TwoHot(z, bins).log_prob(x).sum()))
    # d log_prob / d logits = target - probs: at zero logits this gives the target away, at the target it is zero.
    logits = jnp.log(gradient(jnp.zeros((4, 41))) + 1 / 41 + 1e-9)
    dist = TwoHot(logits, bins)
    np.testing.assert_allclose(dist.mode(), x, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(gradient(logits), 0, atol=1e-5)
    with pytest.raises(ValueError, match="prediction"):
        dist.log_prob(jnp.zeros((4, 1)))


def test_two_hot_samples_are_bins():
    dist = TwoHot(jnp.log(jnp.array([0.25, 0.75])), jnp.array([-1.0, 2.0]))
    samples = draw(dist, 4000)
    np.testing.assert_allclose(np.unique(samples), [1 - np.e, np.e**2 - 1], rtol=1e-6)
    assert abs((samples > 0).mean() - 0.75) < 0.03
