"""The two scans of the recurrent state-space model: over real sequences, and over dreamed ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdreamer.nets.networks import RSSMFunctions
from jaxdreamer.ops.scan import scan_states
from jaxdreamer.types import Array, Imagined, Latent, PolicyState, PyTree


def forget(latent: Latent, action: Array, is_first: Array) -> tuple[Latent, Array]:
    """The state and action a step starts from: zeros where an episode begins (V1 and V2 alike).

    ``latent`` [..., D] and [..., S], ``action`` [..., A], ``is_first`` bool [...].
    """
    # Chosen, not multiplied: 0 * NaN would carry a broken state over every reset.
    wipe = lambda x: jnp.where(is_first[..., None], jnp.zeros_like(x), x)  # noqa: E731
    return jax.tree.map(wipe, latent), wipe(action)


def keep_latent(classes: int, state: PolicyState) -> dict[str, Array]:
    """What replay keeps of the latent that the next entry is reached from; :func:`first_latent` reads it.

    ``deter`` float32 [B, D], and ``stoch``: of a categorical latent the chosen classes, uint8 (int32 from 256 classes on)
    [B, G]; number C stands for the zeros that there are before any observation.
    """
    deter, stoch = state.latent
    if classes:
        groups = stoch.reshape(*stoch.shape[:-1], -1, classes)
        chosen = jnp.where(groups.any(axis=-1), jnp.argmax(groups, axis=-1), classes)
        stoch = chosen.astype(jnp.uint8 if classes < 256 else jnp.int32)
    return {"deter": deter, "stoch": stoch}


def first_latent(rssm: RSSMFunctions, kept: dict[str, Array]) -> Latent | None:
    """The latent [B, ...] before the first entry of sequences, from ``Batch.kept``; None where nothing was kept."""
    if not kept:
        return None
    deter, stoch = kept["deter"][0], kept["stoch"][0]
    if jnp.issubdtype(stoch.dtype, jnp.integer):
        classes = rssm.initial(()).stoch.shape[-1] // stoch.shape[-1]
        stoch = jax.nn.one_hot(stoch, classes).reshape(*stoch.shape[:-1], -1)
    return Latent(deter, stoch)


def observe(
    rssm: RSSMFunctions,
    params: PyTree,
    *,
    embed: Array,
    action: Array,
    is_first: Array,
    key: Array,
    initial: Latent | None = None,
    unroll: int = 1,
) -> tuple[Latent, Any, Any]:
    """Infer the latent of every entry of a sequence from what was seen up to it.

    ``h_t = f(h_{t-1}, s_{t-1}, a_t)``, ``s_t ~ q(s_t | h_t, x_t)``, with a_t the action that led to entry t, and with
    h, s and a set to zero where ``is_first[t]``. (Papers write a_{t-1} for the same action: entry t of a batch holds it.)

    What does not depend on the recurrence is computed for all steps at once, outside the scan: the embedding's half of
    the posterior's first layer, the prior, which needs only the deterministic states, and the sampling noise.

    Args:
        rssm, params: the model's core and ``params["model"]``.
        embed: float32 [T, B, E]. action: float32 [T, B, A]. is_first: bool [T, B].
        key: for the latents' samples.
        initial: the latent before entry 0, [B, ...]; zeros where not given.
        unroll: steps of the scan that are compiled into one iteration.

    Returns:
        The latents [T, B, ...], the posterior q(s_t | h_t, x_t) and the prior p(s_t | h_t), distributions with batch
        shape [T, B].

    Raises:
        ValueError: the three inputs do not share T and B.

    Source: DreamerV1 (arXiv:1912.01603) eq. 7; PlaNet (arXiv:1811.04551) section 3.
    """
    if not (embed.ndim == action.ndim == 3 and embed.shape[:2] == action.shape[:2] == is_first.shape):
        raise ValueError(
            "observe: wants embed [T, B, E], action [T, B, A] and is_first [T, B], "
            f"found {embed.shape}, {action.shape} and {is_first.shape}"
        )
    steps, batch = is_first.shape
    initial = rssm.initial((batch,)) if initial is None else initial
    embed_part = rssm.embed_part(params, embed)
    noise = rssm.noise(key, (steps, batch))

    def step(latent: Latent, inputs: tuple[Array, ...]) -> tuple[Latent, Any]:
        part_t, action_t, first_t, noise_t = inputs
        deter = rssm.step(params, *forget(latent, action_t, first_t))
        posterior = rssm.posterior(params, deter, part_t)
        return Latent(deter, posterior.from_noise(noise_t)), posterior

    latents, posterior = scan_states(step, initial, (embed_part, action, is_first, noise), unroll=unroll)
    return latents, posterior, rssm.prior(params, latents.deter)


def imagine(
    *,
    policy: Callable[[Any, Array], Array],
    step: Callable[[Any, Array, Array], Any],
    start: Any,
    horizon: int,
    key: Array,
    unroll: int = 1,
) -> Imagined:
    """Dream on from each start: ``a_k = policy(z_k)``, ``z_{k+1} = step(z_k, a_k)``, k = 0 .. H - 1.

    Args:
        policy: (latent [N, ...], key) -> action [N, A].
        step: (latent [N, ...], action [N, A], key) -> next latent [N, ...].
        start: z_0, [N, ...].
        horizon: H, at least 1.
        key: split for every step.
        unroll: steps of the scan that are compiled into one iteration.

    Returns:
        Latents [H + 1, N, ...], the start first, and actions [H, N, A]: action[k] leads from latent[k] to latent[k + 1].

    Source: DreamerV1 (arXiv:1912.01603) section 3; DreamerV2 (arXiv:2010.02193) section 2.2.
    """
    if horizon < 1:
        raise ValueError(f"imagine: horizon must be at least 1, found {horizon}")

    def body(latent: Latent, key_k: Array) -> tuple[Latent, Array]:
        key_policy, key_step = jax.random.split(key_k)
        action = policy(latent, key_policy)
        return step(latent, action, key_step), action

    latents, action = scan_states(body, start, jax.random.split(key, horizon), unroll=unroll)
    return Imagined(jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, latents), action)


def prior_step(rssm: RSSMFunctions, params: PyTree) -> Callable[[Latent, Array, Array], Latent]:
    """The learned dynamics as :func:`imagine` wants them: ``h' = f(h, s, a)``, ``s' ~ p(s' | h')``."""

    def step(latent: Latent, action: Array, key: Array) -> Latent:
        deter = rssm.step(params, latent, action)
        return Latent(deter, rssm.sample(rssm.prior(params, deter), key))

    return step
