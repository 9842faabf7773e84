"""All networks of an agent as a NamedTuple of pure functions of their parameters: what the rest of the library sees.

Parameters are one dictionary: ``{"model": {"encoder", "rssm", "decoder", "reward"[, "discount"]}, "actor", "critic"}``,
float32 leaves. Features are ``concat(stoch, deter)`` in that order, as the released code has it. Statistics of the vector
observations, for ``model.normalize_inputs``, are counted and not learned, so they are no parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdreamer.config import ConfigError, ModelConfig
from jaxdreamer.nets.cells import RSSM
from jaxdreamer.nets.decoders import Decoder
from jaxdreamer.nets.encoders import Encoder
from jaxdreamer.nets.heads import Actor, ScalarHead
from jaxdreamer.nets.layers import style_of
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.ops.moments import merge_moments, no_moments, standardize, unstandardize
from jaxdreamer.ops.transforms import float_to_image, image_to_float, symexp, symlog
from jaxdreamer.types import Array, ArraySpec, EnvSpec, Latent, Observation, PyTree


class RSSMFunctions(NamedTuple):
    """The world model's recurrent core; every function takes ``params["model"]`` first but those that only draw."""

    initial: Callable[[tuple[int, ...]], Latent]  # batch shape -> zeros
    step: Callable[[PyTree, Latent, Array], Array]  # (params, latent, action [..., A]) -> deter [..., D]
    prior: Callable[[PyTree, Array], Any]  # (params, deter) -> p(s | h)
    embed_part: Callable[[PyTree, Array], Array]  # (params, embed [..., E]) -> its half of the posterior's first layer
    posterior: Callable[[PyTree, Array, Array], Any]  # (params, deter, embed_part) -> q(s | h, x)
    noise: Callable[[Array, tuple[int, ...]], Array]  # (key, batch shape) -> noise for ``from_noise`` of a latent
    sample: Callable[[Any, Array], Array] = ALONE.sample  # (distribution of a latent, key) -> sample


class Networks(NamedTuple):
    """Pure functions of parameters. Leading axes are free everywhere."""

    spec: EnvSpec
    init: Callable[[Array], PyTree]  # key -> all parameters
    statistics: PyTree  # of the observations before any was seen; empty where none are kept
    track: Callable[..., PyTree]  # (statistics, raw observations) -> statistics with these counted in
    # (statistics, raw observations) -> as the networks see them: what ``encode`` reads and ``decode`` predicts
    prepare: Callable[[PyTree, Observation], Observation]
    rssm: RSSMFunctions
    encode: Callable[[PyTree, Observation], Array]  # (params["model"], prepared observations) -> embed [..., E]
    decode: Callable[[PyTree, Array], dict[str, Any]]  # (params["model"], feat [..., F]) -> a distribution per key
    reward: Callable[[PyTree, Array], Any]  # (params["model"], feat) -> distribution of the reward on arriving
    discount: Callable[[PyTree, Array], Any] | None  # (params["model"], feat) -> Bernoulli; None without the head
    actor: Callable[[PyTree, Array], Any]  # (params["actor"], feat) -> distribution over actions [..., A]
    critic: Callable[[PyTree, Array], Any]  # (params["critic"], feat) -> distribution of the value
    across: Across = ALONE  # who has the other parts of the batch; see :func:`part_of`
    # (statistics, observations as the networks see them) -> raw ones: undoes ``prepare``, where it lost nothing. None: it
    # cannot be undone, and nobody dreams in this model from outside.
    restore: Callable[[PyTree, Observation], Observation] | None = None


def features(latent: Latent) -> Array:
    """``concat(stoch, deter)``: float32 [..., F]."""
    return jnp.concatenate([latent.stoch, latent.deter], axis=-1)


def make_networks(config: ModelConfig, spec: EnvSpec) -> Networks:
    """Build the networks for an environment's observations and actions.

    Raises:
        ConfigError: an image too small to be convolved, or of sides that the convolutions cannot halve; a precision that
            is still ``auto``.
        ValueError: an unknown activation.
    """
    if config.precision == "auto":
        raise ConfigError(
            "model.precision=auto is settled where a run begins (train_agent): networks need float32 or bfloat16; "
            "jaxdreamer.train.precision.choose says which it would be here"
        )
    statistics, track, prepare, restore = _preparation(config, spec)
    raw = {key: jax.ShapeDtypeStruct(item.shape, item.dtype) for key, item in spec.obs.items()}
    obs = jax.eval_shape(prepare, statistics, raw)
    encoder, decoder, actor = Encoder(spec, config), Decoder(spec, config), Actor(spec.action, config)
    embed, _ = jax.eval_shape(encoder.init_with_output, jax.eval_shape(lambda: jax.random.key(0)), obs)
    rssm = RSSM(config, embed.shape[-1])
    scalar = partial(ScalarHead, units=config.units, style=style_of(config))
    reward, critic = (scalar(n, kind=config.scalar_head) for n in (config.reward_layers, config.critic_layers))
    discount = scalar(config.discount_layers, kind="bernoulli")

    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, 7)
        latent, action = rssm.initial(()), jnp.zeros((spec.action.size,))
        feat = features(latent)
        model = {
            "encoder": _params(encoder, keys[0], obs),
            "rssm": _params(rssm, keys[1], latent, action, embed),
            "decoder": _params(decoder, keys[2], feat),
            "reward": _params(reward, keys[3], feat),
        }
        if config.discount_head:
            model["discount"] = _params(discount, keys[4], feat)
        return {"model": model, "actor": _params(actor, keys[5], feat), "critic": _params(critic, keys[6], feat)}

    def call(module: nn.Module, name: str, method: str = "__call__") -> Callable[..., Any]:
        return lambda params, *args: module.apply({"params": params[name]}, *args, method=method)

    methods = {name: call(rssm, "rssm", name) for name in ("step", "prior", "embed_part", "posterior")}
    return Networks(
        spec=spec,
        init=init,
        statistics=statistics,
        track=track,
        prepare=prepare,
        rssm=RSSMFunctions(initial=rssm.initial, noise=rssm.noise, **methods),
        encode=call(encoder, "encoder"),
        decode=call(decoder, "decoder"),
        reward=call(reward, "reward"),
        discount=call(discount, "discount") if config.discount_head else None,
        actor=lambda params, feat: actor.apply({"params": params}, feat),
        critic=lambda params, feat: critic.apply({"params": params}, feat),
        restore=restore,
    )


def part_of(networks: Networks, across: Across, sequences: int) -> Networks:
    """The networks for one device's ``sequences`` of a batch: they draw and count what falls to these among all."""
    if across.axis is None:
        return networks
    across, rssm = across.over(sequences), networks.rssm

    def noise(key: Array, shape: tuple[int, ...]) -> Array:
        *before, here = shape
        return across.take(rssm.noise(key, (*before, here * across.devices)), axis=len(before))

    core = rssm._replace(noise=noise, sample=across.sample)
    return networks._replace(rssm=core, track=partial(networks.track, across=across), across=across)


def _preparation(
    config: ModelConfig, spec: EnvSpec
) -> tuple[PyTree, Callable[..., PyTree], Callable[..., Observation], Callable[..., Observation]]:
    """``statistics``, ``track``, ``prepare`` and ``restore`` of :class:`Networks`."""
    normalized = [key for key, item in spec.obs.items() if config.normalize_inputs and item.kind == "vector"]

    def squash(obs: Observation) -> Observation:
        return {key: _preprocess(x, spec.obs[key], config.symlog_inputs) for key, x in obs.items()}

    def prepare(statistics: PyTree, obs: Observation) -> Observation:
        seen = squash({key: obs[key] for key in spec.obs})
        return {key: standardize(x, statistics[key]) if key in normalized else x for key, x in seen.items()}

    def track(statistics: PyTree, obs: Observation, across: Across = ALONE) -> PyTree:
        seen = squash({key: obs[key] for key in normalized})
        return {key: merge_moments(statistics[key], x, across=across) for key, x in seen.items()}

    def restore(statistics: PyTree, seen: Observation) -> Observation:
        plain = {key: unstandardize(x, statistics[key]) if key in normalized else x for key, x in seen.items()}
        return {key: _restored(x, spec.obs[key], config.symlog_inputs) for key, x in plain.items()}

    return {key: no_moments(math.prod(spec.obs[key].shape)) for key in normalized}, track, prepare, restore


def _params(module: nn.Module, key: Array, *args: Any) -> PyTree:
    # Only the arguments' shapes matter to an initialiser; lazy_init computes nothing but the draws.
    return module.lazy_init(key, *args)["params"]


def _preprocess(x: Array, spec: ArraySpec, squash: bool) -> Array:
    if spec.kind == "image":
        return image_to_float(x)
    x = jnp.asarray(x)
    batch = x.shape[: x.ndim - len(spec.shape)]
    if spec.kind == "discrete":
        return jax.nn.one_hot(x, spec.classes, dtype=jnp.float32).reshape(*batch, -1)
    x = x.astype(jnp.float32).reshape(*batch, -1)
    return symlog(x) if squash else x


def _restored(x: Array, spec: ArraySpec, squashed: bool) -> Array:
    if spec.kind == "image":
        return float_to_image(x)
    shape = (*x.shape[:-1], *spec.shape)
    if spec.kind == "discrete":
        return jnp.argmax(x.reshape(*x.shape[:-1], -1, spec.classes), axis=-1).astype(jnp.int32).reshape(shape)
    return (symexp(x) if squashed else x).reshape(shape)
