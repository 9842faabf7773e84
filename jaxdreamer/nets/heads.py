"""Heads: what is predicted from a latent feature, as distributions."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdreamer.nets.layers import MLP, Dense
from jaxdreamer.ops.distributions import (
    Bernoulli,
    Categoricals,
    Joint,
    OneHot,
    TwoHot,
    UnitNormal,
    tanh_normal_from_raw,
    truncated_normal_from_raw,
)
from jaxdreamer.ops.transforms import symmetric_bins
from jaxdreamer.types import ActionSpec, Array, ArraySpec

TWO_HOT_LIMIT, TWO_HOT_BINS = 20.0, 255  # in symlog space, V3's: numbers up to exp(20) either way


class ScalarHead(nn.Module):
    """Reward, value or discount from features [..., F]: an MLP and one distribution per feature.

    ``kind`` "normal" is a unit-variance Normal (its log-density is the squared error), "two_hot" a symlog two-hot whose
    output layer starts at zero so that the first prediction is exactly 0, "bernoulli" a probability.
    """

    layers: int
    units: int
    kind: str
    act: str
    norm: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feat: Array) -> UnitNormal | TwoHot | Bernoulli:
        """The distribution, batch shape [...]."""
        x = MLP(self.layers, self.units, self.act, self.norm, dtype=self.dtype, name="mlp")(feat)
        if self.kind == "two_hot":
            bins = symmetric_bins(TWO_HOT_LIMIT, TWO_HOT_BINS)
            out = Dense(TWO_HOT_BINS, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="out")(x)
            return TwoHot(out.astype(jnp.float32), bins)
        out = Dense(1, dtype=self.dtype, name="out")(x)[..., 0].astype(jnp.float32)
        return Bernoulli(out) if self.kind == "bernoulli" else UnitNormal(out)


class Actor(nn.Module):
    """pi(a | s): an MLP, one output layer, and a distribution for each part of the action."""

    spec: ActionSpec
    layers: int
    units: int
    continuous: str
    act: str
    norm: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feat: Array) -> Any:
        """Features [..., F] to a distribution over the flat action [..., A]."""
        x = MLP(self.layers, self.units, self.act, self.norm, dtype=self.dtype, name="mlp")(feat)
        widths = [part.size * (2 if part.kind == "continuous" else 1) for part in self.spec.parts]
        out = Dense(sum(widths), dtype=self.dtype, name="out")(x).astype(jnp.float32)
        make = tanh_normal_from_raw if self.continuous == "tanh_normal" else truncated_normal_from_raw
        parts: list[Any] = []
        start = 0
        for part, width in zip(self.spec.parts, widths):
            raw = out[..., start : start + width]
            start += width
            if part.kind == "continuous":
                raw_mean, raw_std = jnp.split(raw, 2, axis=-1)
                parts.append(make(raw_mean, raw_std))
            else:
                parts.append(OneHot(raw))
        return parts[0] if len(parts) == 1 else Joint(tuple(parts))


class VectorDecoder(nn.Module):
    """Vector and discrete observations from features: a shared MLP and one output layer per key.

    A vector key gives a unit-variance Normal of the key's shape, a discrete key independent choices.
    """

    specs: dict[str, ArraySpec]
    layers: int
    units: int
    act: str
    norm: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feat: Array) -> dict[str, UnitNormal | Categoricals]:
        """One distribution per key, batch shape [...]."""
        x = MLP(self.layers, self.units, self.act, self.norm, dtype=self.dtype, name="mlp")(feat)
        dists: dict[str, UnitNormal | Categoricals] = {}
        for key, spec in self.specs.items():
            groups = _size(spec)
            out = Dense(groups * max(spec.classes, 1), dtype=self.dtype, name=f"out_{key}")(x).astype(jnp.float32)
            if spec.kind == "discrete":
                dists[key] = Categoricals(out.reshape(*out.shape[:-1], groups, spec.classes))
            else:
                dists[key] = UnitNormal(out)
        return dists


def _size(spec: ArraySpec) -> int:
    size = 1
    for width in spec.shape:
        size *= width
    return size
