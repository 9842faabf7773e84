"""Acting: observations to actions, with the recurrent state carried by the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxdreamer.agent.rssm import forget
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import Networks, features, make_networks
from jaxdreamer.ops.distributions import policy_mode
from jaxdreamer.ops.exploration import explore
from jaxdreamer.types import ActionSpec, Array, EnvSpec, Latent, Observation, PolicyState, PyTree

Mode = Literal["explore", "sample", "greedy"]


class Policy(NamedTuple):
    """Two pure functions, for anyone's own ``jit``."""

    init: Callable[[int], PolicyState]  # lanes B -> the state before any observation
    act: Callable[..., tuple[Array, PolicyState]]  # see make_policy


def make_policy(config: Config, spec: EnvSpec, networks: Networks | None = None) -> Policy:
    """The policy of a configuration for an environment's observations and actions.

    ``act(params, state, obs, is_first, key, mode="explore") -> (action [B, A], state)``: infer the posterior latent from
    the observation, the last latent and the last action, and act on it.

    - obs: per key [B, *shape], raw. is_first: bool [B]; where true the state starts from zeros.
    - mode ``"explore"`` samples and adds the configured exploration, ``"sample"`` samples, ``"greedy"`` takes the
      distribution's mode. The latent is sampled in every mode, as V1 and V2 do.
    - The state carries the action as returned, exploration included: it is what the environment will have done.

    ``params`` is all the parameters, ``{"model", "actor", ...}``; the critic is not looked at. ``act`` raises ValueError
    for another mode.
    """
    networks = networks or make_networks(config.model, spec)

    def init(lanes: int) -> PolicyState:
        return PolicyState(networks.rssm.initial((lanes,)), jnp.zeros((lanes, spec.action.size), jnp.float32))

    def act(
        params: PyTree, state: PolicyState, obs: Observation, is_first: Array, key: Array, mode: Mode = "explore"
    ) -> tuple[Array, PolicyState]:
        if mode not in get_args(Mode):
            raise ValueError(f"act: mode must be one of {', '.join(get_args(Mode))}, found {mode!r}")
        key_latent, key_action, key_explore = jax.random.split(key, 3)
        model = params["model"]
        deter = networks.rssm.step(model, *forget(state.latent, state.action, is_first))
        embed_part = networks.rssm.embed_part(model, networks.encode(model, obs))
        latent = Latent(deter, networks.rssm.posterior(model, deter, embed_part).sample(key_latent))
        dist = networks.actor(params["actor"], features(latent))
        if mode == "greedy":
            action = policy_mode(dist, key_action)
        else:
            action = dist.sample(key_action)
        if mode == "explore":
            action = explore(
                key_explore,
                action,
                spec.action,
                gaussian=config.behavior.exploration_noise,
                epsilon=config.behavior.exploration_epsilon,
            )
        return action, PolicyState(latent, action)

    return Policy(init, act)


def random_action(key: Array, spec: ActionSpec, lanes: int) -> Array:
    """Uniform actions: every continuous number in [-1, 1), every choice with equal probability. float32 [B, A]."""
    parts = []
    for part, part_key in zip(spec.parts, jax.random.split(key, len(spec.parts))):
        if part.kind == "continuous":
            parts.append(jax.random.uniform(part_key, (lanes, part.size), minval=-1.0, maxval=1.0))
        else:
            parts.append(jax.nn.one_hot(jax.random.randint(part_key, (lanes,), 0, part.size), part.size))
    return jnp.concatenate(parts, axis=-1)
