"""The lambda-return: golden numbers, the O(T^2) sum form, gradients, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdreamer.ops.returns import discount_weights, lambda_return
from tests import oracles

compiled = jax.jit(lambda_return)


def test_golden_two_steps():
    # G_1 = 2 + 0.8 * (0.5 * 30 + 0.5 * 30) = 26;  G_0 = 1 + 0.5 * (0.5 * 20 + 0.5 * 26) = 12.5
    returns = lambda_return(
        reward=jnp.array([1.0, 2.0, 1e6]),
        value=jnp.array([1e6, 20.0, 30.0]),
        discount=jnp.array([0.5, 0.8, 1e6]),
        td_lambda=0.5,
    )
    np.testing.assert_allclose(returns, [12.5, 26.0], rtol=1e-6)
    assert returns.dtype == jnp.float32


def test_lambda_zero_is_one_step_and_lambda_one_is_the_discounted_sum():
    reward, value, discount = jnp.array([1.0, 2.0, 3.0, 9.0]), jnp.array([9.0, 5.0, 6.0, 7.0]), jnp.full(4, 0.5)
    one_step = lambda_return(reward=reward, value=value, discount=discount, td_lambda=0.0)
    np.testing.assert_allclose(one_step, [1 + 2.5, 2 + 3.0, 3 + 3.5], rtol=1e-6)
    full = lambda_return(reward=reward, value=value, discount=discount, td_lambda=1.0)
    np.testing.assert_allclose(full, [1 + 1 + 0.75 + 7 / 8, 2 + 1.5 + 7 / 4, 3 + 3.5], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 15]), st.floats(0, 1), st.integers(0, 2**31 - 1))
def test_equals_the_sum_of_n_step_returns(horizon, td_lambda, seed):
    rng = np.random.default_rng(seed)
    shape = (horizon + 1, 3)
    # Round to float32 first: the oracle then sees the very same numbers.
    reward = rng.normal(size=shape).astype(np.float32) * np.float32(rng.choice([0.01, 1.0, 100.0]))
    value = rng.normal(size=shape).astype(np.float32) * 10
    discount = rng.uniform(size=shape).astype(np.float32)
    td_lambda = float(np.float32(td_lambda))
    returns = compiled(reward=reward, value=value, discount=discount, td_lambda=td_lambda)
    wide = [x.astype(np.float64) for x in (reward, value, discount)]
    expected = np.stack([oracles.lambda_return(*(x[:, i] for x in wide), td_lambda) for i in range(3)], axis=1)
    scale = 1 + np.abs(wide[0]).max() + np.abs(wide[1]).max()
    np.testing.assert_allclose(returns, expected, rtol=2e-6, atol=1e-6 * scale)


def test_long_sequences_loop_and_agree_with_the_unrolled_ones():
    rng = np.random.default_rng(0)
    inputs = {name: rng.uniform(size=(41, 2)).astype(np.float32) for name in ("reward", "value", "discount")}
    expected = np.stack(
        [oracles.lambda_return(*(inputs[n][:, i].astype(np.float64) for n in inputs), 0.95) for i in range(2)], axis=1
    )
    np.testing.assert_allclose(lambda_return(**inputs, td_lambda=0.95), expected, rtol=3e-6)
    np.testing.assert_allclose(lambda_return(**inputs, td_lambda=0.95, unroll=1), expected, rtol=3e-6)


def test_gradients_reach_what_counts_and_nothing_else():
    def first(reward, value, discount):
        return lambda_return(reward=reward, value=value, discount=discount, td_lambda=0.5)[0]

    reward, value, discount = jnp.ones(3), jnp.array([7.0, 2.0, 3.0]), jnp.full(3, 0.5)
    by_reward, by_value, by_discount = jax.grad(first, argnums=(0, 1, 2))(reward, value, discount)
    # G_0 = r_0 + d_0 (v_1 / 2 + (r_1 + d_1 v_2) / 2)
    np.testing.assert_allclose(by_reward, [1.0, 0.25, 0.0], rtol=1e-6)
    np.testing.assert_allclose(by_value, [0.0, 0.25, 0.125], rtol=1e-6)
    np.testing.assert_allclose(by_discount, [1.0 + 0.5 * 2.5, 0.25 * 3.0, 0.0], rtol=1e-6)


def test_vmap_and_jit_equal_plain():
    rng = np.random.default_rng(1)
    inputs = [jnp.asarray(rng.uniform(size=(4, 5)), jnp.float32) for _ in range(3)]

    def call(reward, value, discount):
        return lambda_return(reward=reward, value=value, discount=discount, td_lambda=0.9)

    plain = call(*inputs)
    np.testing.assert_allclose(jax.jit(jax.vmap(call, in_axes=1, out_axes=1))(*inputs), plain, rtol=1e-6)


def test_computes_in_float32_whatever_comes_in():
    low = jnp.ones((16,), jnp.bfloat16)
    returns = lambda_return(reward=low, value=low, discount=low, td_lambda=1.0)
    assert returns.dtype == jnp.float32
    np.testing.assert_array_equal(returns, np.arange(16, 1, -1))


@pytest.mark.parametrize("shapes", [((3,), (3,), (2,)), ((3, 2), (3, 2), (3, 1)), ((1,), (1,), (1,)), ((), (), ())])
def test_wrong_shapes_are_refused_by_name(shapes):
    reward, value, discount = (jnp.ones(s) for s in shapes)
    with pytest.raises(ValueError, match=r"lambda_return.*found"):
        lambda_return(reward=reward, value=value, discount=discount, td_lambda=0.9)


def test_discount_weights_golden():
    np.testing.assert_allclose(discount_weights(jnp.array([0.5, 0.0, 0.9])), [1.0, 0.5, 0.0])
    np.testing.assert_allclose(discount_weights(jnp.array([0.25])), [1.0])
    with pytest.raises(ValueError, match="discount_weights"):
        discount_weights(jnp.zeros((0, 3)))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=7, max_size=7))
def test_discount_weights_equal_the_products(discount):
    weights = discount_weights(jnp.stack([jnp.array(discount), jnp.ones(7)], axis=1))
    np.testing.assert_allclose(weights[:, 0], oracles.discount_weights(discount), rtol=2e-6, atol=1e-37)
    np.testing.assert_array_equal(weights[:, 1], np.ones(7))


def test_discount_weights_carry_no_gradient():
    np.testing.assert_array_equal(jax.grad(lambda d: discount_weights(d).sum())(jnp.full(4, 0.9)), np.zeros(4))
