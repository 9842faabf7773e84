"""What all distributions share. Import them from :mod:`jaxdreamer.ops.distributions`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import jax.numpy as jnp
from jax import Array
from jax.tree_util import GetAttrKey, register_pytree_with_keys

D = TypeVar("D")


@dataclass_transform(frozen_default=True, eq_default=False)
def distribution(kind: type[D]) -> type[D]:
    """Make a class a frozen dataclass of arrays and a pytree, which passes through jit, scan and vmap."""
    kind = dataclass(frozen=True, eq=False)(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    # JAX's own register_dataclass will not do: with it, two kinds of equal fields have equal tree structures, and jit
    # may call the program of a Normal for a TruncatedNormal, whenever their hashes fall into one slot.
    register_pytree_with_keys(
        kind,
        lambda value: ([(GetAttrKey(name), getattr(value, name)) for name in names], None),
        lambda _, children: kind(*children),
        lambda value: ([getattr(value, name) for name in names], None),
    )
    return kind


class Distribution(ABC):
    """What every distribution can do. Parameters may be of any float type; everything is computed in float32."""

    @abstractmethod
    def noise(self, key: Array) -> Any:
        """The noise of one sample. Drawing that of a whole scan at once is cheaper than drawing it in each step."""

    @abstractmethod
    def from_noise(self, noise: Any) -> Array:
        """Turn noise into a sample."""

    def sample(self, key: Array) -> Array:
        """One sample: ``from_noise(noise(key))``, float32, with the gradients that ``from_noise`` has."""
        return self.from_noise(self.noise(key))

    @abstractmethod
    def mean(self) -> Array:
        """The expected sample."""

    def mode(self, key: Array | None = None) -> Array:
        """The most likely sample, or the nearest thing to it that has a closed form; the mean unless said otherwise."""
        return self.mean()

    @abstractmethod
    def log_prob(self, x: Array) -> Array:
        """Log-density or log-probability of x."""

    @abstractmethod
    def entropy(self, key: Array | None = None) -> Array:
        """Entropy in nats."""


def f32(x: Array) -> Array:
    """``x`` as float32."""
    return jnp.asarray(x, jnp.float32)
