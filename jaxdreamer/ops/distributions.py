"""All distributions, and what callers do with them without knowing which they hold.

Each is a frozen dataclass of arrays, so it passes through jit, scan and vmap as a pytree and is built anew for every call:
``Normal(loc, std)``. :class:`Distribution` says what they share. ``entropy`` and ``mode`` take a key everywhere and need it
only for :class:`TanhNormal` and what contains one: callers always pass one. Those over vectors have a ``size``, the width of
a sample's last axis; that axis is one event, and log_prob sums it.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdreamer.ops.continuous import (
    Normal,
    TanhNormal,
    TruncatedNormal,
    UnitNormal,
    bounded_normal_from_raw,
    tanh_normal_from_raw,
    truncated_normal_from_raw,
)
from jaxdreamer.ops.discrete import Bernoulli, Categoricals, OneHot, SymexpTwoHot, TwoHot
from jaxdreamer.ops.distribution import Distribution, distribution

__all__ = [
    "Bernoulli",
    "Categoricals",
    "Distribution",
    "Joint",
    "Normal",
    "OneHot",
    "SymexpTwoHot",
    "TanhNormal",
    "TruncatedNormal",
    "TwoHot",
    "UnitNormal",
    "bounded_normal_from_raw",
    "policy_mode",
    "policy_mode_from_noise",
    "policy_mode_noise",
    "released_gradient",
    "stop_gradient",
    "tanh_normal_from_raw",
    "truncated_normal_from_raw",
]

D = TypeVar("D")


@distribution
class Joint(Distribution):
    """Independent distributions over vectors, side by side: hybrid actions. log_prob and entropy sum over the parts."""

    parts: tuple[Any, ...]  # distributions with a ``size``, one batch shape

    @property
    def size(self) -> int:
        """Width of a sample, all parts together."""
        return sum(part.size for part in self.parts)

    def noise(self, key: Array) -> tuple[Any, ...]:
        """The noise of each part, each from its own key."""
        keys = jax.random.split(key, len(self.parts))
        return tuple(part.noise(part_key) for part, part_key in zip(self.parts, keys))

    def from_noise(self, noise: tuple[Any, ...]) -> Array:
        """The samples of the parts side by side, float32 [..., size]."""
        return jnp.concatenate([part.from_noise(n) for part, n in zip(self.parts, noise)], axis=-1)

    def mode(self, key: Array | None = None) -> Array:
        """The modes of the parts side by side, float32 [..., size]."""
        return jnp.concatenate([part.mode() for part in self.parts], axis=-1)

    def mean(self) -> Array:
        """The means of the parts side by side, float32 [..., size]."""
        return jnp.concatenate([part.mean() for part in self.parts], axis=-1)

    def log_prob(self, x: Array) -> Array:
        """Sum of the parts' log-probabilities of their slices of x [..., size]: float32 [...]."""
        x = jnp.asarray(x, jnp.float32)
        if x.shape[-1] != self.size:
            raise ValueError(f"Joint.log_prob: x must be [..., {self.size}], found shape {x.shape}")
        log_probs, start = [], 0
        for part in self.parts:
            log_probs.append(part.log_prob(x[..., start : start + part.size]))
            start += part.size
        return jnp.sum(jnp.stack(log_probs), axis=0)

    def entropy(self, key: Array | None = None) -> Array:
        """Sum of the parts' entropies, float32 [...]; each part gets its own key where one is given."""
        keys = [None] * len(self.parts) if key is None else jax.random.split(key, len(self.parts))
        return jnp.sum(jnp.stack([part.entropy(part_key) for part, part_key in zip(self.parts, keys)]), axis=0)


def stop_gradient(dist: D) -> D:
    """The same distribution as a constant."""
    return jax.tree.map(lax.stop_gradient, dist)


def released_gradient(dist: Any, action: Array) -> Array:
    """The same sample of ``dist`` [..., size] with the gradient that the released V2 gives to it.

    That of a :class:`TruncatedNormal` is :meth:`TruncatedNormal.as_if_unbounded`; all others have their own.
    """
    if isinstance(dist, TruncatedNormal):
        return dist.as_if_unbounded(action)
    if isinstance(dist, Joint):
        ends = list(itertools.accumulate(part.size for part in dist.parts))
        pieces = jnp.split(action, ends[:-1], axis=-1)
        return jnp.concatenate([released_gradient(part, x) for part, x in zip(dist.parts, pieces)], axis=-1)
    return action


def policy_mode(dist: Any, key: Array) -> Array:
    """The action of an agent that does not explore, float32 [..., size].

    A :class:`TanhNormal` gives the best of 100 samples, as V1 does in evaluation; a :class:`Joint` asks each of its
    parts; all others give their mode.
    """
    return policy_mode_from_noise(dist, policy_mode_noise(dist, key))


def policy_mode_noise(dist: Any, key: Array, samples: int = 100) -> Any:
    """The noise that :func:`policy_mode` draws: of a :class:`TanhNormal` [samples, ..., n], of a :class:`Joint` a tuple with
    that of each part, of all others ``()``."""
    if isinstance(dist, TanhNormal):
        return jax.vmap(dist.noise)(jax.random.split(key, samples))
    if isinstance(dist, Joint):
        keys = jax.random.split(key, len(dist.parts))
        return tuple(policy_mode_noise(part, part_key, samples) for part, part_key in zip(dist.parts, keys))
    return ()


def policy_mode_from_noise(dist: Any, noise: Any) -> Array:
    """Turn what :func:`policy_mode_noise` drew into the action, float32 [..., size]."""
    if isinstance(dist, TanhNormal):
        return dist.best_of_noise(noise)
    if isinstance(dist, Joint):
        return jnp.concatenate([policy_mode_from_noise(part, n) for part, n in zip(dist.parts, noise)], axis=-1)
    return dist.mode()
