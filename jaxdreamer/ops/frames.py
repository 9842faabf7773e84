"""Loops over many frames on a CPU, a cacheful at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jaxdreamer.types import Array

# Bytes of intermediate that one step of a loop makes: they should still lie in the cache when they are read. Flat between
# 3 and 8 MB on a machine with 1 MB of L2 a core and 32 MB of L3.
_CHUNK_BYTES = 5 * 2**20


def map_frames(function: Callable[..., Array], numbers: int, *arrays: Array) -> Array:
    """Apply ``function`` [n, ...] -> [n, ...] to all frames. ``numbers``: of intermediate for a frame."""
    n = arrays[0].shape[0]
    chunks = _chunks(n, numbers)
    if chunks == 1:
        return function(*arrays)
    dtypes = [x.dtype for x in arrays]
    dtype = jax.eval_shape(function, *arrays).dtype
    y = lax.map(
        lambda part: to_bits(function(*map(from_bits, part, dtypes))), _split([to_bits(x) for x in arrays], chunks)
    )
    return from_bits(y.reshape(-1, *y.shape[2:])[:n], dtype)


def sum_frames(function: Callable[..., Array], numbers: int, bigs: Any, smalls: Any) -> Array:
    """Sum ``function`` over all frames. Zero frames of padding must add zero."""
    chunks = _chunks(smalls[0].shape[0], numbers)
    if chunks == 1:
        return function(bigs, smalls)
    dtypes = jax.tree.map(lambda x: x.dtype, (bigs, smalls))
    shape = jax.eval_shape(function, bigs, smalls)

    def add(total, part):
        return total + function(*jax.tree.map(from_bits, part, dtypes)), None

    parts = _split(jax.tree.map(to_bits, (bigs, smalls)), chunks)
    return lax.scan(add, jnp.zeros(shape.shape, shape.dtype), parts)[0]


def to_bits(x: Array) -> Array:
    """bfloat16 as uint16, all else as it is.

    XLA's CPU compiler computes in float32 what it cannot do in bfloat16, and that includes moving numbers: a loop that
    stacks its results would convert the whole stack, both ways, in every turn.
    """
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def from_bits(x: Array, dtype: DTypeLike) -> Array:
    """Undo :func:`to_bits` of numbers of ``dtype``."""
    return lax.bitcast_convert_type(x, dtype) if x.dtype != dtype else x


def _chunks(n: int, numbers: int) -> int:
    """Loop steps for n frames with so many numbers each; a divisor of n where there is a fair one, else pad."""
    target = max(1, _CHUNK_BYTES // (4 * numbers))
    if n <= 1.5 * target:
        return 1
    even = [c for c in range(max(1, target // 2), int(1.5 * target) + 1) if n % c == 0]
    return n // min(even, key=lambda c: abs(c - target)) if even else -(-n // target)


def _split(arrays, chunks: int):
    """Reshape every [N, ...] to [chunks, frames, ...], with zero frames at the end where N does not divide."""

    def split(x):
        frames = -(-x.shape[0] // chunks)
        spare = chunks * frames - x.shape[0]
        x = jnp.pad(x, ((0, spare), *((0, 0),) * (x.ndim - 1))) if spare else x
        return x.reshape(chunks, frames, *x.shape[1:])

    return jax.tree.map(split, arrays)
