"""The learned world by itself: pure functions to look into it, to go on in it, and to say what is seen and earned there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxdreamer.agent.rssm import first_latent, observe, prior_step
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import Networks, features
from jaxdreamer.types import Array, Batch, Latent, Observation, PyTree

_NEAR_ONE = 1.0 - 1e-6


class World(NamedTuple):
    """A world model as others may use it. ``params`` is what :attr:`Algorithm.acting` returns; leading axes are free."""

    # (params, batch [T, B, ...], key) -> latents [T, B, ...]: what the model makes of what happened; see `observe`
    watch: Callable[[PyTree, Batch, Array], Latent]
    # (params, latent, action [..., A], key) -> the next latent, as `imagine` takes it
    step: Callable[[PyTree, Latent, Array, Array], Latent]
    # (params, latent) -> the reward on arriving there, float32 [...], in the task's units
    reward: Callable[[PyTree, Latent], Array]
    # (params, latent) -> the probability that the task goes on there, float32 [...]; 1 where ends are not learned
    goes_on: Callable[[PyTree, Latent], Array]
    # (params, latent) -> observations [..., *shape] as the spec says them: means, of choices the likeliest
    show: Callable[[PyTree, Latent], Observation]


def make_world(config: Config, networks: Networks) -> World | None:
    """The world model of a configuration; None where ``networks`` cannot say what is seen in it.

    Rewards are :func:`~jaxdreamer.agent.world_model.learned_reward` undone, ``r / c`` or ``atanh(r) / c``. The discount head
    predicts ``gamma P(goes on)``, so its mean is divided by gamma.
    """
    loss, gamma, restore = config.loss, config.behavior.discount, networks.restore
    if restore is None:
        return None

    def watch(params: PyTree, batch: Batch, key: Array) -> Latent:
        initial = first_latent(networks.rssm, batch.kept)
        is_first = batch.is_first if initial is not None else batch.is_first.at[0].set(True)
        embed = networks.encode(params["model"], networks.prepare(params["statistics"], batch.obs))
        sequence = {"embed": embed, "action": batch.action, "is_first": is_first}
        return observe(networks.rssm, params["model"], **sequence, key=key, initial=initial)[0]

    def step(params: PyTree, latent: Latent, action: Array, key: Array) -> Latent:
        return prior_step(networks.rssm, params["model"])(latent, action, key)

    def reward(params: PyTree, latent: Latent) -> Array:
        seen = networks.reward(params["model"], features(latent)).mode()
        if loss.reward_transform == "tanh":
            seen = jnp.arctanh(jnp.clip(seen, -_NEAR_ONE, _NEAR_ONE))
        return seen / loss.reward_scale

    def goes_on(params: PyTree, latent: Latent) -> Array:
        if networks.discount is None:
            return jnp.ones(latent.deter.shape[:-1], jnp.float32)
        return jnp.clip(networks.discount(params["model"], features(latent)).mean() / gamma, 0.0, 1.0)

    def show(params: PyTree, latent: Latent) -> Observation:
        predicted = networks.decode(params["model"], features(latent))
        return restore(params["statistics"], {name: dist.mode() for name, dist in predicted.items()})

    return World(watch, step, reward, goes_on, show)
