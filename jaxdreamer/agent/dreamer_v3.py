"""DreamerV3: one gradient for world model, actor and critic, whose returns are scaled by their own percentiles.

Two conventions differ from V1 and V2. The value of a state excludes the reward of arriving there, and a dreamed state counts
by the probability that the task goes on in it, its own included.

Source: DreamerV3 (arXiv:2301.04104v2) and the authors' code of 2024 and 2025.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdreamer.agent.algorithm import Algorithm, commit, descend, fresh
from jaxdreamer.agent.begin import begin
from jaxdreamer.agent.behavior import actor_gradient, starts, track_critic
from jaxdreamer.agent.open_loop import open_loop
from jaxdreamer.agent.optim import make_optimizers
from jaxdreamer.agent.policy import acting, keeping, make_policy
from jaxdreamer.agent.rssm import imagine, prior_step
from jaxdreamer.agent.world import make_world
from jaxdreamer.agent.world_model import world_model_loss
from jaxdreamer.config import BehaviorConfig, Config
from jaxdreamer.nets.networks import Networks, features, make_networks, part_of
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.ops.returns import Range, discount_weights, lambda_return, no_range, track_range
from jaxdreamer.types import Array, Batch, EnvSpec, Latent, Metrics, PyTree, TrainState


class Dream(NamedTuple):
    """Sequences dreamed under the policy. Entry 0 is the real posterior. All but values and returns are constants."""

    feat: Array  # float32 [H + 1, N, F]
    action: Array  # float32 [H, N, A]; action[k] leads from entry k to entry k + 1
    value: Array  # float32 [H + 1, N], the critic's, of states that live parameters led to
    weight: Array  # float32 [H, N], how much entry k counts
    returns: Array  # float32 [H, N], of entry k, the reward on arriving there excluded; likewise


def make(config: Config, spec: EnvSpec, networks: Networks | None = None, across: Across = ALONE) -> Algorithm:
    """DreamerV3 for an environment's observations and actions.

    ``L = L_model + L_actor + L_critic + c L_replay``; see :func:`world_model_loss`, :func:`behavior_loss` and
    :func:`replay_value_loss`. Three optimizers at one learning rate equal the released single one, because it clips and
    scales every tensor by itself. ``aux`` holds the target critic, an average of critics that holds the critic back, and the
    range of returns. Where a loss or a gradient norm is not finite, everything stays as it was. ``across``: see
    :func:`~jaxdreamer.agent.learner.make_learner`.
    """
    whole = networks or make_networks(config.model, spec)
    optimizers = make_optimizers(config.optimizer)
    averages = config.behavior.acting_rate < 1

    def init(key: Array) -> TrainState:
        key_params, key_state = jax.random.split(key)
        params = whole.init(key_params)
        target = jax.tree.map(jnp.copy, params["critic"])  # a donated update must not hand over one buffer twice
        aux = {"target_critic": target, "statistics": whole.statistics, "returns": no_range()}
        if averages:
            aux["acting"] = jax.tree.map(jnp.copy, {name: params[name] for name in ("model", "actor")})
        return fresh(params, {name: optimizers[name].init(params[name]) for name in optimizers}, aux, key_state)

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        networks = part_of(whole, across, batch.is_first.shape[1])
        key, key_model, key_behavior = jax.random.split(state.key, 3)
        aux = state.aux
        statistics = networks.track(aux["statistics"], batch.obs)

        def loss(params: PyTree) -> Any:
            return total_loss(
                networks, config, params, aux | {"statistics": statistics}, batch, key_model, key_behavior
            )

        params, optimizer_states, (returns, metrics), norms = descend(
            optimizers, loss, state.params, state.optimizers, across
        )
        target = track_critic(config.behavior, state.updates, params["critic"], aux["target_critic"])
        new_aux = {"target_critic": target, "statistics": statistics, "returns": returns}
        if averages:
            # The average of the first n updates until these are as many as it forgets slowly.
            rate = jnp.maximum(config.behavior.acting_rate, 1.0 / (state.updates + 1.0))
            move = lambda old, new: old + rate * (new - old)  # noqa: E731
            new_aux["acting"] = jax.tree.map(move, aux["acting"], {name: params[name] for name in aux["acting"]})
        new: Any = {"params": params, "optimizers": optimizer_states, "aux": new_aux}
        return commit(state, metrics | norms, key=key, **new, across=across)

    def acts_with(params: PyTree, aux: PyTree) -> PyTree:
        return acting(params | aux["acting"] if averages else params, aux)

    policy = make_policy(config, spec, whole, across)
    world = make_world(config, whole)
    return Algorithm(init, update, policy, acts_with, partial(open_loop, whole), keeping(config), world, begin)


def total_loss(
    networks: Networks, config: Config, params: PyTree, aux: PyTree, batch: Batch, key_model: Array, key_behavior: Array
) -> tuple[Array, tuple[Range, Metrics]]:
    """The loss of :func:`make`, the range of returns after it, and metrics. ``aux``: as in the train state."""
    model_loss, output = world_model_loss(networks, config, params["model"], batch, key_model, aux["statistics"])
    gradient = actor_gradient(config, networks.spec.action)
    dreaming = lax.stop_gradient(params)
    if gradient != "reinforce":  # which needs nothing from the dream: constants spare its whole backward pass
        dreaming = dreaming | {"actor": params["actor"]}
    last = partial(starts, config.behavior)
    latent, batch = last(output.latent), last(batch)
    dream = dream_ahead(networks, config, dreaming, latent, batch.is_terminal, key_behavior)
    dreamed = networks.across.gather(lax.stop_gradient(dream.returns))
    returns = track_returns(config.behavior, aux["returns"], dreamed)
    target = aux["target_critic"]
    behavior, metrics = behavior_loss(networks, config, params, dream, target, returns, gradient=gradient)
    boot = lax.stop_gradient(dream.returns[0])
    replayed, more = replay_value_loss(
        networks, config, params["critic"], batch, latent=latent, boot=boot, target_critic=target
    )
    return model_loss + behavior + replayed, (returns, output.metrics | metrics | more)


def dream_ahead(
    networks: Networks, config: Config, params: PyTree, latent: Latent, is_terminal: Array | None, key: Array
) -> Dream:
    """Dream z_0 .. z_H from each posterior: ``G_k = r_{k+1} + d_{k+1} ((1 - lambda) v_{k+1} + lambda G_{k+1})``.

    ``G_H := v_H``, ``w_k = prod_{j <= k} d_j``. The discount d, predicted by its head, contains gamma; of z_0 it is the
    data's, ``gamma (1 - is_terminal)``, as in the code of 2024 (that of 2025 predicts it too: ``is_terminal`` None).

    Args:
        params: constants, but for the actor's where its gradient is to flow through the dream.
        latent: [T, B, ...]. is_terminal: bool [T, B].
    """
    settings = config.behavior
    start = jax.tree.map(lambda x: lax.stop_gradient(x.reshape(-1, x.shape[-1])), latent)
    dream = imagine(
        policy=lambda z, k: networks.across.sample(networks.actor(params["actor"], lax.stop_gradient(features(z))), k),
        step=prior_step(networks.rssm, params["model"]),
        start=start,
        horizon=settings.imagine_horizon,
        key=key,
    )
    feat = features(dream.latent)
    reward = networks.reward(params["model"], feat).mode()
    value = networks.critic(params["critic"], feat).mode()
    discount = jnp.full_like(reward, settings.discount)
    if networks.discount is not None:
        discount = networks.discount(params["model"], feat).mean()
    if is_terminal is not None:
        real = settings.discount * (1.0 - is_terminal.reshape(-1).astype(jnp.float32))
        discount = jnp.concatenate([real[None], discount[1:]])
    weight, returns = weigh(reward, value, discount, settings.td_lambda)
    if networks.discount is None:  # gamma is no probability: the start counts in full
        weight = weight / settings.discount
    return Dream(*lax.stop_gradient((feat, dream.action)), value, lax.stop_gradient(weight), returns)


def weigh(reward: Array, value: Array, discount: Array, td_lambda: float) -> tuple[Array, Array]:
    """Weights and returns of dreamed states, see :func:`dream_ahead`: float32 [H + 1, N] each to [H, N]."""
    ahead = lambda x: jnp.roll(x, -1, axis=0)  # noqa: E731  (the last entry takes no part)
    returns = lambda_return(reward=ahead(reward), value=value, discount=ahead(discount), td_lambda=td_lambda)
    return discount_weights(discount[:-1]) * discount[:-1], returns


def track_returns(settings: BehaviorConfig, returns_range: Range, returns: Array) -> Range:
    """The running range of returns between two percentiles, these included."""
    low, high = settings.return_percentiles
    return track_range(returns_range, returns, rate=settings.return_rate, low=low, high=high)


def behavior_loss(
    networks: Networks,
    config: Config,
    params: PyTree,
    dream: Dream,
    target_critic: PyTree,
    returns: Range,
    *,
    gradient: str,
) -> tuple[Array, Metrics]:
    """Actor and critic on a dream; k = 0 .. H - 1, means over k and N.

    ``L_actor = mean[ -w_k ( O_k + eta H(pi(. | z_k)) ) ]``, where O_k is ``ln pi(a_k | z_k) sg(G_k - v_k) / S`` for
    *reinforce*, ``(G_k - v_k) / S`` for *dynamics*, as V3 had it in 2023 for continuous actions, and for *both* the mix
    ``rho dynamics + (1 - rho) reinforce``. ``S = max(limit, high - low)`` of the range of returns. With dynamics, v_k takes
    back what a_0 .. a_{k-1} have to do with G_k: each action counts once, beside the entropy that counts once as well.
    ``L_critic = mean[ -w_k ( ln p(sg(G_k) | z_k) + c ln p(v'_k | z_k) ) ]``, v' the target critic's.
    """
    settings = config.behavior
    feat = dream.feat[:-1]
    policy = networks.actor(params["actor"], feat)
    critic = networks.critic(params["critic"], feat)
    slow = lax.stop_gradient(networks.critic(target_critic, feat).mode())
    scale = jnp.maximum(settings.return_limit, returns.high - returns.low)
    live = (dream.returns - dream.value[:-1]) / scale
    outcome, advantage = lax.stop_gradient((dream.returns, live))
    share = {"reinforce": 0.0, "dynamics": 1.0, "both": settings.actor_gradient_mix}[gradient]
    objective = jnp.zeros_like(advantage)
    if gradient != "reinforce":
        objective += share * live
    if gradient != "dynamics":
        objective += (1.0 - share) * policy.log_prob(dream.action) * advantage
    entropy = policy.entropy(None)
    by_return = jnp.mean(dream.weight * objective)
    by_entropy = settings.actor_entropy * jnp.mean(dream.weight * entropy)
    actor_loss = -(by_return + by_entropy)
    held_back = settings.target_critic_coeff * critic.log_prob(slow)
    critic_loss = -jnp.mean(dream.weight * (critic.log_prob(outcome) + held_back))
    return actor_loss + critic_loss, {
        "loss/actor": actor_loss,
        "loss/critic": critic_loss,
        "actor/return_term": by_return,
        "actor/entropy_bonus": by_entropy,
        "actor_entropy": jnp.mean(entropy),
        "imagined/value": jnp.mean(dream.value),
        "imagined/return": jnp.mean(outcome),
        "imagined/return_std": networks.across.std(outcome),
        "imagined/return_scale": scale,
        "imagined/advantage": jnp.mean(jnp.abs(advantage)),
        "imagined/discount": jnp.mean(dream.weight[-1]),
    }


def replay_value_loss(
    networks: Networks,
    config: Config,
    critic: PyTree,
    batch: Batch,
    *,
    latent: Latent,
    boot: Array,
    target_critic: PyTree,
) -> tuple[Array, Metrics]:
    """The critic on replayed states, whose gradient reaches the world model through them.

    ``R_t = r_{t+1} + gamma (1 - terminal_{t+1}) ((1 - lambda c_{t+1}) G_{t+1} + lambda c_{t+1} R_{t+1})`` with
    ``c = 1 - is_last``, ``R_{T-1} := G_{T-1}``, G the return of the dream from there; then
    ``c mean_t[ -(1 - last_t) ( ln p(R_t | z_t) + c' ln p(v'_t | z_t) ) ]``, t = 0 .. T - 2.
    Zero for a sequence of one entry.

    Args:
        latent: posteriors [T, B, ...]. boot: G [T * B].
    """
    settings, steps = config.behavior, batch.reward.shape[0]
    if not settings.replay_value_coeff or steps < 2:
        return jnp.zeros(()), {}
    ahead = lambda x: jnp.roll(x.astype(jnp.float32), -1, axis=0)  # noqa: E731
    returns = lambda_return(
        reward=ahead(batch.reward),
        value=boot.reshape(batch.reward.shape),
        discount=settings.discount * (1.0 - ahead(batch.is_terminal)),
        td_lambda=settings.td_lambda * (1.0 - ahead(batch.is_last))[:-1],
    )
    feat = features(jax.tree.map(lambda x: x[:-1], latent))
    dist = networks.critic(critic, feat)
    slow = lax.stop_gradient(networks.critic(target_critic, feat).mode())
    log_prob = dist.log_prob(lax.stop_gradient(returns)) + settings.target_critic_coeff * dist.log_prob(slow)
    loss = -settings.replay_value_coeff * jnp.mean((1.0 - batch.is_last[:-1].astype(jnp.float32)) * log_prob)
    return loss, {"loss/replay_value": loss}
