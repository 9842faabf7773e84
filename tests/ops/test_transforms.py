"""Elementwise maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.ops import transforms
from tests import oracles


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=5, max_size=5))
def test_symlog_equals_oracle_and_symexp_undoes_it(values):
    x = jnp.array(values, jnp.float32)
    np.testing.assert_allclose(transforms.symlog(x), [oracles.symlog(v) for v in values], rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(transforms.symexp(transforms.symlog(x)), x, rtol=2e-5, atol=1e-30)


def test_symlog_golden():
    np.testing.assert_allclose(transforms.symlog(jnp.array([np.e - 1, 0.0, 1 - np.e])), [1.0, 0.0, -1.0], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-7, 7, width=32), min_size=4, max_size=4))
def test_two_hot_equals_oracle_and_keeps_the_number(values):
    bins = np.array([-5.0, -2.0, -0.5, 0.0, 1.0, 5.0], np.float32)
    weights = np.asarray(jax.jit(transforms.two_hot)(jnp.array(values, jnp.float32), bins))
    np.testing.assert_allclose(weights, [oracles.two_hot(v, bins.astype(float)) for v in values], atol=1e-6)
    np.testing.assert_allclose(weights @ bins, np.clip(values, -5, 5), rtol=1e-5, atol=1e-6)
    assert ((weights > 0).sum(-1) <= 2).all()


def test_two_hot_on_a_bin_and_outside():
    bins = jnp.array([-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(
        transforms.two_hot(jnp.array([-9.0, -1.0, 0.0, 1.0, 9.0]), bins),
        [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]],
    )
    with pytest.raises(ValueError, match="bins"):
        transforms.two_hot(jnp.zeros(3), jnp.zeros((2, 3)))


@pytest.mark.parametrize("count", [2, 4, 41, 255])
def test_symmetric_bins_are_symmetric_to_the_bit(count):
    bins = np.asarray(transforms.symmetric_bins(20.0, count))
    np.testing.assert_array_equal(bins, -bins[::-1])
    np.testing.assert_allclose(bins, np.linspace(-20, 20, count), atol=1e-5)
    assert (np.diff(bins) > 0).all()


def test_symmetric_bins_refuses_nonsense():
    for limit, count in [(20.0, 1), (0.0, 5)]:
        with pytest.raises(ValueError, match="symmetric_bins"):
            transforms.symmetric_bins(limit, count)


def test_gaussian_std_golden():
    raw = jnp.array([-100.0, 0.0, 100.0])
    np.testing.assert_allclose(transforms.gaussian_std(raw, "softplus"), [0.1, np.log(2) + 0.1, 100.1], rtol=1e-6)
    np.testing.assert_allclose(transforms.gaussian_std(raw, "sigmoid2"), [0.1, 1.1, 2.1], rtol=1e-6)
    np.testing.assert_allclose(
        transforms.gaussian_std(jnp.array(2.0), "sigmoid2"), 2 / (1 + np.exp(-1)) + 0.1, rtol=1e-6
    )
    with pytest.raises(ValueError, match="sigmoid2"):
        transforms.gaussian_std(raw, "exp")


def test_straight_through_clip_clips_values_and_not_gradients():
    x = jnp.array([-1.3, -0.2, 0.7, 123.4])
    np.testing.assert_array_equal(
        transforms.straight_through_clip(x, -0.9, 0.9), np.array([-0.9, -0.2, 0.7, 0.9], np.float32)
    )
    gradient = jax.grad(lambda v: (transforms.straight_through_clip(v, -0.9, 0.9) * jnp.arange(1.0, 5.0)).sum())(x)
    np.testing.assert_array_equal(gradient, [1, 2, 3, 4])


def test_images_go_there_and_back():
    pixels = jnp.arange(256, dtype=jnp.uint8)
    floats = transforms.image_to_float(pixels)
    assert floats.dtype == jnp.float32
    assert floats[0] == -0.5 and floats[255] == 0.5
    back = transforms.float_to_image(floats)
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(back, pixels)
    # Predictions leave the range; they must not wrap around.
    np.testing.assert_array_equal(transforms.float_to_image(jnp.array([-0.7, 0.7, 9.0])), [0, 255, 255])
    with pytest.raises(ValueError, match="uint8"):
        transforms.image_to_float(floats)


def test_merged_moments_are_those_of_all_vectors_at_once():
    rng = np.random.default_rng(0)
    parts = [rng.normal([3.0, -50.0], [0.1, 7.0], shape) for shape in ((5, 2), (2, 3, 2), (1, 2))]
    moments = transforms.no_moments(2)
    for part in parts:
        moments = transforms.merge_moments(moments, part)
    everything = np.concatenate([part.reshape(-1, 2) for part in parts])
    assert moments.number == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(axis=0), rtol=1e-4)


def test_moments_past_their_limit_forget_the_old():
    moments = transforms.Moments(jnp.asarray(10.0), jnp.zeros(1), jnp.ones(1))
    for _ in range(20):  # each time the old weigh 10, the new 10: the mean's distance to 4 halves
        moments = transforms.merge_moments(moments, jnp.full((10, 1), 4.0), limit=10.0)
    assert moments.number == 10
    np.testing.assert_allclose(moments.mean, 4.0, rtol=1e-5)
    np.testing.assert_allclose(moments.variance, 0.0, atol=1e-4)


def test_standardize_golden():
    moments = transforms.Moments(jnp.asarray(9.0), jnp.array([1.0, 1.0, 1.0]), jnp.array([4.0, 1e-8, 4.0]))
    np.testing.assert_allclose(
        transforms.standardize(jnp.array([5.0, 1.002, 99.0]), moments), [2.0, 2.0, 10.0], rtol=1e-3
    )
    x = jnp.array([5.0, -7.0])
    np.testing.assert_array_equal(transforms.standardize(x, transforms.no_moments(2)), x)
