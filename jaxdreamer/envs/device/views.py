"""What an agent sees of a simulator with states, observations and a camera: Brax and MuJoCo Playground."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdreamer.config import EnvConfig
from jaxdreamer.types import Array, ArraySpec, Observation, PyTree


def camera_of(config: EnvConfig) -> int | str | None:
    """``camera`` as the ray-caster takes it: an index, a name, or None where none is named."""
    name = config.options.camera
    return int(name) if name.lstrip("-").isdigit() else name or None


def views(
    config: EnvConfig, reset: Callable[[Array], Any], picture: Callable[[PyTree], Array] | None
) -> tuple[dict[str, ArraySpec], Callable[[PyTree], Observation]]:
    """Specs of the observations that ``config.obs`` wants, and the function that makes them of a state.

    A state's ``obs`` is an array, seen as ``state``, or a dictionary of them, float32; ``picture(state)``, uint8 at
    ``config.image_size``, is seen as ``image``.
    """
    height, width = config.image_size
    sees_state, sees_image = config.obs != "pixels", config.obs in ("pixels", "both")
    specs: dict[str, ArraySpec] = {}
    if sees_state:
        example = jax.eval_shape(reset, jax.eval_shape(lambda: jax.random.key(0)))
        specs |= {name: ArraySpec(x.shape, "float32", "vector") for name, x in _named(example.obs).items()}
    if sees_image:
        specs["image"] = ArraySpec((height, width, 3), "uint8", "image")

    def observe(state: PyTree) -> Observation:
        obs = {name: x.astype(jnp.float32) for name, x in _named(state.obs).items()} if sees_state else {}
        return obs | ({"image": picture(state)} if sees_image and picture else {})

    return specs, observe


def _named(obs: Any) -> dict[str, Array]:
    return dict(obs) if isinstance(obs, dict) else {"state": obs}
