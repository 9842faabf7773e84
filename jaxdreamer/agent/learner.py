"""One update of everything: world model, actor, critic, as a pure function of the train state and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.agent.algorithm import commit, descend, fresh
from jaxdreamer.agent.behavior import behavior_loss, starts, track_critic
from jaxdreamer.agent.optim import make_optimizers
from jaxdreamer.agent.world_model import world_model_loss
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import Networks, make_networks, part_of
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.types import Array, Batch, EnvSpec, Metrics, PyTree, TrainState


class Learner(NamedTuple):
    """Two pure functions, for anyone's own ``jit``, ``vmap`` or ``scan``."""

    init: Callable[[Array], TrainState]  # key -> fresh state
    update: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]  # (state, batch [T, B, ...]) -> (state, metrics)


def make_learner(config: Config, spec: EnvSpec, networks: Networks | None = None, across: Across = ALONE) -> Learner:
    """The learner of DreamerV1 and V2 for an environment's observations and actions.

    ``update`` computes the world-model loss, the behaviour loss on dreams from every posterior state of the batch, and
    applies the three optimizers. ``behavior.update_order`` says whether the dreams use the world model as it was
    (*joint*, V1) or as just updated (*sequential*, V2); the posterior states are the same either way.

    Where a loss or a gradient norm is not finite, everything stays as it was; see :func:`commit`.

    With ``across``, ``update`` is one device's on its part of a batch, in a ``shard_map``; its results are the whole's.
    """
    whole = networks or make_networks(config.model, spec)
    optimizers = make_optimizers(config.optimizer)

    def init(key: Array) -> TrainState:
        key_params, key_state = jax.random.split(key)
        params = whole.init(key_params)
        # A copy: the two must not share buffers that a donated update would then hand over twice.
        aux = {"target_critic": jax.tree.map(jnp.copy, params["critic"]), "statistics": whole.statistics}
        return fresh(params, {name: optimizers[name].init(params[name]) for name in optimizers}, aux, key_state)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        networks = part_of(whole, across, batch.is_first.shape[1])
        key, key_model, key_behavior = jax.random.split(state.key, 3)
        old, aux = state.params, state.aux
        statistics = networks.track(aux["statistics"], batch.obs)

        def model_loss(params: PyTree) -> Any:
            return world_model_loss(networks, config, params["model"], batch, key_model, statistics)

        parts = {"model": old["model"]}
        model, model_state, output, norms = descend(optimizers, model_loss, parts, state.optimizers, across)

        start, terminal = starts(config.behavior, (output.latent, batch.is_terminal))
        valued_by = aux["target_critic"] if config.behavior.target_critic_every else old["critic"]

        def loss(params: PyTree) -> Any:
            return behavior_loss(
                networks,
                config,
                spec.action,
                params,
                model=(model if config.behavior.update_order == "sequential" else old)["model"],
                target_critic=lax.stop_gradient(valued_by),
                start=jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), start),
                start_terminal=terminal.reshape(-1),
                key=key_behavior,
            )

        parts = {name: old[name] for name in ("actor", "critic")}
        behavior, behavior_state, metrics, more = descend(optimizers, loss, parts, state.optimizers, across)
        target = track_critic(config.behavior, state.updates, behavior["critic"], aux["target_critic"])
        new: Any = {
            "params": model | behavior,
            "optimizers": model_state | behavior_state,
            "aux": {"target_critic": target, "statistics": statistics},
        }
        return commit(state, output.metrics | metrics | norms | more, key=key, **new, across=across)

    return Learner(init, update)


def update_many(learner: Any, state: TrainState, batches: Batch) -> tuple[TrainState, Metrics]:
    """K updates in one scan over batches [K, T, B, ...]: the last state and the metrics of each update, [K].

    ``learner`` is a :class:`Learner` or an :class:`~jaxdreamer.agent.algorithm.Algorithm`.
    """
    return lax.scan(learner.update, state, batches)
