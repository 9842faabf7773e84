"""A learning algorithm of a few lines that is none of the library's: what any other has to bring, and nothing more."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdreamer.agent.algorithm import Algorithm, Policy, commit, fresh
from jaxdreamer.ops.exploration import random_action


def make(config, spec, networks=None) -> Algorithm:
    """Its one parameter is the action that it always takes; its one number of state is the sum of the rewards it saw.

    Of every five updates the third is not finite. ``loss/number`` is the update's number, infinite there; ``number`` is the
    number always.
    """

    def init(key):
        return fresh({"action": jnp.zeros(spec.action.size)}, {}, {"rewards": jnp.zeros(())}, key)

    def update(state, batch):
        number = jnp.float32(state.updates + 1)
        loss = jnp.where(number % 5 == 3, jnp.inf, number)
        return commit(
            state,
            {"loss/number": loss, "number": number},
            key=state.key,
            params={"action": state.params["action"] + 0.01},
            optimizers={},
            aux={"rewards": state.aux["rewards"] + jnp.sum(batch.reward)},
        )

    def act(params, state, obs, is_first, key, mode="explore"):
        lanes = is_first.shape[0]
        if mode == "random":
            return random_action(key, spec.action, lanes), state
        action = jnp.broadcast_to(params["action"] + 0.0 * params["rewards"], (lanes, spec.action.size))
        noise = 0.1 * jax.random.normal(key, action.shape) if mode == "explore" else 0.0
        return jnp.clip(action + noise, -1, 1), state

    return Algorithm(
        init,
        update,
        Policy(lambda lanes: jnp.zeros((lanes, 1)), act),
        acting=lambda params, aux: {**params, **aux},
    )
