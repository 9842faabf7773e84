"""What the world model believes, as pictures: reconstruction while it sees, prediction once it does not."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdreamer.agent.algorithm import OpenLoop
from jaxdreamer.agent.rssm import first_latent, imagine, observe, prior_step
from jaxdreamer.nets.networks import Networks, features
from jaxdreamer.ops.transforms import float_to_image
from jaxdreamer.types import Array, Batch, Observation, PyTree


def open_loop(networks: Networks, params: PyTree, batch: Batch, *, context: int, key: Array) -> OpenLoop:
    """Watch the first ``context`` entries of a batch, then predict the rest from the actions alone.

    Args:
        params: with ``"model"`` and ``"statistics"``, as :func:`jaxdreamer.agent.policy.acting` gives them.
        batch: [T, B, ...], T > context >= 1. Sequences should not contain an episode's start after the context: the
            model does not see it.
        key: for the latents' samples.
    """
    steps = batch.reward.shape[0]
    if not 1 <= context < steps:
        raise ValueError(f"open_loop: context must lie between 1 and {steps - 1}, found {context}")
    key_observe, key_imagine = jax.random.split(key)
    model, truth = params["model"], networks.prepare(params["statistics"], batch.obs)
    seen, action, is_first = jax.tree.map(lambda x: x[:context], (truth, batch.action, batch.is_first))
    embed = networks.encode(model, seen)
    sequence = {"embed": embed, "action": action, "is_first": is_first}
    initial = first_latent(networks.rssm, batch.kept)
    latent, _, _ = observe(networks.rssm, model, **sequence, key=key_observe, initial=initial)
    # imagine() asks its policy for the action at each step: here that is a tape, and the position travels as a counter.
    last = jax.tree.map(lambda x: x[-1], latent)
    step = prior_step(networks.rssm, model)
    dream = imagine(
        policy=lambda state, _: batch.action[context:][state[1]],
        step=lambda state, action, k: (step(state[0], action, k), state[1] + 1),
        start=(last, jnp.zeros((), jnp.int32)),
        horizon=steps - context,
        key=key_imagine,
    )
    latents = jax.tree.map(lambda a, b: jnp.concatenate([a, b[1:]]), latent, dream.latent[0])
    decoded = {name: dist.mode() for name, dist in networks.decode(model, features(latents)).items()}
    error = {
        name: jnp.mean(jnp.square(decoded[name] - truth[name]), axis=tuple(range(1, truth[name].ndim)))
        for name in truth
    }

    def shown(tree: Observation) -> Observation:
        images = {name for name, spec in networks.spec.obs.items() if spec.kind == "image"}
        return {name: float_to_image(x) if name in images else x for name, x in tree.items()}

    return OpenLoop(shown(truth), shown(decoded), error)
