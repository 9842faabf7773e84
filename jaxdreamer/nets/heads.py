"""Heads: what is predicted from a latent feature, as distributions."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdreamer.config import ModelConfig
from jaxdreamer.nets.layers import MLP, Dense, Style, style_of
from jaxdreamer.ops.discrete import unimix
from jaxdreamer.ops.distributions import (
    Bernoulli,
    Joint,
    OneHot,
    SymexpTwoHot,
    TwoHot,
    UnitNormal,
    bounded_normal_from_raw,
    tanh_normal_from_raw,
    truncated_normal_from_raw,
)
from jaxdreamer.ops.transforms import symexp_bins, symmetric_bins
from jaxdreamer.types import ActionPart, ActionSpec, Array

TWO_HOT_LIMIT, TWO_HOT_BINS = 20.0, 255  # in symlog space, V3's: numbers up to exp(20) either way


class ScalarHead(nn.Module):
    """Reward, value or discount from features [..., F]: an MLP and one distribution per feature.

    ``kind`` "normal" is a unit-variance Normal (its log-density is the squared error), "bernoulli" a probability,
    "two_hot" and "symexp_two_hot" a categorical over bins whose output layer starts at zero, so that the first prediction
    is exactly 0.
    """

    layers: int
    units: int
    kind: str
    style: Style

    @nn.compact
    def __call__(self, feat: Array) -> UnitNormal | TwoHot | SymexpTwoHot | Bernoulli:
        """The distribution, batch shape [...]."""
        x = MLP(self.layers, self.units, self.style, name="mlp")(feat)
        if self.kind in ("two_hot", "symexp_two_hot"):
            zeros = nn.initializers.zeros
            logits = Dense(TWO_HOT_BINS, kernel_init=zeros, dtype=self.style.dtype, name="out")(x)
            if self.kind == "two_hot":
                return TwoHot(logits, symmetric_bins(TWO_HOT_LIMIT, TWO_HOT_BINS))
            return SymexpTwoHot(logits, symexp_bins(TWO_HOT_BINS, TWO_HOT_LIMIT))
        out = self.style.dense(1, "out")(x)[..., 0]
        return Bernoulli(out) if self.kind == "bernoulli" else UnitNormal(out)


class Actor(nn.Module):
    """pi(a | s): an MLP, and a distribution for each part of the action.

    V1 and V2 have one output layer for everything. V3 has one for the means and one for the deviations of each part, and
    they begin small: its gradient clipping looks at every layer by itself.
    """

    spec: ActionSpec
    config: ModelConfig

    @nn.compact
    def __call__(self, feat: Array) -> Any:
        """Features [..., F] to a distribution over the flat action [..., A]."""
        config, style = self.config, style_of(self.config)
        x = MLP(config.actor_layers, config.units, style, name="mlp")(feat)
        if config.actor_distribution == "bounded_normal":
            parts = [self._bounded(x, part, _name(index)) for index, part in enumerate(self.spec.parts)]
            return parts[0] if len(parts) == 1 else Joint(tuple(parts))
        widths = [part.size * (2 if part.kind == "continuous" else 1) for part in self.spec.parts]
        out = style.dense(sum(widths), "out")(x)
        make = tanh_normal_from_raw if config.actor_distribution == "tanh_normal" else truncated_normal_from_raw
        parts, start = [], 0
        for part, width in zip(self.spec.parts, widths):
            raw = out[..., start : start + width]
            start += width
            if part.kind == "continuous":
                raw_mean, raw_std = jnp.split(raw, 2, axis=-1)
                parts.append(make(raw_mean, raw_std))
            else:
                parts.append(OneHot(raw))
        return parts[0] if len(parts) == 1 else Joint(tuple(parts))

    def _bounded(self, x: Array, part: ActionPart, suffix: str) -> Any:
        config, style = self.config, style_of(self.config)
        out = lambda name: style.dense(part.size, f"{name}{suffix}", config.actor_output_scale)(x)  # noqa: E731
        if part.kind == "discrete":
            return OneHot(unimix(out("logits"), config.actor_unimix))
        return bounded_normal_from_raw(out("mean"), out("std"), config.actor_min_std, config.actor_max_std)


def _name(index: int) -> str:
    return f"_{index}" if index else ""
