"""Running moments of vectors."""

import jax.numpy as jnp
import numpy as np

from jaxdreamer.ops import moments as running


def test_merged_moments_are_those_of_all_vectors_at_once():
    rng = np.random.default_rng(0)
    parts = [rng.normal([3.0, -50.0], [0.1, 7.0], shape) for shape in ((5, 2), (2, 3, 2), (1, 2))]
    moments = running.no_moments(2)
    for part in parts:
        moments = running.merge_moments(moments, part)
    everything = np.concatenate([part.reshape(-1, 2) for part in parts])
    assert moments.number == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(axis=0), rtol=1e-4)


def test_moments_past_their_limit_forget_the_old():
    moments = running.Moments(jnp.asarray(10.0), jnp.zeros(1), jnp.ones(1))
    for _ in range(20):  # each time the old weigh 10, the new 10: the mean's distance to 4 halves
        moments = running.merge_moments(moments, jnp.full((10, 1), 4.0), limit=10.0)
    assert moments.number == 10
    np.testing.assert_allclose(moments.mean, 4.0, rtol=1e-5)
    np.testing.assert_allclose(moments.variance, 0.0, atol=1e-4)


def test_standardize_golden():
    moments = running.Moments(jnp.asarray(9.0), jnp.array([1.0, 1.0, 1.0]), jnp.array([4.0, 1e-8, 4.0]))
    np.testing.assert_allclose(running.standardize(jnp.array([5.0, 1.002, 99.0]), moments), [2.0, 2.0, 10.0], rtol=1e-3)
    x = jnp.array([5.0, -7.0])
    np.testing.assert_array_equal(running.standardize(x, running.no_moments(2)), x)
