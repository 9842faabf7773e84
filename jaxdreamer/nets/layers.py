"""Dense layers with Keras' initialisation: the released Dreamers' defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdreamer.ops.activations import activation
from jaxdreamer.types import Array


def glorot_uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Keras' default, which the released code trains with: uniform on ``+-sqrt(6 / (fan_in + fan_out))``.

    ``shape`` is [..., in, out]; leading axes are a convolution's window and multiply both fans. Drawn flat, as a
    draw of four axes takes XLA several times as long to compile.
    """
    window = math.prod(shape[:-2])
    limit = math.sqrt(6.0 / (window * (shape[-2] + shape[-1])))
    return jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit).reshape(shape)


class Dense(nn.Module):
    """``x W + b`` over the last axis: inputs of the product in ``dtype``, parameters, sum and result in float32."""

    features: int
    kernel_init: Callable = glorot_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., I] to [..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        product = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=jnp.float32)
        return product + bias


class MLP(nn.Module):
    """Hidden layers of one width: Dense, optional layer norm, activation, each."""

    layers: int
    units: int
    act: str
    norm: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., I] to [..., units]."""
        for index in range(self.layers):
            x = Dense(self.units, dtype=self.dtype, name=f"dense_{index}")(x)
            if self.norm == "layer":
                x = nn.LayerNorm(epsilon=1e-3, dtype=jnp.float32, name=f"norm_{index}")(x)
            x = activation(self.act)(x)
        return x
