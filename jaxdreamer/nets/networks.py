"""All networks of an agent as a NamedTuple of pure functions of their parameters: what the rest of the library sees.

Parameters are one dictionary: ``{"model": {"encoder", "rssm", "decoder", "reward"[, "discount"]}, "actor", "critic"}``,
float32 leaves. Features are ``concat(stoch, deter)`` in that order, as the released code has it. Statistics of the vector
observations, for ``model.normalize_inputs``, are counted and not learned, so they are no parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdreamer.config import ModelConfig
from jaxdreamer.nets.cells import RSSM
from jaxdreamer.nets.decoders import ConvDecoder
from jaxdreamer.nets.encoders import ConvEncoder
from jaxdreamer.nets.heads import Actor, ScalarHead, VectorDecoder
from jaxdreamer.nets.layers import MLP
from jaxdreamer.ops.distributions import Categoricals, Normal, UnitNormal
from jaxdreamer.ops.transforms import image_to_float, merge_moments, no_moments, standardize, symlog
from jaxdreamer.types import Array, ArraySpec, EnvSpec, Latent, Observation, PyTree


class RSSMFunctions(NamedTuple):
    """The world model's recurrent core; every function but ``initial`` and ``noise`` takes ``params["model"]`` first."""

    initial: Callable[[tuple[int, ...]], Latent]  # batch shape -> zeros
    step: Callable[[PyTree, Latent, Array], Array]  # (params, latent, action [..., A]) -> deter [..., D]
    prior: Callable[[PyTree, Array], Any]  # (params, deter) -> p(s | h)
    embed_part: Callable[[PyTree, Array], Array]  # (params, embed [..., E]) -> its half of the posterior's first layer
    posterior: Callable[[PyTree, Array, Array], Any]  # (params, deter, embed_part) -> q(s | h, x)
    noise: Callable[[Array, tuple[int, ...]], Array]  # (key, batch shape) -> noise for ``from_noise`` of a latent


class Networks(NamedTuple):
    """Pure functions of parameters. Leading axes are free everywhere."""

    spec: EnvSpec
    init: Callable[[Array], PyTree]  # key -> all parameters
    statistics: PyTree  # of the observations before any was seen; empty where none are kept
    track: Callable[[PyTree, Observation], PyTree]  # (statistics, raw observations) -> statistics with these counted in
    # (statistics, raw observations) -> as the networks see them: what ``encode`` reads and ``decode`` predicts
    prepare: Callable[[PyTree, Observation], Observation]
    rssm: RSSMFunctions
    encode: Callable[[PyTree, Observation], Array]  # (params["model"], prepared observations) -> embed [..., E]
    decode: Callable[[PyTree, Array], dict[str, Any]]  # (params["model"], feat [..., F]) -> a distribution per key
    reward: Callable[[PyTree, Array], Any]  # (params["model"], feat) -> distribution of the reward on arriving
    discount: Callable[[PyTree, Array], Any] | None  # (params["model"], feat) -> Bernoulli; None without the head
    actor: Callable[[PyTree, Array], Any]  # (params["actor"], feat) -> distribution over actions [..., A]
    critic: Callable[[PyTree, Array], Any]  # (params["critic"], feat) -> distribution of the value


def features(latent: Latent) -> Array:
    """``concat(stoch, deter)``: float32 [..., F]."""
    return jnp.concatenate([latent.stoch, latent.deter], axis=-1)


def make_networks(config: ModelConfig, spec: EnvSpec) -> Networks:
    """Build the networks for an environment's observations and actions.

    Raises:
        ValueError: an image too small to be convolved, an unknown activation.
    """
    dtype = jnp.dtype(config.precision)
    images = {key: s for key, s in spec.obs.items() if s.kind == "image"}
    vectors = {key: s for key, s in spec.obs.items() if s.kind != "image"}
    head_args: dict[str, Any] = {
        "units": config.units,
        "act": config.dense_activation,
        "norm": config.dense_norm,
        "dtype": dtype,
    }

    encoder = Encoder(tuple(images), tuple(vectors), config, dtype)
    decoder = Decoder(images, vectors, config, dtype)
    embed_size = _embed_size(encoder, spec)
    rssm = RSSM(
        stoch_size=config.stoch_size,
        classes=config.classes,
        deter_size=config.deter_size,
        hidden_size=config.hidden_size,
        embed_size=embed_size,
        cell=config.cell,
        std=config.gaussian_std,
        act=config.dense_activation,
        dtype=dtype,
    )
    reward = ScalarHead(config.reward_layers, kind=config.scalar_head, **head_args)
    discount = ScalarHead(config.discount_layers, kind="bernoulli", **head_args)
    critic = ScalarHead(config.critic_layers, kind=config.scalar_head, **head_args)
    actor = Actor(spec.action, config.actor_layers, continuous=config.actor_distribution, **head_args)
    stoch_size = config.stoch_size * max(config.classes, 1)

    def initial(shape: tuple[int, ...]) -> Latent:
        return Latent(jnp.zeros((*shape, config.deter_size)), jnp.zeros((*shape, stoch_size)))

    def noise(key: Array, shape: tuple[int, ...]) -> Array:
        if config.classes:
            return Categoricals(jnp.zeros((*shape, config.stoch_size, config.classes))).noise(key)
        return Normal(jnp.zeros((*shape, stoch_size)), jnp.ones((*shape, stoch_size))).noise(key)

    normalized = [key for key, s in spec.obs.items() if config.normalize_inputs and s.kind == "vector"]

    def squash(obs: Observation) -> Observation:
        return {key: _preprocess(x, spec.obs[key], config.symlog_inputs) for key, x in obs.items()}

    def prepare(statistics: PyTree, obs: Observation) -> Observation:
        return {key: standardize(x, statistics[key]) if key in normalized else x for key, x in squash(obs).items()}

    def track(statistics: PyTree, obs: Observation) -> PyTree:
        seen = squash({key: obs[key] for key in normalized})
        return {key: merge_moments(statistics[key], x) for key, x in seen.items()}

    def init(key: Array) -> PyTree:
        keys = jax.random.split(key, 7)
        obs = {k: jnp.zeros(s.shape, s.dtype) for k, s in spec.obs.items()}
        latent, action = initial(()), jnp.zeros((spec.action.size,))
        feat = features(latent)
        model = {
            "encoder": _params(encoder, keys[0], squash(obs)),
            "rssm": _params(rssm, keys[1], latent, action, jnp.zeros((embed_size,))),
            "decoder": _params(decoder, keys[2], feat),
            "reward": _params(reward, keys[3], feat),
        }
        if config.discount_head:
            model["discount"] = _params(discount, keys[4], feat)
        return {"model": model, "actor": _params(actor, keys[5], feat), "critic": _params(critic, keys[6], feat)}

    def call(module: nn.Module, name: str, method: str = "__call__") -> Callable[..., Any]:
        return lambda params, *args: module.apply({"params": params[name]}, *args, method=method)

    return Networks(
        spec=spec,
        init=init,
        statistics={key: no_moments(math.prod(spec.obs[key].shape)) for key in normalized},
        track=track,
        prepare=prepare,
        rssm=RSSMFunctions(
            initial=initial,
            step=call(rssm, "rssm", "step"),
            prior=call(rssm, "rssm", "prior"),
            embed_part=call(rssm, "rssm", "embed_part"),
            posterior=call(rssm, "rssm", "posterior"),
            noise=noise,
        ),
        encode=call(encoder, "encoder"),
        decode=call(decoder, "decoder"),
        reward=call(reward, "reward"),
        discount=call(discount, "discount") if config.discount_head else None,
        actor=lambda params, feat: actor.apply({"params": params}, feat),
        critic=lambda params, feat: critic.apply({"params": params}, feat),
    )


class Encoder(nn.Module):
    """Preprocessed observations to one embedding: a convolutional stack per image key, an MLP over all vectors."""

    images: tuple[str, ...]
    vectors: tuple[str, ...]
    config: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, obs: Observation) -> Array:
        """Per key [..., *shape] to embed [..., E]."""
        config, parts = self.config, []
        for key in self.images:
            conv = ConvEncoder(
                config.cnn_depth,
                config.cnn_activation,
                embed_size=config.embed_size,
                residual=config.cnn_residual,
                dtype=self.dtype,
                name=f"image_{key}",
            )
            parts.append(conv(obs[key]))
        if self.vectors:
            x = jnp.concatenate([obs[key] for key in self.vectors], axis=-1)
            act, norm = config.dense_activation, config.dense_norm
            parts.append(MLP(config.vector_layers, config.units, act, norm, dtype=self.dtype, name="vector")(x))
        return jnp.concatenate(parts, axis=-1)


class Decoder(nn.Module):
    """Features to one distribution per observation key, of what ``Networks.prepare`` gives for it."""

    images: dict[str, ArraySpec]
    vectors: dict[str, ArraySpec]
    config: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, feat: Array) -> dict[str, Any]:
        """[..., F] to {key: distribution}."""
        config = self.config
        dists: dict[str, Any] = {}
        for key, spec in self.images.items():
            conv = ConvDecoder(
                config.cnn_depth,
                config.cnn_activation,
                shape=(spec.shape[0], spec.shape[1], spec.shape[2]),
                residual=config.cnn_residual,
                dtype=self.dtype,
                name=f"image_{key}",
            )
            dists[key] = UnitNormal(conv(feat).astype(jnp.float32))
        if self.vectors:
            act, norm = config.dense_activation, config.dense_norm
            heads = VectorDecoder(
                self.vectors, config.vector_layers, config.units, act, norm, dtype=self.dtype, name="vector"
            )
            dists |= heads(feat)
        return dists


def _params(module: nn.Module, key: Array, *args: Any) -> PyTree:
    # Only the arguments' shapes matter to an initialiser; lazy_init computes nothing but the draws.
    return module.lazy_init(key, *args)["params"]


def _embed_size(encoder: Encoder, spec: EnvSpec) -> int:
    sizes = {key: s.classes * math.prod(s.shape) if s.classes else math.prod(s.shape) for key, s in spec.obs.items()}
    obs = {
        key: jax.ShapeDtypeStruct(s.shape if s.kind == "image" else (sizes[key],), jnp.float32)
        for key, s in spec.obs.items()
    }
    out, _ = jax.eval_shape(encoder.init_with_output, jax.eval_shape(lambda: jax.random.key(0)), obs)
    return out.shape[-1]


def _preprocess(x: Array, spec: ArraySpec, squash: bool) -> Array:
    if spec.kind == "image":
        return image_to_float(x)
    x = jnp.asarray(x)
    batch = x.shape[: x.ndim - len(spec.shape)]
    if spec.kind == "discrete":
        return jax.nn.one_hot(x, spec.classes, dtype=jnp.float32).reshape(*batch, -1)
    x = x.astype(jnp.float32).reshape(*batch, -1)
    return symlog(x) if squash else x
