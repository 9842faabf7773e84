"""Environment backends by name. A backend of your own takes two lines, with ``make_mine(config: EnvConfig) -> Env``::

    from jaxdreamer.envs import register
    register("mine", make_mine)

and is then ``env.backend=mine`` everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from jaxdreamer.config import ConfigError, EnvConfig, nearest
from jaxdreamer.envs.base import Env

Make = Callable[[EnvConfig], Env]

# Named, not imported: a backend's libraries load when it is used.
_BACKENDS: dict[str, Make | str] = {
    "gym": "jaxdreamer.envs.gymnasium_env:make",
    "toy": "jaxdreamer.envs.toy:make",
}
_ALIASES = {"gymnasium": "gym"}


def register(name: str, make: Make | str) -> None:
    """Add a backend, or replace the one of that name. ``make`` may be ``"module:function"``, imported on first use.

    In worker processes, which start afresh, only a module that is imported there is known; the text form always is.
    """
    _BACKENDS[name] = make


def backends() -> list[str]:
    """The registered names, sorted."""
    return sorted(_BACKENDS)


def make_env(config: EnvConfig) -> Env:
    """The environment that ``config.backend`` makes of ``config``; ConfigError for an unknown backend."""
    name = _ALIASES.get(config.backend, config.backend)
    if name == "custom":
        raise ConfigError(
            "this run's environment was made by its program, not by name: give it again as make=... of "
            "train_agent or evaluate_agent"
        )
    if name not in _BACKENDS:
        hint = nearest(name, [*_BACKENDS, *_ALIASES])
        raise ConfigError(f"env.backend: unknown backend {config.backend!r}{hint}; there are: {', '.join(backends())}")
    make = _BACKENDS[name]
    if isinstance(make, str):
        module, _, function = make.partition(":")
        make = getattr(import_module(module), function)
    return make(config)
