"""Returns of imagined sequences: the lambda-return and the weights that go with it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

# Imagination horizons are around 15: unrolled, the whole recursion fuses into one kernel. Longer ones loop.
_MAX_UNROLL = 32


def lambda_return(
    *, reward: Array, value: Array, discount: Array, td_lambda: float | Array, unroll: int | None = None
) -> Array:
    """Mix the n-step returns of every n, weighted geometrically: the target of the critic and of the actor.

    ``G_k = r_k + d_k * ((1 - lambda) * v_{k+1} + lambda * G_{k+1})`` for ``k = 0 .. K-1``, with ``G_K := v_K``.

    ``r_k`` is the reward received on **arriving** in state ``k``: ``G_k`` and the value of state ``k`` include it. The
    last entries ``r_K`` and ``d_K`` take no part: state ``K`` is known by its value alone.

    Args:
        reward: float [K+1, ...].
        value: float [K+1, ...], the critic's value of state ``k``.
        discount: float [K+1, ...] in [0, 1], discount factor times the probability that the task continues after ``k``.
        td_lambda: in [0, 1]; 0 is the one-step target, 1 the discounted sum with ``v_K`` at its end.
        unroll: steps per loop iteration; by default everything up to 32 steps.

    Returns:
        float32 [K, ...].

    Raises:
        ValueError: the three shapes differ, or there are fewer than two entries.

    Source: DreamerV1 (arXiv:1912.01603) equations 4 to 6; DreamerV2 (arXiv:2010.02193) equation 4.
    """
    reward, value, discount = (jnp.asarray(x, jnp.float32) for x in (reward, value, discount))
    if not reward.shape == value.shape == discount.shape:
        raise ValueError(
            "lambda_return: reward, value and discount must have one shape [K+1, ...], "
            f"found {reward.shape}, {value.shape} and {discount.shape}"
        )
    if reward.ndim == 0 or reward.shape[0] < 2:
        raise ValueError(f"lambda_return: needs at least two entries on the first axis, found shape {reward.shape}")
    steps = reward.shape[0] - 1
    reward_k, discount_k, value_kp1 = reward[:-1], discount[:-1], value[1:]
    td_lambda = jnp.asarray(td_lambda, jnp.float32)
    # Everything that does not depend on G_{k+1} is done for all k at once.
    one_step = reward_k + discount_k * (1.0 - td_lambda) * value_kp1

    def backward(return_kp1: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        one_step_k, decay_k = inputs
        return_k = one_step_k + decay_k * return_kp1
        return return_k, return_k

    _, returns = lax.scan(
        backward,
        value[-1],
        (one_step, discount_k * td_lambda),
        reverse=True,
        unroll=min(steps, _MAX_UNROLL) if unroll is None else unroll,
    )
    return returns


def discount_weights(discount: Array) -> Array:
    """How much state ``k`` counts: the probability that imagination gets there, times the discounting so far.

    ``w_k = prod_{j<k} d_j`` for ``k = 0 .. K-1``, ``w_0 = 1``; no gradient flows through it.

    Args:
        discount: float [K, ...] in [0, 1]. ``d_{K-1}`` takes no part.

    Returns:
        float32 [K, ...].

    Raises:
        ValueError: there is no first axis, or it is empty.

    Source: DreamerV1 (arXiv:1912.01603) and DreamerV2 (arXiv:2010.02193), where the discount is predicted.
    """
    discount = jnp.asarray(discount, jnp.float32)
    if discount.ndim == 0 or discount.shape[0] == 0:
        raise ValueError(f"discount_weights: needs at least one entry on the first axis, found shape {discount.shape}")

    # Not cumprod: where the discount is a constant, XLA evaluates that while compiling, for seconds, and complains of it.
    def forward(weight_k: Array, discount_k: Array) -> tuple[Array, Array]:
        return weight_k * discount_k, weight_k

    first = jnp.ones_like(discount[0])
    _, weights = lax.scan(forward, first, discount, unroll=min(discount.shape[0], _MAX_UNROLL))
    return lax.stop_gradient(weights)


class Range(NamedTuple):
    """Running percentiles of returns."""

    low: Array  # float32 []
    high: Array  # float32 []


def no_range() -> Range:
    """The range before any return was seen: both ends at 0."""
    return Range(jnp.zeros(()), jnp.zeros(()))


def track_range(found: Range, returns: Array, *, rate: float, low: float, high: float) -> Range:
    """Move the ends towards two percentiles: ``end <- (1 - rate) end + rate percentile(returns)``, without debiasing.

    Args:
        returns: float [...], all taken together; no gradient flows through them. low, high: percentiles, 0 to 100.

    Source: DreamerV3 (arXiv:2301.04104), 5 and 95 at a rate of 0.01.
    """
    ends = jnp.percentile(lax.stop_gradient(jnp.asarray(returns, jnp.float32)), jnp.asarray([low, high]))
    return Range((1.0 - rate) * found.low + rate * ends[0], (1.0 - rate) * found.high + rate * ends[1])
