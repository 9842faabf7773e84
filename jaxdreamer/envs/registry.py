"""Environments by the name of their backend: made one by one, side by side, or as pure functions.

A backend of your own takes two lines, with ``make_mine(config: EnvConfig)`` that returns an environment::

    from jaxdreamer import register
    register("mine", make_mine)

and is then ``env.backend=mine`` everywhere; a gymnasium environment that it returns is wrapped as ``config`` says. What else
there is to say of a backend, its tasks and its own options for example, see :class:`jaxdreamer.families.Backend`.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxdreamer import config as configs
from jaxdreamer import families
from jaxdreamer.config import ConfigError, EnvConfig, Options, nearest
from jaxdreamer.envs.base import Env, VectorEnv
from jaxdreamer.envs.host.instance import as_env, check_apart
from jaxdreamer.envs.host.outcome import reporting
from jaxdreamer.envs.host.vector import LocalVectorEnv
from jaxdreamer.envs.host.workers.pool import WorkerVectorEnv
from jaxdreamer.errors import shown
from jaxdreamer.families import Backend

if TYPE_CHECKING:  # it imports jax, which workers must not
    from jaxdreamer.envs.device.functional import FunctionalEnv


def register(backend: Backend | str, make: Callable[..., Any] | None = None, **about: Any) -> None:
    """Add a backend, or replace the one of that name: a record, or its name, ``make`` and other fields.

    Worker processes are sent what was registered here, functions of a script or notebook included. ConfigError for names
    that mean another backend already, and for options that mean another setting.
    """
    record = backend if isinstance(backend, Backend) else Backend(backend, make, **about)  # type: ignore[arg-type]
    if not callable(record.make) or record.kind not in ("host", "lanes", "device"):
        raise ConfigError(
            f"backend {record.name}: make is a function and kind is host, lanes or device, found {record.make!r} and "
            f"{record.kind!r}"
        )
    for name in (record.name, *record.aliases):
        other = families.find(name)
        if name == "custom" or (other is not None and other.name != record.name):
            raise ConfigError(f"backend {record.name}: the name {name} is {other.name if other else 'train_agent'}'s")
    if record.options is not None:
        _check_options(record)
    families.register(record)


def _check_options(record: Backend) -> None:
    if not (isinstance(record.options, type) and issubclass(record.options, Options)):
        raise ConfigError(f"backend {record.name}: options is a subclass of Options, found {record.options!r}")
    known = {key.rpartition(".")[2]: (key, kind) for key, kind in configs.types().items()}
    for name, kind in configs.hints(record.options).items():
        key, other = known.get(name, (f"env.{name}", kind))
        if key != f"env.{name}" or other != kind or name in configs.hints(EnvConfig):
            raise ConfigError(f"backend {record.name}: the option {name} ({kind}) has the name of {key} ({other})")


def backends(kind: str = "") -> list[str]:
    """The names of all backends, or of those of one kind, sorted."""
    return [name for name, record in families.records().items() if kind in ("", record.kind)]


def tasks(backend: str) -> list[str]:
    """What a backend's ``env.id`` can be, where that can be listed; MissingExtra where its library is missing."""
    listed = record_of(backend).tasks
    return sorted(listed()) if listed else []


def located(config: EnvConfig) -> EnvConfig:
    """The same with every file named by its absolute path, so that it is found from any working folder."""
    record = families.find(config.backend)
    paths = {}
    if record and record.is_file and record.is_file(config.id):
        paths["id"] = config.id
    for name, kind in configs.with_metadata(config, "path").items():
        path = getattr(config.options, name)
        if path and (kind != "command" or os.sep in path):  # else it is looked up in PATH
            paths[name] = path
    return configs.replace_env(config, {k: os.path.abspath(os.path.expanduser(path)) for k, path in paths.items()})


def make_env(config: EnvConfig) -> Env:
    """The environment that ``config.backend`` makes of ``config``; ConfigError for an unknown backend."""
    record = record_of(config.backend)
    if record.kind == "lanes":
        raise ConfigError(f"env.backend={record.name} brings its own lanes: use make_vector instead of make_env")
    if record.kind == "device":
        from jaxdreamer.envs.device.hosted import host

        return host(make_functional(config), config)
    return _make_one(record.make, config)


def is_functional(config: EnvConfig) -> bool:
    """Whether the backend's environments are pure functions, which can be trained on the device."""
    record = families.find(config.backend)
    return record is not None and record.kind == "device"


def make_functional(config: EnvConfig) -> FunctionalEnv:
    """The pure functions that ``config.backend`` makes of ``config``; ConfigError where it makes none."""
    record = record_of(config.backend)
    if record.kind != "device":
        raise ConfigError(
            f"env.backend={record.name} steps its environments on the host; on the device run: "
            f"{', '.join(backends('device'))}"
        )
    from jaxdreamer.devices import devices

    devices()
    return record.make(config)


def make_vector(
    config: EnvConfig,
    count: int,
    seed: int = 0,
    *,
    make: Callable[[], Any] | None = None,
    apart: bool = False,
    first: int = 0,
) -> VectorEnv:
    """``count`` environments side by side, each made by ``make``, or by the backend where there is none.

    They run in ``config.workers`` processes, or in this one where that is 0; with ``env.python`` 0 is one for each. An
    environment of gymnasium's or old gym's is wrapped as ``config`` says. With ``apart``, ``make`` is called once more to
    check that it returns another. ``first`` is the number of lane 0 among all lanes, where others are stepped elsewhere.
    A backend of the kind ``lanes`` may return another number of them, see ``num_envs`` of the result.
    """
    if make is not None and not callable(make):
        raise ConfigError(
            f"make must be a function that makes an environment, found {reprlib.repr(make)}: each lane and each evaluation "
            "needs its own instance, so give make=lambda: MyEnv()"
        )
    if make is None and (record := record_of(config.backend)).kind == "lanes":
        return record.make(config, count, seed)
    workers, python = config.workers, getattr(config.options, "python", "")
    if python and make is not None:
        raise ConfigError(
            f"env.python={python}: what make returns runs in this interpreter; give env.id=module:function"
        )
    if python and not workers:
        workers = count  # each has a process there anyway: so they step side by side, and one that dies is replaced
    makers = [_maker(config) if make is None else _Made(make, config)] * count
    if make is not None and apart and (count == 1 or workers):  # otherwise the lanes show it
        makers[0] = _Made(make, config, twice=True)
    if not workers:
        return LocalVectorEnv(makers, seed, first=first)
    if make is None and is_functional(config):
        raise ConfigError(f"env.workers: workers never import jax, and backend {config.backend} needs it; leave it 0")
    return WorkerVectorEnv(
        makers,
        seed,
        workers=workers,
        first=first,
        timeout=config.worker_timeout,
        max_restarts=config.max_restarts,
    )


def _maker(config: EnvConfig) -> Callable[[], Env]:
    """What makes one, in a form that takes a registered function along to other processes."""
    record = record_of(config.backend)
    return partial(_make_one, record.make, config) if record.kind == "host" else partial(make_env, config)


def _make_one(make: Callable[[EnvConfig], Any], config: EnvConfig) -> Env:
    return as_env(make(config), config)


@dataclass(frozen=True)
class _Made:
    """Makes environments by a user's function, in a form that can be sent to other processes."""

    make: Callable[[], Any]
    config: EnvConfig
    twice: bool = False

    def __call__(self) -> Env:
        env = self._one()
        if self.twice:
            other = self._one()
            check_apart([env, other])
            LocalVectorEnv([other]).close()  # it logs an exception of that, and goes on
        return env

    def _one(self) -> Env:
        with reporting("the function that makes the environment"):
            made = self.make()
        return as_env(made, self.config)


def record_of(backend: str) -> Backend:
    """The record of a backend given by any of its names; ConfigError, with those there are, for another name."""
    if backend == "custom":
        raise ConfigError(
            "this run's environment was made by its program, not by name: give it again as make=... of "
            "train_agent or evaluate_agent"
        )
    found = families.find(backend)
    if found is None:
        names = [name for record in families.records().values() for name in (record.name, *record.aliases)]
        hint = nearest(backend, names)
        raise ConfigError(f"env.backend: unknown backend {shown(backend)}{hint}; there are: {', '.join(backends())}")
    return found
