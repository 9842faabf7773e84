"""Families of environments, by the name of their backend: the list of their modules, and the record that each ends with.

A new family is one file that ends with ``BACKEND = Backend(...)``, and one line here. Modules are named, not imported: a
configuration or a worker process loads the one that it uses. To look at a record its module is imported, so that must load
neither jax nor a simulator: those are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

FAMILIES = {
    "brax": "jaxdreamer.envs.device.brax_env",
    "craftax": "jaxdreamer.envs.device.craftax_env",
    "crafter": "jaxdreamer.envs.host.crafter_env",
    "dmc": "jaxdreamer.envs.host.dmc_env",
    "gym": "jaxdreamer.envs.host.gymnasium_env",
    "gymnax": "jaxdreamer.envs.device.gymnax_env",
    "mujoco": "jaxdreamer.envs.host.mujoco_env",
    "playground": "jaxdreamer.envs.device.playground_env",
    "pure": "jaxdreamer.envs.device.pure",
    "robotics": "jaxdreamer.envs.host.robotics_env",
    "unity_mlagents": "jaxdreamer.envs.unity.lanes",
}


@dataclass(frozen=True)
class Backend:
    """What the library knows of one family of environments. ``EnvConfig`` is :class:`jaxdreamer.config.EnvConfig`."""

    name: str
    """What ``env.backend`` is set to."""
    make: Callable[..., Any]
    """host: EnvConfig -> one environment, the library's or gymnasium's. lanes: (EnvConfig, count, seed) ->
    :class:`~jaxdreamer.envs.base.VectorEnv`. device: EnvConfig -> FunctionalEnv."""
    kind: Literal["host", "lanes", "device"] = "host"
    """host: environments one by one. lanes: environments that step together, as the agents of one game do. device: pure
    functions, which are trained inside the compiled program."""
    tasks: Callable[[], list[str]] | None = None
    """What ``env.id`` can be; None where that cannot be listed."""
    aliases: tuple[str, ...] = ()
    """Other names of the backend."""
    options: Any = None
    """Its settings beside those of every backend: a subclass of :class:`jaxdreamer.config.Options`. None: the default of
    its kind, see :func:`jaxdreamer.config.options_of`."""
    extra: str = ""
    """The extra of jaxdreamer that installs its libraries."""
    libraries: tuple[str, ...] = ()
    """Distributions whose versions ``jaxdreamer doctor`` shows."""
    sample: str = ""
    """A small task that ``jaxdreamer doctor`` tries; empty where there is none to try."""
    more_samples: tuple[str, ...] = ()
    """Further ones, whose libraries are another extra's."""
    label: Callable[[Any], str] | None = None
    """EnvConfig -> what a task is called in the names of folders. None: ``env.id``."""
    is_file: Callable[[str], bool] | None = None
    """Whether an ``env.id`` is the path of a file. None: it never is."""
    summary: Callable[[Any], dict[str, float]] | None = None
    """Means over episodes of what its environments said in ``info["episode_metrics"]``, by name -> more numbers of these
    episodes, which are logged beside them."""
    runs: Callable[[str], str] | None = None
    """What making an ``env.id`` does that needs trust in its author, as in ``import the module 'x'``; empty: nothing.
    None: it never does."""


_registered: dict[str, Backend] = {}
"""What this program registered; stands before FAMILIES."""


def register(backend: Backend) -> None:
    """Add a backend, or replace the one of that name. See :func:`jaxdreamer.register`, which checks it first."""
    _registered[backend.name] = backend


def records() -> dict[str, Backend]:
    """Every backend's record, by name, sorted."""
    return {name: _record(name) for name in sorted({*FAMILIES, *_registered})}


def find(name: str) -> Backend | None:
    """The record of a backend given by any of its names; None where there is none."""
    if name in _registered or name in FAMILIES:
        return _record(name)
    return next((record for record in records().values() if name in record.aliases), None)


def _record(name: str) -> Backend:
    return _registered[name] if name in _registered else import_module(FAMILIES[name]).BACKEND
