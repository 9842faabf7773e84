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

from jaxdreamer.config import ModelConfig
from jaxdreamer.nets.cells import RSSM
from jaxdreamer.nets.decoders import ConvDecoder, UpsampleConvDecoder
from jaxdreamer.nets.encoders import ConvEncoder, PooledConvEncoder
from jaxdreamer.nets.heads import Actor, ScalarHead, VectorDecoder
from jaxdreamer.nets.layers import MLP, style_of
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


class _Modules(NamedTuple):
    """The layers behind :class:`Networks`."""

    encoder: Encoder
    decoder: Decoder
    rssm: RSSM
    reward: ScalarHead
    discount: ScalarHead
    actor: Actor
    critic: ScalarHead


def _make_modules(config: ModelConfig, spec: EnvSpec) -> _Modules:
    encoder, style = Encoder(spec, config), style_of(config)

    def head(layers: int, kind: str = config.scalar_head) -> ScalarHead:
        return ScalarHead(layers, config.units, kind, style)

    return _Modules(
        encoder=encoder,
        decoder=Decoder(spec, config),
        rssm=RSSM(config, _embed_size(encoder, spec)),
        reward=head(config.reward_layers),
        discount=head(config.discount_layers, "bernoulli"),
        actor=Actor(spec.action, config),
        critic=head(config.critic_layers),
    )


def make_networks(config: ModelConfig, spec: EnvSpec) -> Networks:
    """Build the networks for an environment's observations and actions.

    Raises:
        ConfigError: an image too small to be convolved, or of sides that the convolutions cannot halve.
        ValueError: an unknown activation.
    """
    modules = _make_modules(config, spec)
    normalized = [key for key, s in spec.obs.items() if config.normalize_inputs and s.kind == "vector"]

    def squash(obs: Observation) -> Observation:
        return {key: _preprocess(x, spec.obs[key], config.symlog_inputs) for key, x in obs.items()}

    def prepare(statistics: PyTree, obs: Observation) -> Observation:
        seen = squash({key: obs[key] for key in spec.obs})
        return {key: standardize(x, statistics[key]) if key in normalized else x for key, x in seen.items()}

    def track(statistics: PyTree, obs: Observation) -> PyTree:
        seen = squash({key: obs[key] for key in normalized})
        return {key: merge_moments(statistics[key], x) for key, x in seen.items()}

    def call(name: str, method: str = "__call__") -> Callable[..., Any]:
        module = getattr(modules, name)
        return lambda params, *args: module.apply({"params": params[name]}, *args, method=method)

    return Networks(
        spec=spec,
        init=lambda key: _init(modules, config, spec, key),
        statistics={key: no_moments(math.prod(spec.obs[key].shape)) for key in normalized},
        track=track,
        prepare=prepare,
        rssm=RSSMFunctions(
            initial=partial(_initial, config),
            step=call("rssm", "step"),
            prior=call("rssm", "prior"),
            embed_part=call("rssm", "embed_part"),
            posterior=call("rssm", "posterior"),
            noise=lambda key, shape: _latent(config, shape).noise(key),
        ),
        encode=call("encoder"),
        decode=call("decoder"),
        reward=call("reward"),
        discount=call("discount") if config.discount_head else None,
        actor=lambda params, feat: modules.actor.apply({"params": params}, feat),
        critic=lambda params, feat: modules.critic.apply({"params": params}, feat),
    )


def _initial(config: ModelConfig, shape: tuple[int, ...]) -> Latent:
    return Latent(jnp.zeros((*shape, config.deter_size)), jnp.zeros((*shape, _latent(config, ()).size)))


def _latent(config: ModelConfig, shape: tuple[int, ...]) -> Categoricals | Normal:
    """A latent distribution of that batch shape, to draw noise for."""
    if config.classes:
        return Categoricals(jnp.zeros((*shape, config.stoch_size, config.classes)))
    return Normal(jnp.zeros((*shape, config.stoch_size)), jnp.ones((*shape, config.stoch_size)))


def _init(modules: _Modules, config: ModelConfig, spec: EnvSpec, key: Array) -> PyTree:
    keys = jax.random.split(key, 7)
    obs = {k: _preprocess(jnp.zeros(s.shape, s.dtype), s, False) for k, s in spec.obs.items()}
    latent, action = _initial(config, ()), jnp.zeros((spec.action.size,))
    feat = features(latent)
    model = {
        "encoder": _params(modules.encoder, keys[0], obs),
        "rssm": _params(modules.rssm, keys[1], latent, action, jnp.zeros((modules.rssm.embed_size,))),
        "decoder": _params(modules.decoder, keys[2], feat),
        "reward": _params(modules.reward, keys[3], feat),
    }
    if config.discount_head:
        model["discount"] = _params(modules.discount, keys[4], feat)
    return {
        "model": model,
        "actor": _params(modules.actor, keys[5], feat),
        "critic": _params(modules.critic, keys[6], feat),
    }


class Encoder(nn.Module):
    """Prepared observations to one embedding: a convolutional stack per image key, an MLP over all vectors."""

    spec: EnvSpec
    config: ModelConfig

    @nn.compact
    def __call__(self, obs: Observation) -> Array:
        """Per key [..., *shape] to embed [..., E]."""
        config, parts = self.config, []
        for key in _keys(self.spec, image=True):
            parts.append(self._image_encoder(f"image_{key}")(obs[key]))
        if vectors := _keys(self.spec, image=False):
            x = jnp.concatenate([obs[key] for key in vectors], axis=-1)
            parts.append(MLP(config.vector_layers, config.units, style_of(config), name="vector")(x))
        return jnp.concatenate(parts, axis=-1)

    def _image_encoder(self, name: str) -> nn.Module:
        config, style = self.config, style_of(self.config, inner=True)
        if config.cnn == "pooled":
            return PooledConvEncoder(config.cnn_depth, style._replace(act=config.cnn_activation), name=name)
        return ConvEncoder(
            config.cnn_depth,
            config.cnn_activation,
            embed_size=config.embed_size,
            residual=config.cnn_residual,
            dtype=style.dtype,
            name=name,
        )


class Decoder(nn.Module):
    """Features to one distribution per observation key, of what ``Networks.prepare`` gives for it."""

    spec: EnvSpec
    config: ModelConfig

    @nn.compact
    def __call__(self, feat: Array) -> dict[str, Any]:
        """[..., F] to {key: distribution}."""
        config = self.config
        dists: dict[str, Any] = {}
        for key in _keys(self.spec, image=True):
            image = self._image_decoder(self.spec.obs[key].shape, f"image_{key}")(feat)
            dists[key] = UnitNormal(image.astype(jnp.float32))
        if vectors := _keys(self.spec, image=False):
            specs = {key: self.spec.obs[key] for key in vectors}
            dists |= VectorDecoder(specs, config.vector_layers, config.units, style_of(config), name="vector")(feat)
        return dists

    def _image_decoder(self, shape: tuple[int, ...], name: str) -> nn.Module:
        config, size = self.config, (shape[0], shape[1], shape[2])
        if config.cnn == "pooled":
            return UpsampleConvDecoder(config, size, name=name)
        return ConvDecoder(
            config.cnn_depth,
            config.cnn_activation,
            shape=size,
            residual=config.cnn_residual,
            dtype=jnp.dtype(config.precision),
            name=name,
        )


def _keys(spec: EnvSpec, *, image: bool) -> list[str]:
    return [key for key, s in spec.obs.items() if (s.kind == "image") == image]


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
