"""The optimizers of the released code: clip by global norm, Adam, and V2's weight decay as it really is."""

from __future__ import annotations

import jax
import optax

from jaxdreamer.config import OptimizerConfig
from jaxdreamer.types import PyTree


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


def make_optimizers(config: OptimizerConfig) -> dict[str, optax.GradientTransformation]:
    """For ``model``, ``actor`` and ``critic``: clip by global norm, then Adam, then the weight decay if there is any."""

    def make(learning_rate: float) -> optax.GradientTransformation:
        steps = [optax.clip_by_global_norm(config.grad_clip_norm), optax.adam(learning_rate, eps=config.adam_epsilon)]
        if config.weight_decay:
            steps.append(decay_weights(config.weight_decay))
        return optax.chain(*steps)

    return {
        "model": make(config.model_learning_rate),
        "actor": make(config.actor_learning_rate),
        "critic": make(config.critic_learning_rate),
    }
