"""Acting: observations to actions, with the recurrent state carried by the caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp

from jaxdreamer.agent.algorithm import Mode, Policy, nothing_to_keep
from jaxdreamer.agent.rssm import forget, keep_latent
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import Networks, features, make_networks
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.ops.distributions import policy_mode
from jaxdreamer.ops.exploration import explore, random_action
from jaxdreamer.types import Array, EnvSpec, Latent, Observation, PolicyState, PyTree


def acting(params: PyTree, aux: PyTree) -> PyTree:
    """What Dreamer acts with: ``{"model", "actor", "statistics"}``."""
    return {"model": params["model"], "actor": params["actor"], "statistics": aux["statistics"]}


def keeping(config: Config) -> Callable[[PolicyState], dict[str, Array]]:
    """What replay keeps of the policy's state, see ``replay.context``."""
    if config.replay.context == "none":
        return nothing_to_keep
    return partial(keep_latent, config.model.classes)


def make_policy(config: Config, spec: EnvSpec, networks: Networks | None = None, across: Across = ALONE) -> Policy:
    """The policy of a configuration for an environment's observations and actions; see :class:`Policy` for its interface.

    ``act`` infers the posterior latent from the observation, the last latent and the last action, and acts on it:
    ``h_t = f(h_{t-1}, s_{t-1}, a_{t-1})``, ``s_t ~ q(s_t | h_t, x_t)``, ``a_t ~ pi(a_t | h_t, s_t)``.

    - The latent is sampled in every mode, as V1 and V2 do, and starts from zeros where ``is_first``. Mode ``"random"``
      leaves it as it was.
    - The state carries the action as returned, exploration included: it is what the environment will have done.

    With ``across``, ``act`` is one device's, for its part of the environments, inside a ``shard_map`` over that axis.

    ``params`` is what :func:`acting` returns. ``act`` raises ValueError for another mode.
    """
    networks = networks or make_networks(config.model, spec)

    def init(lanes: int) -> PolicyState:
        return PolicyState(networks.rssm.initial((lanes,)), jnp.zeros((lanes, spec.action.size), jnp.float32))

    def posterior(params: PyTree, deter: Array, obs: Observation) -> PyTree:
        model, prepared = params["model"], networks.prepare(params["statistics"], obs)
        part = networks.rssm.embed_part(model, networks.encode(model, prepared))
        return networks.rssm.posterior(model, deter, part)

    def act(
        params: PyTree, state: PolicyState, obs: Observation, is_first: Array, key: Array, mode: Mode = "explore"
    ) -> tuple[Array, PolicyState]:
        if mode not in get_args(Mode):
            raise ValueError(f"act: mode must be one of {', '.join(get_args(Mode))}, found {mode!r}")
        lanes = across.over(is_first.shape[0])
        if mode == "random":
            action = lanes.take(random_action(key, spec.action, is_first.shape[0] * across.devices))
            return action, PolicyState(state.latent, action)
        key_latent, *keys_action = jax.random.split(key, 3)
        draw_latent = partial(lanes.sample, key=key_latent)
        draw_action = partial(_draw_action, config, spec, lanes, mode, *keys_action)
        return decide(params, state, obs, is_first, draw_latent, draw_action)

    def decide(
        params: PyTree,
        state: PolicyState,
        obs: Observation,
        is_first: Array,
        draw_latent: Callable[[Any], Array],
        draw_action: Callable[[Any], Array],
    ) -> tuple[Array, PolicyState]:
        deter = networks.rssm.step(params["model"], *forget(state.latent, state.action, is_first))
        latent = Latent(deter, draw_latent(posterior(params, deter, obs)))
        action = draw_action(networks.actor(params["actor"], features(latent)))
        action = jnp.clip(action, -1.0, 1.0)  # a bounded Normal reaches beyond
        return action, PolicyState(latent, action)

    def drawn_from(params: PyTree, state: PolicyState, obs: Observation) -> PyTree:
        latent = state.latent
        return posterior(params, latent.deter, obs), networks.actor(params["actor"], features(latent))

    return Policy(init, act, drawn_from, decide)


def _draw_action(
    config: Config, spec: EnvSpec, lanes: Across, mode: Mode, key: Array, key_explore: Array, dist: Any
) -> Array:
    """The action of ``greedy``, ``sample`` or ``explore`` from the actor's distribution over these lanes."""
    if mode == "greedy":
        return lanes.part(lambda one: policy_mode(one, key), dist)
    action = lanes.sample(dist, key)
    if mode != "explore":
        return action
    noise, epsilon = config.behavior.exploration_noise, config.behavior.exploration_epsilon
    amounts: Any = {"gaussian": noise, "epsilon": epsilon}
    return lanes.part(lambda one: explore(key_explore, one, spec.action, **amounts), action)
