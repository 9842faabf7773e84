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
