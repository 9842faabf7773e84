"""Environment backends by name. A backend of your own takes two lines, with ``make_mine(config: EnvConfig) -> Env``::

    from jaxdreamer.envs import register
    register("mine", make_mine)

and is then ``env.backend=mine`` everywhere. A backend whose environments step together, as the agents of one game do,
brings its own lanes instead: ``register("mine", make_lanes, lanes=True)`` with ``make_lanes(config, count, seed)``, which
returns an object with the interface of :class:`~jaxdreamer.envs.vector.VectorEnv`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from jaxdreamer.config import ConfigError, EnvConfig, nearest
from jaxdreamer.envs.base import Env
from jaxdreamer.envs.vector import VectorEnv

Make = Callable[[EnvConfig], Env]
MakeLanes = Callable[[EnvConfig, int, int], VectorEnv]

# Named, not imported: a backend's libraries load when it is used.
_BACKENDS: dict[str, Any] = {  # Make or str
    "gym": "jaxdreamer.envs.gymnasium_env:make",
    "toy": "jaxdreamer.envs.toy:make",
}
_LANES: dict[str, Any] = {  # MakeLanes or str
    "unity_mlagents": "jaxdreamer.envs.unity_env:make_lanes",
}
_ALIASES = {"gymnasium": "gym", "unity": "unity_mlagents", "mlagents": "unity_mlagents"}


def register(name: str, make: Make | MakeLanes | str, *, lanes: bool = False) -> None:
    """Add a backend, or replace the one of that name. ``make`` may be ``"module:function"``, imported on first use.

    With ``lanes`` it is a function of (config, count, seed) that makes the lanes of ``count`` environments at once.
    In worker processes, which start afresh, only a module that is imported there is known; the text form always is.
    """
    _BACKENDS.pop(name, None)
    _LANES.pop(name, None)
    (_LANES if lanes else _BACKENDS)[name] = make


def backends() -> list[str]:
    """The registered names, sorted."""
    return sorted([*_BACKENDS, *_LANES])


def make_env(config: EnvConfig) -> Env:
    """The environment that ``config.backend`` makes of ``config``; ConfigError for an unknown backend."""
    name = _resolve(config.backend)
    if name in _LANES:
        raise ConfigError(f"env.backend={name} brings its own lanes: use make_vector instead of make_env")
    return _load(_BACKENDS[name])(config)


def make_vector(config: EnvConfig, count: int, seed: int = 0, *, make: Callable[[], Env] | None = None) -> VectorEnv:
    """``count`` environments side by side, each made by ``make``, or else as ``config`` says.

    A backend that brings its own lanes may return another number of them; ``num_envs`` of the result tells.
    """
    if make is None and (name := _resolve(config.backend)) in _LANES:
        return _load(_LANES[name])(config, count, seed)
    return VectorEnv([make or (lambda: make_env(config))] * count, seed)


def _resolve(backend: str) -> str:
    name = _ALIASES.get(backend, backend)
    if name == "custom":
        raise ConfigError(
            "this run's environment was made by its program, not by name: give it again as make=... of "
            "train_agent or evaluate_agent"
        )
    if name not in backends():
        hint = nearest(name, [*backends(), *_ALIASES])
        raise ConfigError(f"env.backend: unknown backend {backend!r}{hint}; there are: {', '.join(backends())}")
    return name


def _load(make: Any) -> Any:
    if not isinstance(make, str):
        return make
    module, _, function = make.partition(":")
    return getattr(import_module(module), function)
