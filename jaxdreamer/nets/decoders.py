"""Latent features to observations."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdreamer.config import ModelConfig
from jaxdreamer.nets.convolutions import (
    MAX_LAYERS,
    POOLED_DEPTHS,
    STRIDE,
    Activation,
    Conv,
    SameConv,
    check_image_size,
    check_pooled_size,
    convolution,
)
from jaxdreamer.nets.layers import MLP, BlockDense, Dense, in_blocks, normalize, side_by_side, style_of
from jaxdreamer.ops.distributions import Categoricals, UnitNormal
from jaxdreamer.types import Array, EnvSpec


class Decoder(nn.Module):
    """Features to one distribution per observation key, of what ``Networks.prepare`` gives for it."""

    spec: EnvSpec
    config: ModelConfig

    @nn.compact
    def __call__(self, feat: Array) -> dict[str, Any]:
        """[..., F] to {key: distribution}."""
        dists: dict[str, Any] = {}
        for key in self.spec.keys(image=True):
            dists[key] = UnitNormal(self._image_decoder(self.spec.obs[key].shape, f"image_{key}")(feat))
        if self.spec.keys(image=False):
            dists |= VectorDecoder(self.spec, self.config, name="vector")(feat)
        return dists

    def _image_decoder(self, shape: tuple[int, ...], name: str) -> nn.Module:
        config, size = self.config, (shape[0], shape[1], shape[2])
        if config.cnn == "pooled":
            return UpsampleConvDecoder(config, size, name=name)
        return ConvDecoder(
            config.cnn_depth,
            config.cnn_activation,
            shape=size,
            residual=config.cnn_residual,
            dtype=jnp.dtype(config.precision),
            name=name,
        )


class VectorDecoder(nn.Module):
    """Vector and discrete observations from features: a shared MLP and one output layer per key.

    A vector key gives a unit-variance Normal of the key's numbers side by side, a discrete key independent choices.
    """

    spec: EnvSpec
    config: ModelConfig

    @nn.compact
    def __call__(self, feat: Array) -> dict[str, UnitNormal | Categoricals]:
        """One distribution per key, batch shape [...]."""
        config, style = self.config, style_of(self.config)
        x = MLP(config.vector_layers, config.units, style, name="mlp")(feat)
        dists: dict[str, UnitNormal | Categoricals] = {}
        for key in self.spec.keys(image=False):
            spec = self.spec.obs[key]
            groups = math.prod(spec.shape)
            out = style.dense(groups * max(spec.classes, 1), f"out_{key}")(x)
            if spec.kind == "discrete":
                dists[key] = Categoricals(out.reshape(*out.shape[:-1], groups, spec.classes))
            else:
                dists[key] = UnitNormal(out)
        return dists


class ConvDecoder(nn.Module):
    """Features [..., F] to the mean image [..., H, W, C]: a linear layer, then transposed convolutions of stride 2.

    Windows of 5 or 6 are chosen so that the grids end on ``shape`` exactly: 1x1 -> 5 -> 13 -> 30 -> 64 (5, 5, 6, 6)
    with 32 depth, then 4, 2 and 1 times depth channels; see :func:`decoder_plan` for other sizes. The last layer has no
    activation. ``residual`` adds a :class:`ResidualBlock` to each layer but the last. Convolves in ``dtype``, returns
    float32.

    Raises:
        ValueError: an image too small to be convolved, or an unknown activation.
    """

    depth: int
    activation: Activation
    shape: tuple[int, int, int]
    residual: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feat: Array) -> Array:
        """[..., F] to [..., H, W, C]."""
        (h, w), windows = decoder_plan(self.shape[:2])
        channels = max(8 * self.depth, 32 * self.depth // (h * w))
        x = Dense(h * w * channels, dtype=self.dtype, name="dense")(feat)
        x = x.reshape(*feat.shape[:-1], h, w, channels).astype(self.dtype)
        last = len(windows) - 1
        for index, window in enumerate(windows):
            conv: dict[str, Any] = {"window": window, "stride": STRIDE, "transpose": True, "dtype": self.dtype}
            conv["name"] = f"deconv_{index}"
            if index == last:
                x = Conv(self.shape[2], "linear", **conv)(x)
                continue
            residual = f"residual_{index}" if self.residual else None
            x = convolution(x, self.depth * 2 ** (last - 1 - index), self.activation, residual, **conv)
        return x.astype(jnp.float32)


class UpsampleConvDecoder(nn.Module):
    """V3's: features to the mean image [..., H, W, C] in [-0.5, 0.5]: a grid, then convolutions k5 s1 of doubled images.

    The grid [H / 16, W / 16, 4 depth] is the sum of a block-diagonal layer of the deterministic state (the blocks' channels
    side by side in every cell) and an MLP of the stochastic one, normalised. Channels are then 4, 3 and 2 times depth; every
    layer is preceded by repeating each pixel 2x2. The last one ends in ``sigmoid(x) - 1/2``.

    Raises:
        ConfigError: sides that are no multiples of 16.

    Source: the authors' code of DreamerV3 (arXiv:2301.04104), 2025.
    """

    config: ModelConfig
    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, feat: Array) -> Array:
        """[..., F] to [..., H, W, C]."""
        config, style = self.config, style_of(self.config, inner=True)
        check_pooled_size(self.shape[:2])
        stoch, deter = jnp.split(feat, [feat.shape[-1] - config.deter_size], axis=-1)
        grid = (self.shape[0] // 16, self.shape[1] // 16, POOLED_DEPTHS[-1] * config.cnn_depth)
        x = self._grid(stoch, deter, grid)
        x = style.activate(normalize(style.norm, "grid_norm")(x)).astype(style.dtype)
        for index, factor in enumerate(POOLED_DEPTHS[-2::-1]):
            x = SameConv(factor * config.cnn_depth, style, name=f"conv_{index}")(_doubled(x))
            x = style.activate(normalize(style.norm, f"norm_{index}")(x)).astype(style.dtype)
        x = SameConv(self.shape[2], style, name="out")(_doubled(x))
        return jax.nn.sigmoid(x.astype(jnp.float32)) - 0.5

    def _grid(self, stoch: Array, deter: Array, grid: tuple[int, int, int]) -> Array:
        config, style = self.config, style_of(self.config, inner=True)
        (h, w, c), blocks = grid, config.blocks
        make = {"kernel_init": style.kernel_init(), "dtype": style.dtype}
        (x,) = BlockDense(h * w * c, **make, name="from_deter")(in_blocks(deter, blocks))
        x = side_by_side(x.reshape(*x.shape[:-1], h, w, c // blocks))  # a block's channels side by side, in each place
        y = style.dense(h * w * c, "grid")(MLP(1, 2 * config.units, style, name="from_stoch")(stoch))
        return x + y.reshape(x.shape)


def _doubled(x: Array) -> Array:
    return x.repeat(2, axis=-3).repeat(2, axis=-2)


class DecoderPlan(NamedTuple):
    """From which grid, with which windows, an image is built."""

    start: tuple[int, int]
    windows: tuple[tuple[int, int], ...]  # (kh, kw) of each layer, first to last


def decoder_plan(size: tuple[int, int]) -> DecoderPlan:
    """Walk back from ``size`` (H, W): an even side comes from a window of 6, an odd one from 5, at stride 2.

    A side n comes from (n - k) / 2 + 1; up to ``MAX_LAYERS`` layers, the same number in both directions, while every
    side stays at least 1. 64 <- 30 <- 13 <- 5 <- 1, 84 <- 40 <- 18 <- 7 <- 2.

    Raises:
        ValueError: a side is too small.
    """
    check_image_size(size)
    windows: list[tuple[int, int]] = []
    while len(windows) < MAX_LAYERS:
        window = (6 - size[0] % 2, 6 - size[1] % 2)
        before = ((size[0] - window[0]) // STRIDE + 1, (size[1] - window[1]) // STRIDE + 1)
        if min(before) < 1:
            break
        size = before
        windows.insert(0, window)
    return DecoderPlan(size, tuple(windows))
