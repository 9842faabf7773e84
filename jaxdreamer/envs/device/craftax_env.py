"""Craftax and Craftax-Classic as functions, from symbols, from pixels, or both."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdreamer.config import ConfigError, EnvConfig, nearest
from jaxdreamer.errors import import_extra
from jaxdreamer.families import Backend
from jaxdreamer.types import ActionPart, ActionSpec, Array, ArraySpec, EnvSpec, Observation, PyTree

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxdreamer.envs.device.functional import FunctionalEnv

NAMES = ("Craftax-Classic-Pixels-v1", "Craftax-Classic-Symbolic-v1", "Craftax-Pixels-v1", "Craftax-Symbolic-v1")


class State(NamedTuple):
    """Where an episode is."""

    game: PyTree  # Craftax's own
    key: Array  # typed key [], for the steps to come


def names() -> list[str]:
    """What ``env.id`` can be; MissingExtra where Craftax is not installed."""
    _import_craftax()
    return list(NAMES)


def make_functional(config: EnvConfig) -> FunctionalEnv:
    """The game ``config.id``, as its name says or as ``config.obs`` wants it seen.

    Observations: ``state``, Craftax's own symbols, a float32 vector; ``image``, its own picture for agents as uint8 at
    ``config.image_size``: shrunk where that is smaller than what Craftax draws (63x63 in Classic, 130x110 in the full
    game), with black at the right and below where it is larger. 17 choices in Classic, 43 in the full game. Running out of
    Craftax's ``max_timesteps`` is a time limit; death, and the full game won, are terminal. Films need the picture: where
    only symbols are seen there are none, for making the textures takes ten seconds.

    Raises:
        ConfigError: no such game. MissingExtra: Craftax is not installed.
    """
    import jax

    from jaxdreamer.envs.device.functional import FunctionalEnv

    make = _import_craftax().make_craftax_env_from_name
    if config.id not in NAMES:
        raise ConfigError(
            f"env.id: Craftax has no environment {config.id!r}{nearest(config.id, NAMES)}; there are: {', '.join(NAMES)}"
        )
    obs = ("pixels" if "Pixels" in config.id else "state") if config.obs == "auto" else config.obs
    # Symbols and pixels are two views of one game; only the symbols' class is made without drawing anything.
    env = make(config.id.replace("Pixels", "Symbolic"), auto_reset=False)
    params = env.default_params.replace(max_timesteps=2**31 - 1)  # reaching them it would call an end like any other
    paint = (
        _painter("craftax.craftax_classic" if "Classic" in config.id else "craftax.craftax") if obs != "state" else None
    )
    specs: dict[str, ArraySpec] = {}
    if obs != "pixels":
        specs["state"] = ArraySpec(env.observation_space(params).shape, "float32", "vector")
    if paint:
        specs["image"] = ArraySpec((*config.image_size, 3), "uint8", "image")

    def reset(key: Array) -> State:
        key, key_game = jax.random.split(key)
        return State(env.reset_env(key_game, params)[1], key)

    def step(state: State, action: Array) -> tuple[State, Array, Array]:
        key, key_game = jax.random.split(state.key)
        _, game, reward, terminal, _ = env.step_env(key_game, state.game, action.argmax(), params)
        return State(game, key), reward, terminal

    def observe(state: State) -> Observation:
        seen = {"state": env.get_obs(state.game)} if "state" in specs else {}
        return seen | ({"image": fit(paint(state.game), config.image_size)} if paint else {})

    return FunctionalEnv(
        EnvSpec(specs, ActionSpec((ActionPart("discrete", env.num_actions),))),
        reset,
        step,
        observe,
        time_limit=env.default_params.max_timesteps,
        frame_rate=10.0,  # the game knows no time; so fast it can be followed
        render=(lambda state: paint(state.game).repeat(2, 0).repeat(2, 1).astype("uint8")) if paint else None,
    )


def _import_craftax() -> Any:
    return import_extra("craftax.craftax_env", "craftax", "env.backend=craftax")


def _painter(package: str) -> Callable[[PyTree], Array]:
    """Craftax's drawing for agents: game -> float32 [H, W, 3], whole numbers from 0 to 255.

    Craftax's own loader of textures would prepare those for people too, for over a minute, and write all of them into the
    package's folder. Here only the agents' are made, in about ten seconds, and nothing is written.
    """
    renderer: Any = import_module(f"{package}.renderer")
    constants = import_module(f"{package}.constants")
    side = constants.BLOCK_PIXEL_SIZE_AGENT
    textures = {side: constants.load_all_textures_given_size(side)}
    own, renderer.load_all_textures = renderer.load_all_textures, lambda: textures
    try:
        return renderer.make_craftax_pixel_renderer(side)
    finally:
        renderer.load_all_textures = own


def fit(picture: Array, size: tuple[int, int]) -> Array:
    """A picture [h, w, 3] of numbers from 0 to 255 as uint8 [H, W, 3]: shrunk by averages, or with black beside it."""
    import jax
    import jax.numpy as jnp

    height, width = map(min, size, picture.shape)
    small = jax.image.resize(picture, (height, width, 3), "linear")
    return jnp.pad(jnp.round(small).astype(jnp.uint8), ((0, size[0] - height), (0, size[1] - width), (0, 0)))


BACKEND = Backend(  # without a sample for doctor: compiling the game takes minutes on a CPU
    "craftax",
    make_functional,
    kind="device",
    tasks=names,
    extra="craftax",
    libraries=("craftax",),
)
