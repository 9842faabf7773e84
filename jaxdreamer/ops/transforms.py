"""Elementwise maps between the units of the world and those of the networks."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax


def symlog(x: Array) -> Array:
    """Squash large magnitudes, keep small ones: ``sign(x) * log(1 + |x|)``. Any shape, float32.

    Source: DreamerV3 (arXiv:2301.04104); an option here, neither V1 nor V2 uses it.
    """
    x = jnp.asarray(x, jnp.float32)
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """Undo :func:`symlog`: ``sign(x) * (exp(|x|) - 1)``. Any shape, float32; infinite past ``|x| = 88``."""
    x = jnp.asarray(x, jnp.float32)
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def symmetric_bins(limit: float, count: int) -> Array:
    """Evenly spaced points on [-limit, limit] with ``bins[i] == -bins[count-1-i]`` bit for bit, float32 [count].

    ``jnp.linspace`` rounds its two halves differently, and then a head with zero logits would not predict exactly zero.

    Raises:
        ValueError: fewer than two bins, or a limit that is not positive.
    """
    if count < 2 or not limit > 0:
        raise ValueError(f"symmetric_bins: needs count >= 2 and limit > 0, found count={count} and limit={limit}")
    ascending = jnp.linspace(-limit, limit, count, dtype=jnp.float32)
    return (ascending - ascending[::-1]) / 2.0


def symexp_bins(count: int, limit: float = 20.0) -> Array:
    """``symexp`` of evenly spaced points on [-limit, limit], antisymmetric bit for bit: float32 [count], ascending.

    Made as one half and its mirror image; an even ``count`` therefore has two bins at 0.

    Raises:
        ValueError: fewer than two bins, or a limit that is not positive.

    Source: the authors' code of DreamerV3 (arXiv:2301.04104): 255 bins, from -4.85e8 to 4.85e8.
    """
    if count < 2 or not limit > 0:
        raise ValueError(f"symexp_bins: needs count >= 2 and limit > 0, found count={count} and limit={limit}")
    half = symexp(jnp.linspace(-limit, 0.0, (count + 1) // 2, dtype=jnp.float32))
    return jnp.concatenate([half, -half[: count // 2][::-1]])


def two_hot(x: Array, bins: Array) -> Array:
    """Encode numbers as weights on their two neighbouring bins, so that ``sum_i w_i * bins_i = x``.

    ``w_{i+1} = (x - b_i) / (b_{i+1} - b_i)``, ``w_i = 1 - w_{i+1}`` for ``b_i <= x <= b_{i+1}``; all others are zero.
    Numbers outside the bins get all weight on the end bin.

    Args:
        x: float [...].
        bins: float [K], strictly ascending, K >= 2.

    Returns:
        float32 [..., K]; each row is non-negative and sums to one.

    Raises:
        ValueError: ``bins`` is not a vector of at least two.

    Source: DreamerV3 (arXiv:2301.04104), the critic's targets.
    """
    x, bins = jnp.asarray(x, jnp.float32), jnp.asarray(bins, jnp.float32)
    if bins.ndim != 1 or bins.shape[0] < 2:
        raise ValueError(f"two_hot: bins must be a vector of at least two points, found shape {bins.shape}")
    count = bins.shape[0]
    x = jnp.clip(x, bins[0], bins[-1])
    # Comparing with every bin is one fused loop; a binary search is a loop of gathers.
    below = jnp.clip(jnp.searchsorted(bins, x, side="right", method="compare_all") - 1, 0, count - 2)
    low, high = bins[below], bins[below + 1]
    weight = ((x - low) / (high - low))[..., None]
    return (1.0 - weight) * jax.nn.one_hot(below, count, dtype=jnp.float32) + weight * jax.nn.one_hot(
        below + 1, count, dtype=jnp.float32
    )


def gaussian_std(raw: Array, kind: Literal["softplus", "sigmoid2"]) -> Array:
    """Turn a network output into a standard deviation of at least 0.1. Any shape, float32.

    ``"softplus"``: ``log(1 + exp(raw)) + 0.1``, unbounded (V1's latents).
    ``"sigmoid2"``: ``2 / (1 + exp(-raw / 2)) + 0.1``, in (0.1, 2.1), 1.1 at zero (V2's Gaussian latents and actor).

    Raises:
        ValueError: another ``kind``.

    Source: the authors' code of DreamerV1 (arXiv:1912.01603) and DreamerV2 (arXiv:2010.02193); the papers do not say.
    """
    raw = jnp.asarray(raw, jnp.float32)
    if kind == "softplus":
        return jax.nn.softplus(raw) + 0.1
    if kind == "sigmoid2":
        return 2.0 * jax.nn.sigmoid(raw / 2.0) + 0.1
    raise ValueError(f"gaussian_std: kind must be 'softplus' or 'sigmoid2', found {kind!r}")


def straight_through_clip(x: Array, low: float, high: float) -> Array:
    """Clip to [low, high] on the way forward, pass the gradient through untouched on the way back.

    A plain clip has zero gradient outside the interval, which would freeze an actor that saturates. ``x`` is finite.
    """
    # In this order the value is exactly the clipped one; x + sg(clip(x) - x) would miss it by a rounding error.
    return lax.stop_gradient(jnp.clip(x, low, high)) + (x - lax.stop_gradient(x))


def image_to_float(image: Array) -> Array:
    """Pixels for the networks: ``image / 255 - 0.5``, uint8 [...] 0 to 255 -> float32 [...] in [-0.5, 0.5].

    Raises:
        ValueError: the image is not uint8; a float image here has most likely been scaled already.
    """
    image = jnp.asarray(image)
    if image.dtype != jnp.uint8:
        raise ValueError(f"image_to_float: expects uint8 pixels (0 to 255), found {image.dtype}")
    return image.astype(jnp.float32) / 255.0 - 0.5


def float_to_image(image: Array) -> Array:
    """Undo :func:`image_to_float`: ``round((image + 0.5) * 255)`` clipped to 0 to 255, float [...] -> uint8 [...]."""
    image = jnp.asarray(image, jnp.float32)
    return jnp.clip(jnp.round((image + 0.5) * 255.0), 0.0, 255.0).astype(jnp.uint8)
