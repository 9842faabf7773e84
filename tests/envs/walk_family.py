"""A family of environments as somebody may add one: all of it is in this file, and one line lists it."""

from __future__ import annotations

from dataclasses import dataclass

from jaxdreamer.config import EnvConfig, Options
from jaxdreamer.config.settings import setting
from jaxdreamer.families import Backend
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec


@dataclass(frozen=True)
class WalkOptions(Options):
    """A walk to and fro."""

    stride: int = setting(2, 1, 5)
    """Places that a step moves."""
    shoes: str = setting("", free=True)
    """What the walker wears."""


def make(config: EnvConfig):
    """The reward is the distance from the start; place 9 ends the task."""
    import jax.numpy as jnp

    from jaxdreamer.envs.device.functional import FunctionalEnv

    stride = config.options.stride
    return FunctionalEnv(
        spec=EnvSpec({"place": ArraySpec((1,), "float32", "vector")}, ActionSpec((ActionPart("discrete", 2),))),
        reset=lambda key: jnp.zeros((), jnp.int32),
        step=lambda place, action: _moved(place + stride * (2 * jnp.argmax(action).astype(jnp.int32) - 1)),
        observe=lambda place: {"place": place.astype(jnp.float32)[None]},
        time_limit=6,
    )


def _moved(place):
    return place, abs(place) * 1.0, place >= 9


BACKEND = Backend(
    "walk",
    make,
    kind="device",
    tasks=lambda: ["walk"],
    aliases=("stroll",),
    options=WalkOptions,
    libraries=("jax",),
    sample="walk",
)
