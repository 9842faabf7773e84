"""One update of everything: world model, actor, critic, as a pure function of the train state and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxdreamer.agent.behavior import behavior_loss
from jaxdreamer.agent.optim import make_optimizers
from jaxdreamer.agent.world_model import world_model_loss
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import STATISTICS, Networks, make_networks
from jaxdreamer.ops.trees import all_finite, select, tree_norm
from jaxdreamer.types import Array, Batch, EnvSpec, Metrics, OptimizerStates, TrainState


class Learner(NamedTuple):
    """Two pure functions, for anyone's own ``jit``, ``vmap`` or ``scan``."""

    init: Callable[[Array], TrainState]  # key -> fresh state
    update: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]  # (state, batch [T, B, ...]) -> (state, metrics)


def make_learner(config: Config, spec: EnvSpec, networks: Networks | None = None) -> Learner:
    """The learner of a configuration for an environment's observations and actions.

    ``update`` computes the world-model loss, the behaviour loss on dreams from every posterior state of the batch, and
    applies the three optimizers. ``behavior.update_order`` says whether the dreams use the world model as it was
    (*joint*, V1) or as just updated (*sequential*, V2); the posterior states are the same either way.

    Where a loss or a gradient norm is not finite, parameters, optimizers and target critic stay as they were, and the
    update is counted in ``TrainState.skipped``; ``metrics["skipped_in_a_row"]`` lets a loop stop on a run of them.
    """
    networks = networks or make_networks(config.model, spec)
    optimizers = make_optimizers(config.optimizer)
    period = config.behavior.target_critic_every

    def init(key: Array) -> TrainState:
        key_params, key_state = jax.random.split(key)
        params = networks.init(key_params)
        zero = jnp.zeros((), jnp.int32)
        # A copy: the two must not share buffers that a donated update would then hand over twice.
        target = jax.tree.map(jnp.copy, params["critic"])
        return TrainState(params, target, optimizers.init(params), zero, zero, zero, key_state)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key, key_model, key_behavior = jax.random.split(state.key, 3)
        params = {**state.params, "model": networks.track(state.params["model"], batch.obs)}

        def model_loss(model):
            return world_model_loss(networks, config, model, batch, key_model)

        (_, output), model_grads = jax.value_and_grad(model_loss, has_aux=True)(params["model"])
        model_updates, model_optimizer = optimizers.model.update(model_grads, state.optimizers.model, params["model"])
        # Statistics are counted, not learned: no gradient reaches them, but the weight decay would.
        statistics = {name: tree for name, tree in params["model"].items() if name == STATISTICS}
        model = {**optax.apply_updates(params["model"], model_updates), **statistics}

        target_critic = state.target_critic if period else params["critic"]
        start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), output.latent)

        def loss(trained):
            return behavior_loss(
                networks,
                config,
                spec.action,
                trained,
                model=model if config.behavior.update_order == "sequential" else params["model"],
                target_critic=lax.stop_gradient(target_critic),
                start=start,
                start_terminal=batch.is_terminal.reshape(-1),
                key=key_behavior,
            )

        trained = {"actor": params["actor"], "critic": params["critic"]}
        (_, behavior_metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        actor_updates, actor_optimizer = optimizers.actor.update(
            grads["actor"], state.optimizers.actor, params["actor"]
        )
        critic_updates, critic_optimizer = optimizers.critic.update(
            grads["critic"], state.optimizers.critic, params["critic"]
        )
        metrics = {
            **output.metrics,
            **behavior_metrics,
            "grad_norm/model": tree_norm(model_grads),
            "grad_norm/actor": tree_norm(grads["actor"]),
            "grad_norm/critic": tree_norm(grads["critic"]),
        }
        critic = optax.apply_updates(params["critic"], critic_updates)
        if period:  # after the update, the very first included, as V2 does
            target_critic = select(state.updates % period == 0, critic, target_critic)
        updated = (
            {"model": model, "actor": optax.apply_updates(params["actor"], actor_updates), "critic": critic},
            target_critic,
            OptimizerStates(model_optimizer, actor_optimizer, critic_optimizer),
        )
        # A norm is not finite exactly where one of its gradients is not (or is too large to square, as bad a sign).
        good = all_finite({name: value for name, value in metrics.items() if name.startswith(("loss/", "grad_norm/"))})
        params, target_critic, states = select(good, updated, (state.params, state.target_critic, state.optimizers))
        bad = 1 - good.astype(jnp.int32)
        in_a_row = jnp.where(good, 0, state.skipped_in_a_row + 1)
        state = TrainState(params, target_critic, states, state.updates + 1, state.skipped + bad, in_a_row, key)
        metrics |= {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return Learner(init, update)


def update_many(learner: Learner, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    """K updates in one scan over batches [K, T, B, ...]: the last state and the metrics of each update, [K]."""
    return lax.scan(learner.update, state, batches)
