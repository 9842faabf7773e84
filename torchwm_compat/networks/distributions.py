"""What torchwm's heads and states answer with: distributions with its attributes, over jaxdreamer's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdreamer import Bernoulli, Normal, UnitNormal
from torchwm_compat.arrays import as_jax

_draws = itertools.count()


class Independent:
    """A distribution whose last ``event_ndim`` axes are one event; answers in the kind it was asked for."""

    def __init__(self, dist: Normal | UnitNormal | Bernoulli, event_ndim: int, answer: Callable[[Any], Any]) -> None:
        self._dist, self._event_ndim, self._answer = dist, event_ndim, answer

    @property
    def mean(self) -> Any:
        """The mean; a Bernoulli's probability."""
        return self._answer(self._dist.mean())

    @property
    def stddev(self) -> Any:
        """The standard deviation."""
        if isinstance(self._dist, Bernoulli):
            return self._answer(jnp.sqrt(self._dist.mean() * (1 - self._dist.mean())))
        return self._answer(getattr(self._dist, "std", jnp.ones_like(self._dist.mean())))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Axes of distributions."""
        shape = self._dist.mean().shape
        return tuple(shape[: len(shape) - self._event_ndim])

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Axes of one event."""
        shape = self._dist.mean().shape
        return tuple(shape[len(shape) - self._event_ndim :])

    def log_prob(self, value: Any) -> Any:
        """The log-density, summed over the event."""
        x = as_jax(value)
        if isinstance(self._dist, UnitNormal):
            return self._answer(self._dist.log_prob(x, event_ndim=self._event_ndim))
        log_prob = self._dist.log_prob(x)
        if isinstance(self._dist, Bernoulli):
            log_prob = log_prob.sum(axis=tuple(range(-self._event_ndim, 0)))
        return self._answer(log_prob)

    def sample(self) -> Any:
        """One sample; every call draws another."""
        return self._answer(self._dist.sample(jax.random.key(next(_draws))))

    rsample = sample
