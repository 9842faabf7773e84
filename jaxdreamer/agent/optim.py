"""The optimizers of the released code: V1's and V2's Adam with V2's weight decay as it really is, and V3's LaProp."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdreamer.config import OptimizerConfig
from jaxdreamer.types import Array, PyTree


def decay_weights(rate: float) -> optax.GradientTransformation:
    """Shrink every parameter by ``theta <- (1 - rate) theta`` in each update.

    Unlike ``optax.adamw``, whose decay is multiplied by the learning rate: V2's released code is not, so at a learning
    rate of 1e-4 and equal figures it decays ten thousand times as much.
    """

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        if params is None:
            raise ValueError("decay_weights needs the parameters: call update(grads, state, params)")
        return jax.tree.map(lambda u, p: u - rate * p, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_by_ratio(ratio: float, smallest: float = 1e-3) -> optax.GradientTransformation:
    """Clip each tensor's gradient relative to the tensor: ``g <- g / max(1, |g| / (ratio max(smallest, |theta|)))``.

    Norms are over the whole tensor, unlike ``optax.adaptive_grad_clip``, whose are over units.

    Source: Brock et al. (arXiv:2102.06171), adaptive gradient clipping, as the authors' code of DreamerV3 has it.
    """

    def clip(gradient: Array, theta: Array) -> Array:
        most = ratio * jnp.maximum(smallest, jnp.linalg.norm(theta.ravel()))
        return gradient / jnp.maximum(1.0, jnp.linalg.norm(gradient.ravel()) / most)

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        if params is None:
            raise ValueError("clip_by_ratio needs the parameters: call update(grads, state, params)")
        return jax.tree.map(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def keras_adam(learning_rate: optax.ScalarOrSchedule, epsilon: float) -> optax.GradientTransformation:
    """Adam with epsilon added before the bias correction, as Keras has it (decays 0.9 and 0.999).

    ``theta <- theta - rate sqrt(1 - 0.999^t) / (1 - 0.9^t) m / (sqrt(v) + epsilon)``, t from 1. Against ``optax.adam`` that
    is an epsilon of ``epsilon / sqrt(1 - 0.999^t)``: 32 times as large in the first update, equal after thousands.
    """

    def update(
        updates: PyTree, state: optax.ScaleByAdamState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        corrected: Any = epsilon / jnp.sqrt(1 - 0.999 ** (state.count + 1))
        return optax.scale_by_adam(eps=corrected).update(updates, state, params)

    scale = optax.GradientTransformation(optax.scale_by_adam().init, update)
    return optax.chain(scale, optax.scale_by_learning_rate(learning_rate))


def laprop(learning_rate: optax.ScalarOrSchedule, epsilon: float) -> optax.GradientTransformation:
    """``u = g / (sqrt(v) + epsilon)``, ``theta <- theta - rate m`` with v and m debiased averages of g^2 and u (0.999, 0.9).

    Adam averages the gradients before it scales them.

    Source: Ziyin et al. (arXiv:2002.04839).
    """
    return optax.chain(
        optax.scale_by_rms(0.999, epsilon, eps_in_sqrt=False, bias_correction=True),
        optax.ema(0.9),
        optax.scale_by_learning_rate(learning_rate),
    )


KINDS = {"adam": lambda rate, epsilon: optax.adam(rate, eps=epsilon), "keras_adam": keras_adam, "laprop": laprop}


def make_optimizers(config: OptimizerConfig) -> dict[str, optax.GradientTransformation]:
    """For ``model``, ``actor`` and ``critic``: clip, then the optimizer of ``kind``, then the weight decay if any.

    Their states hold moments as one vector of all tensors, in the order of ``jax.flatten_util.ravel_pytree``.

    With a warm-up, update n, from 0, has the rate ``learning_rate min(1, n / warmup)``.
    """

    def make(learning_rate: float) -> optax.GradientTransformation:
        rate = optax.linear_schedule(0.0, learning_rate, config.warmup) if config.warmup else learning_rate
        steps = [optax.clip_by_global_norm(config.grad_clip_norm)] if config.grad_clip_norm else []
        steps.append(KINDS[config.kind](rate, config.adam_epsilon))
        if config.weight_decay:
            steps.append(decay_weights(config.weight_decay))
        # These treat every number alike: one vector of all tensors is a few operations, where each tensor by itself is a
        # hundred more to compile, and to launch on a GPU.
        flat = optax.flatten(optax.chain(*steps))
        return optax.chain(clip_by_ratio(config.grad_clip_ratio), flat) if config.grad_clip_ratio else flat

    return {
        "model": make(config.model_learning_rate),
        "actor": make(config.actor_learning_rate),
        "critic": make(config.critic_learning_rate),
    }
