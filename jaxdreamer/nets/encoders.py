"""Observations to embeddings."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdreamer.config import ModelConfig
from jaxdreamer.nets.convolutions import (
    KERNEL,
    MAX_LAYERS,
    POOLED_DEPTHS,
    STRIDE,
    Activation,
    SameConv,
    check_image_size,
    check_pooled_size,
    convolution,
)
from jaxdreamer.nets.layers import MLP, Dense, Style, normalize, style_of
from jaxdreamer.types import Array, EnvSpec, Observation


class Encoder(nn.Module):
    """Prepared observations to one embedding: a convolutional stack per image key, an MLP over all vectors."""

    spec: EnvSpec
    config: ModelConfig

    @nn.compact
    def __call__(self, obs: Observation) -> Array:
        """Per key [..., *shape] to embed [..., E]."""
        config, parts = self.config, []
        for key in self.spec.keys(image=True):
            parts.append(self._image_encoder(f"image_{key}")(obs[key]))
        if vectors := self.spec.keys(image=False):
            x = jnp.concatenate([obs[key] for key in vectors], axis=-1)
            parts.append(MLP(config.vector_layers, config.units, style_of(config), name="vector")(x))
        return jnp.concatenate(parts, axis=-1)

    def _image_encoder(self, name: str) -> nn.Module:
        config, style = self.config, style_of(self.config, inner=True)
        if config.cnn == "pooled":
            return PooledConvEncoder(config.cnn_depth, style._replace(act=config.cnn_activation), name=name)
        return ConvEncoder(
            config.cnn_depth,
            config.cnn_activation,
            embed_size=config.embed_size,
            residual=config.cnn_residual,
            dtype=style.dtype,
            name=name,
        )


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
            conv = {"window": (KERNEL, KERNEL), "stride": STRIDE, "dtype": self.dtype, "name": f"conv_{index}"}
            residual = f"residual_{index}" if self.residual else None
            x = convolution(x, self.depth * 2**index, self.activation, residual, **conv)
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


def encoder_layers(size: tuple[int, ...]) -> int:
    """How many k4 s2 convolutions an image of ``size`` (H, W) has room for, at most ``MAX_LAYERS``.

    Raises:
        ValueError: a side is smaller than ``MIN_IMAGE``.
    """
    check_image_size(size)
    layers, side = 0, min(size)
    while layers < MAX_LAYERS and side >= KERNEL:
        layers, side = layers + 1, (side - KERNEL) // STRIDE + 1
    return layers
