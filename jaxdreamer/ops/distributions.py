"""All distributions, and what callers do with them without knowing which they hold.

Each is a NamedTuple of arrays, so it passes through jit, scan and vmap as a pytree and is built anew for every call:
``Normal(loc, std)``. What they share:

``sample(key)``, ``noise(key)``, ``from_noise(noise)``
    ``sample(key) == from_noise(noise(key))``. Drawing the noise of a whole scan at once is cheaper than in each step.
``mode(key=None)``, ``mean()``, ``log_prob(x)``, ``entropy(key=None)``
    A key is taken everywhere, and needed only by :meth:`TanhNormal.entropy`: callers always pass one.
``size``
    Width of a sample's last axis, for those over vectors: there that axis is one event and log_prob sums it.

Inputs may be of any float type; everything is computed in and returned as float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

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
    "stop_gradient",
    "tanh_normal_from_raw",
    "truncated_normal_from_raw",
]

D = TypeVar("D")


class Distribution(Protocol):
    """What every distribution can do; see the module docstring."""

    def sample(self, key: Array) -> Array:
        """Draw one sample."""

    def noise(self, key: Array) -> Any:
        """Draw the noise of one sample."""

    def from_noise(self, noise: Any) -> Array:
        """Turn noise into a sample."""

    def mode(self, key: Array | None = None) -> Array:
        """The most likely sample, or the nearest thing to it that has a closed form."""

    def mean(self) -> Array:
        """The expected sample."""

    def log_prob(self, x: Array) -> Array:
        """Log-density or log-probability of x."""

    def entropy(self, key: Array | None = None) -> Array:
        """Entropy in nats."""


class Joint(NamedTuple):
    """Independent distributions over vectors, side by side: hybrid actions. log_prob and entropy sum over the parts."""

    parts: tuple[Any, ...]  # distributions with a ``size``, one batch shape

    @property
    def size(self) -> int:
        """Width of a sample, all parts together."""
        return sum(part.size for part in self.parts)

    def noise(self, key: Array) -> tuple[Any, ...]:
        """The noise of each part, from a key of its own."""
        keys = jax.random.split(key, len(self.parts))
        return tuple(part.noise(part_key) for part, part_key in zip(self.parts, keys))

    def from_noise(self, noise: tuple[Any, ...]) -> Array:
        """The samples of the parts side by side, float32 [..., size]."""
        return jnp.concatenate([part.from_noise(n) for part, n in zip(self.parts, noise)], axis=-1)

    def sample(self, key: Array) -> Array:
        """One sample, float32 [..., size]."""
        return self.from_noise(self.noise(key))

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
        """Sum of the parts' entropies, float32 [...]; each part gets a key of its own where one is given."""
        keys = [None] * len(self.parts) if key is None else jax.random.split(key, len(self.parts))
        return jnp.sum(jnp.stack([part.entropy(part_key) for part, part_key in zip(self.parts, keys)]), axis=0)


def stop_gradient(dist: D) -> D:
    """The same distribution as a constant."""
    return jax.tree.map(lax.stop_gradient, dist)


def policy_mode(dist: Any, key: Array) -> Array:
    """The action of an agent that does not explore, float32 [..., size].

    A :class:`TanhNormal` gives the best of 100 samples, as V1 does in evaluation; a :class:`Joint` asks each of its
    parts; all others give their mode.
    """
    if isinstance(dist, TanhNormal):
        return dist.best_of(key)
    if isinstance(dist, Joint):
        keys = jax.random.split(key, len(dist.parts))
        return jnp.concatenate([policy_mode(part, part_key) for part, part_key in zip(dist.parts, keys)], axis=-1)
    return dist.mode()
