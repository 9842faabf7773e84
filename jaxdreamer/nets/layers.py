"""Dense layers, norms and initial weights: the released Dreamers' own, chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdreamer.config import ModelConfig
from jaxdreamer.ops.activations import activation, recomputed
from jaxdreamer.types import Array

Initializer = Callable[..., Array]


def glorot_uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Keras' default, which V1 and V2 train with: uniform on ``+-sqrt(6 / (fan_in + fan_out))``.

    ``shape`` is [..., in, out]; leading axes are a convolution's window and multiply both fans. Drawn flat, as a
    draw of four axes takes XLA several times as long to compile.
    """
    window = math.prod(shape[:-2])
    limit = math.sqrt(6.0 / (window * (shape[-2] + shape[-1])))
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


def trunc_normal(scale: float = 1.0) -> Initializer:
    """V3's weights: normal, cut at two deviations, of standard deviation ``scale / sqrt(fan_in)`` after the cut.

    ``fan_in`` is the product of all axes but the last: for a block's kernel [blocks, in, out] that is the whole input,
    not the block's own.

    Source: the authors' code of DreamerV3 (arXiv:2301.04104), 2024.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        std = 1.1368 * scale / math.sqrt(math.prod(shape[:-1]))
        return std * jax.random.truncated_normal(key, -2.0, 2.0, (math.prod(shape),), dtype).reshape(shape)

    return init


class Style(NamedTuple):
    """How hidden layers are made."""

    act: str
    norm: str = "none"  # before the activation: none, layer or rms
    init: str = "glorot_uniform"  # or trunc_normal
    dtype: Any = jnp.float32  # of the inputs of products; everything else is float32

    def kernel_init(self, scale: float = 1.0) -> Initializer:
        """Initial weights; ``scale`` is for an output layer that is to begin smaller (trunc_normal only)."""
        return trunc_normal(scale) if self.init == "trunc_normal" else glorot_uniform

    def dense(self, features: int, name: str | None = None, scale: float = 1.0) -> Dense:
        """A dense layer of this style, without norm and activation."""
        return Dense(features, kernel_init=self.kernel_init(scale), dtype=self.dtype, name=name)

    def activate(self, x: Array) -> Array:
        """The activation."""
        return activation(self.act)(x)


def style_of(config: ModelConfig, *, inner: bool = False) -> Style:
    """The style of a configuration. ``inner``: of the RSSM and the convolutions, which V1 and V2 never normalise."""
    norm = config.dense_norm if config.dense_norm == "rms" or not inner else "none"
    return Style(config.dense_activation, norm, config.kernel_init, jnp.dtype(config.precision))


class Dense(nn.Module):
    """``x W + b`` over the last axis: inputs of the product in ``dtype``, parameters, sum and result in float32."""

    features: int
    kernel_init: Initializer = glorot_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., I] to [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return matmul(x, kernel, self.dtype) + bias


def matmul(x: Array, kernel: Array, dtype: Any) -> Array:
    """``x W``: the factors in ``dtype``, sum and result in float32."""
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


class BlockDense(nn.Module):
    """Dense layers side by side, one for each of G blocks, which may also read numbers that all of them share.

    ``y_g = x_g V_g + z W_g + b_g``, where V_g over W_g is the kernel of block g. Blocks are the first axis of x and of y, so
    that products need no transposing, and z is multiplied once for all blocks. The columns of a kernel are P ``parts`` with
    a product each, so that where they part ways, as a cell's gates do, their gradients need not be joined.
    """

    features: int
    kernel_init: Initializer
    dtype: Any = jnp.float32
    parts: int = 1

    @nn.compact
    def __call__(self, x: Array, shared: Array | None = None) -> tuple[Array, ...]:
        """[G, ..., I] and [..., X] to P of [G, ..., features / G / P]; kernel [G, I + X, features / G]."""
        blocks, own = x.shape[0], x.shape[-1]
        inputs = own + (0 if shared is None else shared.shape[-1])
        kernel = self.param("kernel", self.kernel_init, (blocks, inputs, self.features // blocks))
        rest = self.param("bias", nn.initializers.zeros, (self.features,))
        if shared is not None:
            rest = rest + matmul(shared, side_by_side(kernel[:, own:]), self.dtype)
        rest = in_blocks(rest, blocks)
        rest = rest.reshape(blocks, *(1,) * (x.ndim - rest.ndim), *rest.shape[1:])
        parts = zip(jnp.split(kernel[:, :own], self.parts, axis=-1), jnp.split(rest, self.parts, axis=-1))
        return tuple(self._product(x, part) + more for part, more in parts)

    def _product(self, x: Array, kernel: Array) -> Array:
        factors = x.astype(self.dtype), kernel.astype(self.dtype)
        return jnp.einsum("g...i,gio->g...o", *factors, preferred_element_type=jnp.float32)


def in_blocks(x: Array, blocks: int) -> Array:
    """[..., G I] to [G, ..., I]."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], blocks, -1), -2, 0)


def side_by_side(x: Array) -> Array:
    """[G, ..., I] to [..., G I]."""
    x = jnp.moveaxis(x, 0, -2)
    return x.reshape(*x.shape[:-2], -1)


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x^2) + 1e-4) * scale`` over the last axis, in float32, without a shift.

    Source: Zhang and Sennrich (arXiv:1910.07467); DreamerV3 uses it everywhere.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., I] to the same shape."""
        x = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        return _rms_norm(x, scale)


@recomputed
def _rms_norm(x: Array, scale: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-4) * scale


def normalize(norm: str, name: str | None = None) -> Callable[[Array], Array]:
    """The normalisation of a :class:`Style` as a layer of that name; none changes nothing."""
    if norm == "layer":
        return nn.LayerNorm(epsilon=1e-3, dtype=jnp.float32, name=name)
    return RMSNorm(name=name) if norm == "rms" else lambda x: x


class MLP(nn.Module):
    """Hidden layers of one width: dense, norm, activation, each."""

    layers: int
    units: int
    style: Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., I] to [..., units]."""
        for index in range(self.layers):
            x = self.style.dense(self.units, f"dense_{index}")(x)
            x = self.style.activate(normalize(self.style.norm, f"norm_{index}")(x))
        return x
