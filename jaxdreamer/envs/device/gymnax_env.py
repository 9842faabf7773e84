"""gymnax's environments as functions: classic control, MinAtar, bsuite's small tasks, bandits, mazes."""

from __future__ import annotations

import colorsys
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdreamer.config import ConfigError, EnvConfig, nearest
from jaxdreamer.errors import MissingExtra, import_extra
from jaxdreamer.families import Backend
from jaxdreamer.types import ActionPart, ActionSpec, Array, ArraySpec, EnvSpec, Observation, PyTree

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxdreamer.envs.device.functional import FunctionalEnv

MNIST = [f"{part}-ubyte.gz" for half in ("train", "t10k") for part in (f"{half}-images-idx3", f"{half}-labels-idx1")]


class State(NamedTuple):
    """Where an episode is. Observations may be random, so each is kept as it was made."""

    env: PyTree  # gymnax's own
    seen: Array  # gymnax's own observation
    key: Array  # typed key [], for the steps to come


def import_gymnax() -> Any:
    """``gymnax``, from 1.0, which tells a task's end from its time limit.

    Raises:
        MissingExtra: it is not installed, or older.
    """
    gymnax = import_extra("gymnax", "gymnax", "env.backend=gymnax")
    if not hasattr(gymnax.environments.environment.Environment, "is_truncated"):
        raise MissingExtra("jaxdreamer[gymnax]", "env.backend=gymnax needs gymnax 1.0 or newer, found an older one")
    return gymnax


def names() -> list[str]:
    """The environments that the installed gymnax registers."""
    return list(import_gymnax().registered_envs)


def make_functional(config: EnvConfig) -> FunctionalEnv:
    """The gymnax environment ``config.id`` with its default parameters, as ``config.obs`` wants it seen.

    Observations: ``state``, gymnax's own in its own shape, as float32, planes of a board included; ``image``, the board
    drawn as uint8 at ``config.image_size``, one colour a plane. Actions within bounds are brought from [-1, 1] to them.
    The end that ``max_steps_in_episode`` sets is a time limit, as in gymnax 1.0, and no end of the task; DiscountingChain
    and Freeway know no other. Time is part of the task in MemoryChain, UmbrellaChain and DeepSea, which end terminally.

    Raises:
        ConfigError: no such environment, nothing to draw where pixels are asked for, or data that would be downloaded.
        MissingExtra: gymnax is not installed.
    """
    import jax

    from jaxdreamer.envs.device.functional import FunctionalEnv

    gymnax = import_gymnax()
    if config.id not in gymnax.registered_envs:
        raise ConfigError(
            f"env.id: gymnax has no environment {config.id!r}{nearest(config.id, gymnax.registered_envs)}; there are: "
            f"{', '.join(gymnax.registered_envs)}"
        )
    if config.id == "MNISTBandit-bsuite":
        _check_mnist()
    env, params = gymnax.make(config.id)
    action, to_env = _action(config.id, env.action_space(params))
    own = _observation(env, params)
    drawable = len(own.shape) in (2, 3) and min(own.shape[:2]) > 1
    sees_state, sees_image = config.obs != "pixels", config.obs in ("pixels", "both")
    if sees_image and not drawable:
        raise ConfigError(f"env.obs={config.obs}: gymnax's {config.id} is no board to draw; use env.obs=state")
    specs = {"state": own} if sees_state else {}
    if sees_image:
        specs["image"] = ArraySpec((*config.image_size, 3), "uint8", "image")

    def reset(key: Array) -> State:
        key, key_env = jax.random.split(key)
        seen, state = env.reset_env(key_env, params)
        return State(state, seen, key)

    def step(state: State, choice: Array) -> tuple[State, Array, Array]:
        key, key_env = jax.random.split(state.key)
        # Unlike `step`, this neither resets an ended episode nor knows of the time limit.
        seen, new, reward, terminal, _ = env.step_env(key_env, state.env, to_env(choice), params)
        return State(new, seen, key), reward, terminal

    def observe(state: State) -> Observation:
        obs = {"state": state.seen.astype(own.dtype)} if sees_state else {}
        return obs | ({"image": draw(state.seen, config.image_size)} if sees_image else {})

    film = (max(config.image_size[0], 128), max(config.image_size[1], 128))
    return FunctionalEnv(
        EnvSpec(specs, action),
        reset,
        step,
        observe,
        time_limit=int(params.max_steps_in_episode),
        frame_rate=10.0 if drawable else 30.0,  # boards know no time; so fast gymnax shows them
        render=(lambda state: draw(state.seen, film)) if drawable else None,
    )


def _observation(env: Any, params: Any) -> ArraySpec:
    """What the environment's own observation is: one choice, or numbers."""
    import jax

    space = env.observation_space(params)
    if type(space).__name__ == "Discrete":
        return ArraySpec((), "int32", "discrete", space.n)
    seen, _ = jax.eval_shape(env.reset_env, jax.eval_shape(lambda: jax.random.key(0)), params)
    return ArraySpec(seen.shape, "float32", "vector")


def _action(name: str, space: Any) -> tuple[ActionSpec, Callable[[Array], Array]]:
    """The action's spec, and what brings the agent's flat vector to gymnax's own form."""
    import jax.numpy as jnp

    kind = type(space).__name__
    if kind == "Discrete":
        return ActionSpec((ActionPart("discrete", space.n),)), jnp.argmax
    if kind == "Box" and bool(jnp.isfinite(jnp.asarray(space.high) - jnp.asarray(space.low)).all()):
        low, high = (
            jnp.broadcast_to(jnp.asarray(bound, jnp.float32), space.shape) for bound in (space.low, space.high)
        )
        part = ActionPart("continuous", low.size)
        return ActionSpec((part,)), lambda action: low + (action.reshape(low.shape) + 1.0) * (high - low) / 2.0
    raise ConfigError(
        f"env.id: actions of gymnax's {name} are {space}; Discrete and Box with finite bounds can be taken"
    )


def _check_mnist() -> None:
    """ConfigError where gymnax would download its data."""
    load = import_extra("gymnax.utils.load_mnist", "gymnax", "env.id=MNISTBandit-bsuite")
    folder = Path(inspect.signature(load.load_mnist).parameters["directory"].default)
    if missing := [name for name in MNIST if not (folder / name).is_file()]:
        raise ConfigError(
            f"env.id=MNISTBandit-bsuite: gymnax would download MNIST, and nothing is downloaded here; put "
            f"{', '.join(missing)} into {folder}"
        )


def draw(board: Array, size: tuple[int, int]) -> Array:
    """A board [h, w] or [h, w, planes], numbers from 0 to 1, as a picture: uint8 [H, W, 3].

    Each plane has a colour of its own, as far apart in hue as can be; later planes lie on earlier ones. A board without
    planes is white on black. Fields are rectangles, all but equal where the sides are no multiples of the board's.
    """
    import jax.numpy as jnp

    board = board[..., None] if board.ndim == 2 else board
    rows, columns = (jnp.arange(n) * fields // n for n, fields in zip(size, board.shape[:2]))
    planes = board.shape[2]
    if planes == 1:
        colours = [(1.0, 1.0, 1.0)]
    else:
        colours = [colorsys.hsv_to_rgb(plane / planes, 1.0 if plane % 2 else 0.6, 1.0) for plane in range(planes)]
    picture = jnp.zeros((*board.shape[:2], 3))
    for plane, colour in enumerate(colours):
        cover = jnp.clip(board[..., plane, None], 0.0, 1.0)
        picture = cover * jnp.asarray(colour) + (1.0 - cover) * picture
    return jnp.round(255.0 * picture).astype(jnp.uint8)[rows][:, columns]


BACKEND = Backend(
    "gymnax",
    make_functional,
    kind="device",
    tasks=names,
    extra="gymnax",
    libraries=("gymnax",),
    sample="CartPole-v1",
)
