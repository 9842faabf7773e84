"""Actor and critic, learned on dreamed sequences only."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.agent.rssm import imagine, prior_step
from jaxdreamer.config import BehaviorConfig, Config
from jaxdreamer.nets.networks import Networks, features
from jaxdreamer.ops.distributions import released_gradient
from jaxdreamer.ops.returns import discount_weights, lambda_return
from jaxdreamer.ops.trees import select
from jaxdreamer.types import ActionSpec, Array, Latent, Metrics, PyTree


def actor_gradient(config: Config, spec: ActionSpec) -> str:
    """``dynamics``, ``reinforce`` or ``both``: what the configuration says, the two ``auto`` decided by the actions."""
    choice = config.behavior.actor_gradient
    if not choice.startswith("auto"):
        return choice
    if not spec.is_continuous:
        return "reinforce"
    return "both" if choice == "auto_both" else "dynamics"


def track_critic(settings: BehaviorConfig, updates: Array, critic: PyTree, target: PyTree) -> PyTree:
    """The target critic after an update: moved to the critic by ``rate`` where that is due, the first update included.

    ``target <- rate critic + (1 - rate) target`` every ``target_critic_every`` updates; V2 copies (rate 1) every 100, V3
    moves by 0.02 every time. ``updates``: int32 [], before this one.
    """
    if not settings.target_critic_every:
        return target
    rate = settings.target_critic_rate
    moved = critic if rate == 1 else jax.tree.map(lambda new, old: rate * new + (1.0 - rate) * old, critic, target)
    return select(updates % settings.target_critic_every == 0, moved, target)


def starts(settings: BehaviorConfig, sequences: Any) -> Any:
    """Where dreams start from: the last ``imagine_last`` entries of sequences [T, B, ...], or all of them (0)."""
    return jax.tree.map(lambda x: x[-settings.imagine_last :], sequences)


class Dream(NamedTuple):
    """Sequences dreamed under the policy, and what the model and the critic make of them. Entry 0 is the real posterior."""

    feat: Array  # float32 [H + 1, N, F]
    action: Array  # float32 [H, N, A]; action[k] leads from entry k to entry k + 1
    reward: Array  # float32 [H + 1, N], predicted, on arriving
    value: Array  # float32 [H + 1, N], by the target critic
    discount: Array  # float32 [H + 1, N], gamma times the probability that the task goes on
    returns: Array  # float32 [H, N], lambda_return of the three


def dream_ahead(
    networks: Networks,
    config: Config,
    actor: PyTree,
    *,
    model: PyTree,
    target_critic: PyTree,
    start: Latent,
    start_terminal: Array,
    key: Array,
) -> Dream:
    """Dream z_0 .. z_H from each start, z_0 being the real posterior; see :func:`behavior_loss` for the arguments.

    The actor sees features through a stop-gradient: only the action carries its gradient on, through the model (unless
    ``behavior.actor_input_gradient``). A start that is terminal counts for nothing beyond its own reward where ends are
    learned: the replay knows whether z_0 ended its episode, so there is no need to guess.
    """
    settings = config.behavior
    seen = (lambda feat: feat) if settings.actor_input_gradient else lax.stop_gradient

    def policy(latent: Latent, k: Array) -> Array:
        dist = networks.actor(actor, seen(features(latent)))
        action = networks.across.sample(dist, k)
        return released_gradient(dist, action) if settings.actor_sample_gradient == "released" else action

    dream = imagine(
        policy=policy,
        step=prior_step(networks.rssm, model),
        start=lax.stop_gradient(start),
        horizon=settings.imagine_horizon,
        key=key,
    )
    feat = features(dream.latent)
    reward = networks.reward(model, feat).mode()
    value = networks.critic(target_critic, feat).mode()
    discount = jnp.full_like(reward, settings.discount)
    if networks.discount is not None:
        real = settings.discount * (1.0 - start_terminal.astype(jnp.float32))
        discount = jnp.concatenate([real[None], networks.discount(model, feat).mean()[1:]])
    returns = lambda_return(reward=reward, value=value, discount=discount, td_lambda=settings.td_lambda)
    return Dream(feat, dream.action, reward, value, discount, returns)


def actor_objective(
    networks: Networks, config: Config, gradient: str, actor: PyTree, dream: Dream, key: Array
) -> tuple[Array, Array, Metrics]:
    """``O_k`` and ``H(pi(. | z_k))`` for each dreamed action whose outcome is known: float32 [K, N] each, and metrics.

    O_k is ``G_{k+1}`` for *dynamics*, ``ln pi(sg(a_k) | z_k) sg(G_{k+1} - v_k)`` for *reinforce*, and for *both* the mix
    ``rho dynamics + (1 - rho) reinforce``, in which a continuous a_k carries its gradient into ln pi as well, as in the
    released V2; k = 0 .. H - 2, as the last action's outcome is known by its value alone. A dream of one step has the term
    k = 0 with ``G_1 := v_1``, as G_H is everywhere.
    """
    settings, horizon = config.behavior, config.behavior.imagine_horizon
    acted = max(1, horizon - 1)
    policy = networks.actor(actor, lax.stop_gradient(dream.feat[:acted]))
    entropy = networks.across.part(lambda dist: dist.entropy(key), policy, axis=1)
    gain = dream.returns[1:] if horizon > 1 else dream.value[1:]
    advantage = lax.stop_gradient(gain - dream.value[:acted])
    objective = jnp.zeros_like(advantage)
    if gradient != "reinforce":
        objective += (settings.actor_gradient_mix if gradient == "both" else 1.0) * gain
    if gradient != "dynamics":
        share = 1.0 - settings.actor_gradient_mix if gradient == "both" else 1.0
        action = dream.action[:acted] if gradient == "both" else lax.stop_gradient(dream.action[:acted])
        objective += share * policy.log_prob(action) * advantage
    metrics = {"imagined/advantage": jnp.mean(jnp.abs(advantage)), "actor_entropy": jnp.mean(entropy)}
    return objective, entropy, metrics


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

    With ``G = lambda_return(r, v, d)`` of a :class:`Dream`:
    ``L_critic = mean_k [ -w_k ln p(sg(G_k) | z_k) ]``, k = s .. H - 1;
    ``L_actor = mean_k [ -w_k (O_k + eta H(pi(. | z_k))) ]``, see :func:`actor_objective`.

    V1 has s = 1, V2 s = 0 (``behavior.returns_from_start``): V1 leaves z_0 out of its sequences, so its weights ``w``
    start from z_1. A dream of one step has no z_1's return: there s = 0, so that the critic learns ``G_0 = r_0 + d_0 v_1``.

    Args:
        trained: ``{"actor": ..., "critic": ...}``, the parameters to differentiate by.
        model, target_critic: parameters taken as constants.
        start: [N, ...]. start_terminal: bool [N].
        key: for actions and latents.

    Source: DreamerV1 (arXiv:1912.01603) eqs. 4 to 8; DreamerV2 (arXiv:2010.02193) eqs. 4 to 6.
    """
    horizon, gradient = config.behavior.imagine_horizon, actor_gradient(config, spec)
    first = 0 if config.behavior.returns_from_start or horizon == 1 else 1
    key_dream, key_entropy = jax.random.split(key)
    # A pure REINFORCE gradient needs nothing from the rollout: constants here spare the whole backward pass.
    actor = lax.stop_gradient(trained["actor"]) if gradient == "reinforce" else trained["actor"]
    known: Any = {"model": model, "target_critic": target_critic, "start": start, "start_terminal": start_terminal}
    dream = dream_ahead(networks, config, actor, **known, key=key_dream)

    weights = discount_weights(dream.discount[first:horizon])
    if first == 1 and networks.discount is not None:
        weights = weights * (1.0 - start_terminal.astype(jnp.float32))[None]
    critic = networks.critic(trained["critic"], lax.stop_gradient(dream.feat[first:horizon]))
    critic_loss = -jnp.mean(weights * critic.log_prob(lax.stop_gradient(dream.returns[first:])))
    objective, entropy, metrics = actor_objective(networks, config, gradient, trained["actor"], dream, key_entropy)
    acted, eta = weights[: len(objective)], config.behavior.actor_entropy
    actor_loss = -jnp.mean(acted * (objective + eta * entropy if eta else objective))
    return actor_loss + critic_loss, {
        "loss/actor": actor_loss,
        "loss/critic": critic_loss,
        "actor/return_term": jnp.mean(acted * objective),
        "actor/entropy_bonus": eta * jnp.mean(acted * entropy),
        "imagined/reward": jnp.mean(dream.reward),
        "imagined/value": jnp.mean(dream.value),
        "imagined/return": jnp.mean(dream.returns),
        "imagined/return_std": networks.across.std(dream.returns),
        "imagined/discount": jnp.mean(dream.discount),
        **metrics,
    }
