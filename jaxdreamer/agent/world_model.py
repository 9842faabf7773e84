"""The world model's loss: reconstruction, reward, discount and KL."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxdreamer.agent.rssm import first_latent, observe
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import Networks, features
from jaxdreamer.ops.distributions import UnitNormal
from jaxdreamer.ops.kl import balanced_kl
from jaxdreamer.types import Array, Batch, Latent, Metrics, PyTree


class WorldModelOutput(NamedTuple):
    """What the loss leaves for the behaviour and the log."""

    latent: Latent  # [T, B, ...], posterior samples
    metrics: Metrics


def learned_reward(reward: Array, config: Config) -> Array:
    """The reward as the networks see it: scaled, then squashed where the preset says so. float32, any shape."""
    reward = reward.astype(jnp.float32) * config.loss.reward_scale
    return jnp.tanh(reward) if config.loss.reward_transform == "tanh" else reward


def log_likelihood(dist: Any, target: Array, batch_ndim: int) -> Array:
    """log p(target) of one decoded key, summed over all axes after the first ``batch_ndim``: float32."""
    if isinstance(dist, UnitNormal):
        return dist.log_prob(target, event_ndim=target.ndim - batch_ndim)
    return dist.log_prob(target)


def world_model_loss(
    networks: Networks, config: Config, params: PyTree, batch: Batch, key: Array, statistics: PyTree | None = None
) -> tuple[Array, WorldModelOutput]:
    """Negative evidence lower bound of a batch of sequences.

    ``L = mean_t,b [ -sum_keys ln p(x_t | z_t) - c_r ln p(r_t | z_t) - c_d ln p(d_t | z_t) ] + beta KL``

    with ``d_t = gamma (1 - is_terminal_t)`` as a soft label, so that the head's mean is the discount itself, and KL as
    :func:`jaxdreamer.ops.kl.balanced_kl` has it. Log-likelihoods are summed over an entry's pixels or numbers.

    Args:
        params: ``params["model"]``.
        batch: [T, B, ...].
        key: for the posterior's samples.
        statistics: of the observations, as ``Networks.track`` counts them; by default those before any was seen.

    Returns:
        The scalar loss, and the posterior latents with the scalar terms by name.

    Source: DreamerV1 (arXiv:1912.01603) eq. 10; DreamerV2 (arXiv:2010.02193) eq. 2 and algorithm 2.
    """
    loss = config.loss
    initial = first_latent(networks.rssm, batch.kept)
    masked = loss.mask_first_action and initial is None
    is_first = batch.is_first.at[0].set(True) if masked else batch.is_first
    targets = networks.prepare(networks.statistics if statistics is None else statistics, batch.obs)
    sequence = {"embed": networks.encode(params, targets), "action": batch.action, "is_first": is_first}
    latent, posterior, prior = observe(networks.rssm, params, **sequence, key=key, initial=initial)
    feat = features(latent)

    terms: Metrics = {}  # an observation may bear any name, "reward" too: its term has a prefix of its own
    for name, dist in networks.decode(params, feat).items():
        scale = loss.image_loss_coeff if networks.spec.obs[name].kind == "image" else loss.vector_loss_coeff
        terms[f"loss/obs/{name}"] = -scale * jnp.mean(log_likelihood(dist, targets[name], batch_ndim=2))
    reward = networks.reward(params, feat)
    terms["loss/reward"] = -loss.reward_loss_coeff * jnp.mean(reward.log_prob(learned_reward(batch.reward, config)))
    if networks.discount is not None:
        target = config.behavior.discount * (1.0 - batch.is_terminal.astype(jnp.float32))
        log_prob = networks.discount(params, feat).log_prob(target)
        terms["loss/discount"] = -loss.discount_loss_coeff * jnp.mean(log_prob)
    free: Any = {"free_nats": loss.free_nats, "per_element": loss.free_nats_per == "state", "across": networks.across}
    kl_loss, kl = balanced_kl(posterior, prior, balance=loss.kl_balance, **free)
    terms["loss/kl"] = loss.kl_loss_coeff * kl_loss

    total = sum(terms.values(), jnp.zeros(()))
    metrics = {
        "loss/model": total,
        **terms,
        "kl": kl,
        "posterior_entropy": jnp.mean(posterior.entropy()),
        "prior_entropy": jnp.mean(prior.entropy()),
    }
    return total, WorldModelOutput(latent, metrics)
