"""Running mean and variance of vectors, and standardisation by them."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxdreamer.ops.across import ALONE, Across


class Moments(NamedTuple):
    """Mean and variance, number by number, of the vectors seen so far."""

    number: Array  # float32 [], vectors seen, no more than the limit
    mean: Array  # float32 [D]
    variance: Array  # float32 [D]


def no_moments(size: int) -> Moments:
    """Moments before any vector was seen, by which :func:`standardize` changes nothing."""
    return Moments(jnp.zeros(()), jnp.zeros((size,)), jnp.ones((size,)))


def merge_moments(moments: Moments, x: Array, limit: float = 1e6, across: Across = ALONE) -> Moments:
    """Fold new vectors into running moments.

    With n old vectors and m new ones of mean ``mu'`` and variance ``v'``, ``w = m / (n + m)``, ``d = mu' - mu``:
    ``mu <- mu + w d``, ``v <- (1 - w) v + w v' + w (1 - w) d^2``, ``n <- min(n + m, limit)``.

    Until ``limit`` this is exactly the mean and (population) variance of all vectors; from there on old ones are slowly
    forgotten, so that the statistics follow the states that a policy comes to visit.

    Args:
        moments: of what was seen. x: float [..., D], m vectors. limit: vectors.
        across: who has the other parts of ``x``.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances (1979).
    """
    x = jnp.asarray(x, jnp.float32).reshape(-1, moments.mean.shape[-1])
    found = x.shape[0] * across.devices
    number = moments.number + found
    share = found / number
    delta = across.mean(jnp.mean(x, axis=0)) - moments.mean
    variance = (1.0 - share) * moments.variance
    variance = variance + share * across.variance(x) + share * (1.0 - share) * jnp.square(delta)
    return Moments(jnp.minimum(number, limit), moments.mean + share * delta, variance)


def standardize(x: Array, moments: Moments, smallest: float = 1e-3, clip: float = 10.0) -> Array:
    """``clip((x - mean) / max(sqrt(variance), smallest), -clip, clip)``: float [..., D] -> float32 [..., D].

    ``smallest`` keeps numbers that hardly change from being blown up into noise.
    """
    std = jnp.maximum(jnp.sqrt(moments.variance), smallest)
    return jnp.clip((jnp.asarray(x, jnp.float32) - moments.mean) / std, -clip, clip)


def unstandardize(x: Array, moments: Moments, smallest: float = 1e-3) -> Array:
    """Undo :func:`standardize`, where it did not clip: ``x max(sqrt(variance), smallest) + mean``, float32 [..., D]."""
    return jnp.asarray(x, jnp.float32) * jnp.maximum(jnp.sqrt(moments.variance), smallest) + moments.mean
