"""The compiled functions behind an agent and its network views, shared by all agents of one configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdreamer import Config, EnvSpec, Latent, Learner, Networks, make_learner, make_networks, policy_mode
from torchwm_compat.files import weights

State = dict[str, Any]  # torchwm's: mean, std (or logits), stoch, deter


class Programs(NamedTuple):
    """Jitted; ``model`` stands for ``params["model"]``, states are torchwm's dictionaries, embeddings in torchwm's order."""

    networks: Networks
    learner: Learner  # its functions are jitted, and update donates its state
    shapes: Any  # of the parameters
    encode: Callable[..., Any]  # (model, statistics, raw observations) -> embed
    decode: Callable[..., Any]  # (model, feat) -> mean image [..., C, H, W]
    observe: Callable[..., tuple[State, State]]  # (model, state, action, embed, nonterm, noises) -> (posterior, prior)
    imagine: Callable[..., State]  # (model, state, action, nonterm, noise) -> prior
    head: Callable[..., Any]  # (params, name, feat) -> distribution, its arrays with a last axis of 1
    sample: Callable[..., Any]  # (actor, feat, key) -> action
    mode: Callable[..., Any]  # (actor, feat, key) -> action


@lru_cache(maxsize=16)
def make_programs(config: Config, spec: EnvSpec) -> Programs:
    """For a configuration and an environment's observations and actions."""
    networks = make_networks(config.model, spec)
    learner = make_learner(config, spec, networks)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    order = weights.embed_order(shapes, spec)  # torch's image embedding, the first part of the whole, in terms of ours

    def reordered(embed: Any, rows: Any) -> Any:
        return jnp.concatenate([embed[..., rows], embed[..., len(rows) :]], axis=-1)

    def advance(model: Any, state: State, action: Any, nonterm: Any) -> Any:
        latent = Latent(state["deter"] * nonterm, state["stoch"] * nonterm)
        return networks.rssm.step(model, latent, action)

    def imagine(model: Any, state: State, action: Any, nonterm: Any, noise: Any) -> State:
        deter = advance(model, state, action, nonterm)
        return as_state(networks.rssm.prior(model, deter), deter, noise)

    def observe(
        model: Any, state: State, action: Any, embed: Any, nonterm: Any, noises: tuple[Any, Any]
    ) -> tuple[State, State]:
        deter = advance(model, state, action, nonterm)
        part = networks.rssm.embed_part(model, reordered(embed, order.argsort()))
        prior, posterior = networks.rssm.prior(model, deter), networks.rssm.posterior(model, deter, part)
        return as_state(posterior, deter, noises[1]), as_state(prior, deter, noises[0])

    def head(params: Any, name: str, feat: Any) -> Any:
        dist = getattr(networks, name)(params["critic" if name == "critic" else "model"], feat)
        return jax.tree.map(lambda x: x[..., None], dist)

    return Programs(
        networks,
        Learner(jax.jit(learner.init), jax.jit(learner.update, donate_argnums=0)),
        shapes,
        encode=jax.jit(lambda model, seen, obs: reordered(networks.encode(model, networks.prepare(seen, obs)), order)),
        decode=jax.jit(lambda model, feat: jnp.moveaxis(networks.decode(model, feat)["image"].mean(), -1, -3)),
        observe=jax.jit(observe),
        imagine=jax.jit(imagine),
        head=jax.jit(head, static_argnums=1),
        sample=jax.jit(lambda actor, feat, key: networks.actor(actor, feat).sample(key)),
        mode=jax.jit(lambda actor, feat, key: policy_mode(networks.actor(actor, feat), key)),
    )


def as_state(dist: Any, deter: Any, noise: Any) -> State:
    """torchwm's dictionary: a Gaussian's mean and std, or a categorical's logits; the sample; the deterministic part."""
    if hasattr(dist, "loc"):
        statistics = {"mean": dist.loc, "std": dist.std}
    else:
        statistics = {"logits": dist.logits.reshape(*deter.shape[:-1], -1)}
    return {**statistics, "stoch": dist.from_noise(noise), "deter": deter}
