"""The convolution layers that encoders and decoders are made of, and the images that they can take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from jaxdreamer.errors import ConfigError
from jaxdreamer.nets.layers import Style, glorot_uniform
from jaxdreamer.ops.activations import BY_RESULT, activation
from jaxdreamer.ops.conv import conv2d, conv2d_transpose
from jaxdreamer.types import Array

MIN_IMAGE = 8  # pixels, in either direction
MAX_LAYERS = 4
KERNEL, STRIDE = 4, 2
POOLED_DEPTHS = (2, 3, 4, 4)  # channels of V3's layers, in multiples of the first depth

Activation = str | Callable[[Array], Array]


class Conv(nn.Module):
    """A convolution without padding, or a transposed one, with bias and activation; float32 parameters."""

    features: int
    activation: Activation
    window: tuple[int, int]
    stride: int = 1
    transpose: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., H, W, C] to [..., H', W', features]."""
        # Flax computes Glorot's fans over the window, kh * kw * channels, as Keras does.
        kernel = self.param("kernel", glorot_uniform, (*self.window, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        fused = self.activation if self.activation in BY_RESULT else "linear"
        convolve = conv2d_transpose if self.transpose else conv2d
        y = convolve(x, kernel.astype(self.dtype), bias, stride=self.stride, act=fused)
        return y if fused == self.activation else activate(self.activation, y)


class ResidualBlock(nn.Module):
    """``x + conv(act(conv(act(x))))``, both 3x3 and of x's own shape."""

    activation: Activation
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., H, W, C] to the same shape."""
        features, edge = x.shape[-1], ((0, 0),) * (x.ndim - 3) + ((1, 1), (1, 1), (0, 0))
        y = activate(self.activation, x)
        y = Conv(features, self.activation, window=(3, 3), dtype=self.dtype, name="conv_0")(jnp.pad(y, edge))
        return x + Conv(features, "linear", window=(3, 3), dtype=self.dtype, name="conv_1")(jnp.pad(y, edge))


def activate(function: Activation, x: Array) -> Array:
    """Apply an activation given by name or as a function."""
    return function(x) if callable(function) else activation(function)(x)


def convolution(x: Array, features: int, act: Activation, residual: str | None, **conv: Any) -> Array:
    """A :class:`Conv` with its activation, and between them a :class:`ResidualBlock` named ``residual`` unless None."""
    if residual is None:
        return Conv(features, act, **conv)(x)
    x = Conv(features, "linear", **conv)(x)
    return activate(act, ResidualBlock(act, dtype=conv["dtype"], name=residual)(x))


class SameConv(nn.Module):
    """A 5x5 convolution at stride 1 that keeps the image's size, with bias; float32 parameters."""

    features: int
    style: Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., H, W, C] to [..., H, W, features]."""
        kernel = self.param("kernel", self.style.kernel_init(), (5, 5, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # XLA's own convolution: at stride 1 it is fast on a CPU too.
        y = lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-3:]),
            kernel.astype(x.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.float32,
        )
        return (y + bias).astype(x.dtype).reshape(*x.shape[:-1], self.features)


def check_image_size(size: tuple[int, ...]) -> None:
    """Raise ConfigError for an image too small to be convolved."""
    if min(size) < MIN_IMAGE:
        raise ConfigError(
            f"an image must be at least {MIN_IMAGE} x {MIN_IMAGE} pixels, found {size[0]} x {size[1]}: "
            "render it larger, or pass it as a vector observation"
        )


def check_pooled_size(size: tuple[int, ...]) -> None:
    """Raise ConfigError for an image that cannot be halved four times."""
    if size[0] % 16 or size[1] % 16:
        raise ConfigError(
            "model.cnn=pooled halves an image four times, so its sides must be multiples of 16, found "
            f"{size[0]} x {size[1]}: set env.image_size, as 64x64 or 96x96"
        )
