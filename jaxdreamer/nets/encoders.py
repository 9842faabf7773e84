"""Images to embeddings, and the convolution layers that encoders and decoders are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdreamer.errors import ConfigError
from jaxdreamer.nets.layers import Dense, Style, glorot_uniform, normalize
from jaxdreamer.ops.activations import BY_RESULT, activation
from jaxdreamer.ops.conv import conv2d, conv2d_transpose, same_conv2d
from jaxdreamer.types import Array

MIN_IMAGE = 8  # pixels, in either direction
MAX_LAYERS = 4
KERNEL, STRIDE = 4, 2

Activation = str | Callable[[Array], Array]


class ConvEncoder(nn.Module):
    """Image [..., H, W, C], floats, to embed [..., E]: convolutions k4 s2 without padding, channels depth, 2 depth, ...

    As many layers as the image has room for, at most four: 64x64 -> 31 -> 14 -> 6 -> 2, E = 2 * 2 * 8 depth, the rows
    of the last grid side by side. A linear layer follows where ``embed_size`` is neither 0 nor E already. ``residual``
    adds a :class:`ResidualBlock` to each layer. Convolves in ``dtype``, returns float32.

    Raises:
        ValueError: an image of fewer than ``MIN_IMAGE`` pixels in a direction, or an unknown activation.
    """

    depth: int
    activation: Activation
    embed_size: int = 0
    residual: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """[..., H, W, C] to [..., E]."""
        x = image.astype(self.dtype)
        for index in range(encoder_layers(image.shape[-3:-1])):
            args = {"window": (KERNEL, KERNEL), "stride": STRIDE, "dtype": self.dtype, "name": f"conv_{index}"}
            if self.residual:
                x = Conv(self.depth * 2**index, "linear", **args)(x)
                x = ResidualBlock(self.activation, dtype=self.dtype, name=f"residual_{index}")(x)
                x = activate(self.activation, x)
            else:
                x = Conv(self.depth * 2**index, self.activation, **args)(x)
        x = x.reshape(*x.shape[:-3], math.prod(x.shape[-3:])).astype(jnp.float32)
        if self.embed_size not in (0, x.shape[-1]):
            x = Dense(self.embed_size, dtype=self.dtype, name="embed")(x)
        return x


class PooledConvEncoder(nn.Module):
    """V3's: image [..., H, W, C], floats, to embed [..., E]: convolutions k5 s1, max-pooled 2x2, norm, activation, each.

    Channels are 2, 3, 4 and 4 times ``depth``: 64x64 -> 32 -> 16 -> 8 -> 4, E = 4 * 4 * 4 depth, without a linear layer.

    Raises:
        ConfigError: sides that are no multiples of 16.

    Source: the authors' code of DreamerV3 (arXiv:2301.04104), 2025.
    """

    depth: int
    style: Style

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """[..., H, W, C] to [..., E]."""
        check_pooled_size(image.shape[-3:-1])
        x = image.astype(self.style.dtype)
        for index, factor in enumerate(POOLED_DEPTHS):
            x = SameConv(factor * self.depth, self.style, name=f"conv_{index}")(x)
            *lead, h, w, c = x.shape
            x = x.reshape(*lead, h // 2, 2, w // 2, 2, c).max(axis=(-2, -4))
            x = self.style.activate(normalize(self.style.norm, f"norm_{index}")(x)).astype(self.style.dtype)
        return x.reshape(*x.shape[:-3], math.prod(x.shape[-3:])).astype(jnp.float32)


POOLED_DEPTHS = (2, 3, 4, 4)


class SameConv(nn.Module):
    """A 5x5 convolution at stride 1 that keeps the image's size, with bias; float32 parameters."""

    features: int
    style: Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., H, W, C] to [..., H, W, features]."""
        kernel = self.param("kernel", self.style.kernel_init(), (5, 5, x.shape[-1], self.features))
        return same_conv2d(x, kernel, self.param("bias", nn.initializers.zeros, (self.features,)))


def check_pooled_size(size: tuple[int, int]) -> None:
    """Raise ConfigError for an image that cannot be halved four times."""
    if size[0] % 16 or size[1] % 16:
        raise ConfigError(
            "model.cnn=pooled halves an image four times, so its sides must be multiples of 16, found "
            f"{size[0]} x {size[1]}: set env.image_size, as 64x64 or 96x96"
        )


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


def encoder_layers(size: tuple[int, int]) -> int:
    """How many k4 s2 convolutions an image of ``size`` (H, W) has room for, at most ``MAX_LAYERS``.

    Raises:
        ValueError: a side is smaller than ``MIN_IMAGE``.
    """
    check_image_size(size)
    layers, side = 0, min(size)
    while layers < MAX_LAYERS and side >= KERNEL:
        layers, side = layers + 1, (side - KERNEL) // STRIDE + 1
    return layers


def check_image_size(size: tuple[int, int]) -> None:
    """Raise ConfigError for an image too small to be convolved."""
    if min(size) < MIN_IMAGE:
        raise ConfigError(
            f"an image must be at least {MIN_IMAGE} x {MIN_IMAGE} pixels, found {size[0]} x {size[1]}: "
            "render it larger, or pass it as a vector observation"
        )
