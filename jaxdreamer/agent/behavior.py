"""Actor and critic, learned on dreamed sequences only."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.agent.rssm import imagine, prior_step
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import Networks, features
from jaxdreamer.ops.returns import discount_weights, lambda_return
from jaxdreamer.types import ActionSpec, Array, Latent, Metrics, PyTree


def actor_gradient(config: Config, spec: ActionSpec) -> str:
    """``dynamics``, ``reinforce`` or ``both``: what the configuration says, with ``auto`` decided by the actions."""
    choice = config.behavior.actor_gradient
    if choice != "auto":
        return choice
    return "reinforce" if spec.is_discrete else "dynamics"


def behavior_loss(
    networks: Networks,
    config: Config,
    spec: ActionSpec,
    trained: dict[str, PyTree],
    *,
    model: PyTree,
    target_critic: PyTree,
    start: Latent,
    start_terminal: Array,
    key: Array,
) -> tuple[Array, Metrics]:
    """Actor loss plus critic loss of one dream; neither reaches the other's parameters, so one gradient serves both.

    Dream z_0 .. z_H from each start, z_0 being the real posterior. With r_k, d_k predicted for z_k, v_k the target
    critic's value (the critic's own where there is no target critic) and ``G = lambda_return(r, v, d)``:

    ``L_critic = mean_k [ -w_k ln p(sg(G_k) | z_k) ]``, k = s .. H - 1;
    ``L_actor = mean_k [ -w_k (O_k + eta H(pi(. | z_k))) ]``, k = 0 .. H - 2, where O_k is
    ``G_{k+1}`` for *dynamics*, ``ln pi(a_k | z_k) sg(G_{k+1} - v_k)`` for *reinforce*, and for *both* the mix
    ``rho dynamics + (1 - rho) reinforce``.

    V1 has s = 1, V2 s = 0 (``behavior.returns_from_start``): V1 leaves z_0 out of its sequences, so its weights
    ``w`` start from z_1. A dream of one step has no z_1's return and no k up to H - 2: there s = 0, so that the critic
    learns ``G_0 = r_0 + d_0 v_1``, and the actor has the term k = 0 with ``G_1 := v_1``, as G_H is everywhere. A start
    that is terminal counts for nothing beyond its own reward where ends are learned.
    The actor sees features through a stop-gradient: only the action carries its gradient on, through the model
    (unless ``behavior.actor_input_gradient``).

    Args:
        trained: ``{"actor": ..., "critic": ...}``, the parameters to differentiate by.
        model, target_critic: parameters taken as constants.
        start: [N, ...]. start_terminal: bool [N].
        key: for actions and latents.

    Source: DreamerV1 (arXiv:1912.01603) eqs. 4 to 8; DreamerV2 (arXiv:2010.02193) eqs. 4 to 6.
    """
    settings = config.behavior
    horizon = settings.imagine_horizon
    first = 0 if settings.returns_from_start or horizon == 1 else 1
    acted = max(1, horizon - 1)  # of the actions, the last one's outcome is known by its value alone
    gradient = actor_gradient(config, spec)
    key_dream, key_entropy = jax.random.split(key)
    # A pure REINFORCE gradient needs nothing from the rollout: constants here spare the whole backward pass.
    acting = lax.stop_gradient(trained["actor"]) if gradient == "reinforce" else trained["actor"]
    seen = (lambda feat: feat) if settings.actor_input_gradient else lax.stop_gradient

    dream = imagine(
        policy=lambda latent, k: networks.actor(acting, seen(features(latent))).sample(k),
        step=prior_step(networks.rssm, model),
        start=lax.stop_gradient(start),
        horizon=horizon,
        key=key_dream,
    )
    feat = features(dream.latent)
    fixed_feat = lax.stop_gradient(feat)

    reward = networks.reward(model, feat).mode()
    value = networks.critic(target_critic, feat).mode()
    discount = jnp.full_like(reward, settings.discount)
    if networks.discount is not None:
        # The replay knows whether z_0 ended its episode; there is no need to guess.
        real = settings.discount * (1.0 - start_terminal.astype(jnp.float32))
        discount = jnp.concatenate([real[None], networks.discount(model, feat).mean()[1:]])
    returns = lambda_return(reward=reward, value=value, discount=discount, td_lambda=settings.td_lambda)
    weights = discount_weights(discount[first:horizon])
    if first == 1 and networks.discount is not None:
        weights = weights * (1.0 - start_terminal.astype(jnp.float32))[None]

    target = lax.stop_gradient(returns[first:])
    critic = networks.critic(trained["critic"], fixed_feat[first:horizon])
    critic_loss = -jnp.mean(weights * critic.log_prob(target))

    policy = networks.actor(trained["actor"], fixed_feat[:acted])
    entropy = policy.entropy(key_entropy)
    gain = returns[1:] if horizon > 1 else value[1:]
    advantage = lax.stop_gradient(gain - value[:acted])
    objective = jnp.zeros_like(advantage)
    if gradient != "reinforce":
        share = settings.actor_gradient_mix if gradient == "both" else 1.0
        objective += share * gain
    if gradient != "dynamics":
        share = 1.0 - settings.actor_gradient_mix if gradient == "both" else 1.0
        log_prob = policy.log_prob(lax.stop_gradient(dream.action[:acted]))
        objective += share * log_prob * advantage
    if settings.actor_entropy:
        objective += settings.actor_entropy * entropy
    actor_loss = -jnp.mean(weights[:acted] * objective)

    metrics = {
        "loss/actor": actor_loss,
        "loss/critic": critic_loss,
        "imagined/reward": jnp.mean(reward),
        "imagined/value": jnp.mean(value),
        "imagined/return": jnp.mean(returns),
        "imagined/return_std": jnp.std(returns),
        "imagined/discount": jnp.mean(discount),
        "imagined/advantage": jnp.mean(jnp.abs(advantage)),
        "actor_entropy": jnp.mean(entropy),
    }
    return actor_loss + critic_loss, metrics
