"""Noise on actions while collecting experience."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from jaxdreamer.types import ActionSpec


def additive_gaussian(key: Array, action: Array, amount: float | Array) -> Array:
    """Shake a continuous action: ``clip(action + amount * N(0, 1), -1, 1)``.

    Args:
        key: typed PRNG key.
        action: float [..., n] in [-1, 1].
        amount: standard deviation of the noise, >= 0; may be traced. 0 gives the action back.

    Returns:
        float32 [..., n] in [-1, 1].

    Source: DreamerV1 (arXiv:1912.01603) appendix A, amount 0.3.
    """
    action = jnp.asarray(action, jnp.float32)
    noise = jax.random.normal(key, action.shape, jnp.float32)
    return jnp.clip(action + jnp.asarray(amount, jnp.float32) * noise, -1.0, 1.0)


def epsilon_greedy(key: Array, action: Array, epsilon: float | Array) -> Array:
    """Replace a choice, with probability ``epsilon``, by one drawn uniformly from all (its own included).

    Args:
        key: typed PRNG key.
        action: one-hot float [..., C].
        epsilon: probability in [0, 1]; may be traced. 0 gives the action back.

    Returns:
        one-hot float32 [..., C].

    Source: the authors' DreamerV1 code, for discrete actions (0.4 decaying to 0.1).
    """
    action = jnp.asarray(action, jnp.float32)
    key_whether, key_which = jax.random.split(key)
    batch, classes = action.shape[:-1], action.shape[-1]
    # uniform() lies in [0, 1): never below 0, always below 1.
    whether = jax.random.uniform(key_whether, batch, jnp.float32) < jnp.asarray(epsilon, jnp.float32)
    which = jax.random.randint(key_which, batch, 0, classes)
    return jnp.where(whether[..., None], jax.nn.one_hot(which, classes, dtype=jnp.float32), action)


def random_action(key: Array, spec: ActionSpec, lanes: int) -> Array:
    """Uniform actions: every continuous number in [-1, 1), every choice with equal probability. float32 [B, A]."""
    parts = []
    for part, part_key in zip(spec.parts, jax.random.split(key, len(spec.parts))):
        if part.kind == "continuous":
            parts.append(jax.random.uniform(part_key, (lanes, part.size), minval=-1.0, maxval=1.0))
        else:
            parts.append(jax.nn.one_hot(jax.random.randint(part_key, (lanes,), 0, part.size), part.size))
    return jnp.concatenate(parts, axis=-1)


def explore(
    key: Array, action: Array, action_spec: ActionSpec, *, gaussian: float | Array = 0.0, epsilon: float | Array = 0.0
) -> Array:
    """Explore with every part of a flat action in its own way: Gaussian noise on numbers, epsilon-greedy on choices.

    Args:
        key: typed PRNG key; each part gets its own key.
        action: float [..., A], the parts of ``action_spec`` side by side.
        action_spec: which numbers are what.
        gaussian: see :func:`additive_gaussian`.
        epsilon: see :func:`epsilon_greedy`.

    Returns:
        float32 [..., A]; the action itself where the amounts are 0.

    Raises:
        ValueError: the last axis is not ``action_spec.size`` wide.
    """
    action = jnp.asarray(action, jnp.float32)
    if action.ndim == 0 or action.shape[-1] != action_spec.size:
        raise ValueError(f"explore: the action must be [..., {action_spec.size}] wide, found shape {action.shape}")
    parts = []
    keys = jax.random.split(key, len(action_spec.parts))
    for part_key, part, where in zip(keys, action_spec.parts, action_spec.slices):
        if part.kind == "continuous":
            parts.append(additive_gaussian(part_key, action[..., where], gaussian))
        else:
            parts.append(epsilon_greedy(part_key, action[..., where], epsilon))
    return jnp.concatenate(parts, axis=-1)
