"""What the world model believes, as pictures: reconstruction while it sees, prediction once it does not."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdreamer.agent.rssm import imagine, observe, prior_step
from jaxdreamer.nets.networks import Networks, features
from jaxdreamer.ops.transforms import float_to_image
from jaxdreamer.types import Array, Batch, Observation, PyTree


class OpenLoop(NamedTuple):
    """Truth and model side by side, time-major; the first ``context`` entries of ``model`` are reconstructions."""

    truth: Observation  # per key [T, B, ...]: images uint8, vectors as the networks see them
    model: Observation  # likewise
    error: Observation  # per key float32 [T]: mean squared error, images in [0, 1]


def open_loop(networks: Networks, params: PyTree, batch: Batch, *, context: int, key: Array) -> OpenLoop:
    """Watch the first ``context`` entries of a batch, then predict the rest from the actions alone.

    Args:
        params: ``params["model"]``.
        batch: [T, B, ...], T > context >= 1. Sequences should not contain an episode's start after the context: the
            model is not told of it.
        key: for the latents' samples.
    """
    steps = batch.reward.shape[0]
    if not 1 <= context < steps:
        raise ValueError(f"open_loop: context must lie between 1 and {steps - 1}, found {context}")
    key_observe, key_imagine = jax.random.split(key)
    seen = jax.tree.map(lambda x: x[:context], batch)
    latent, _, _ = observe(
        networks.rssm,
        params,
        embed=networks.encode(params, seen.obs),
        action=seen.action,
        is_first=seen.is_first,
        key=key_observe,
    )
    # imagine() asks its policy for the action at each step: here that is a tape, and the position travels as a counter.
    last = jax.tree.map(lambda x: x[-1], latent)
    step = prior_step(networks.rssm, params)
    dream = imagine(
        policy=lambda state, _: batch.action[context:][state[1]],
        step=lambda state, action, k: (step(state[0], action, k), state[1] + 1),
        start=(last, jnp.zeros((), jnp.int32)),
        horizon=steps - context,
        key=key_imagine,
    )
    latents = jax.tree.map(lambda a, b: jnp.concatenate([a, b[1:]]), latent, dream.latent[0])
    decoded = {name: dist.mode() for name, dist in networks.decode(params, features(latents)).items()}
    truth = networks.targets(params, batch.obs)
    error = {
        name: jnp.mean(jnp.square(decoded[name] - truth[name]), axis=tuple(range(1, truth[name].ndim)))
        for name in truth
    }
    as_image = {name: x.dtype == jnp.uint8 and x.ndim == 5 for name, x in batch.obs.items()}
    show = lambda tree: {name: float_to_image(x) if as_image[name] else x for name, x in tree.items()}  # noqa: E731
    return OpenLoop(show(truth), show(decoded), error)
