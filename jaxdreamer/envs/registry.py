"""Environment backends by name. A backend of your own takes two lines, with ``make_mine(config: EnvConfig) -> Env``::

    from jaxdreamer.envs import register
    register("mine", make_mine)

and is then ``env.backend=mine`` everywhere; a gymnasium environment that it returns is wrapped as ``config`` says. A backend
whose environments step together, as the agents of one game do, brings its own lanes instead:
``register("mine", make_lanes, lanes=True)`` with ``make_lanes(config, count, seed)``, which returns an object with the
interface of :class:`~jaxdreamer.envs.host.vector.VectorEnv`. One whose environments are pure functions,
``register("mine", make_functional, functional=True)``, is trained on the device; ``make_functional(config)`` returns a
:class:`~jaxdreamer.envs.device.functional.FunctionalEnv`.
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxdreamer.config import ConfigError, EnvConfig, is_model, nearest
from jaxdreamer.envs.base import Env
from jaxdreamer.envs.host.instance import as_env, check_apart
from jaxdreamer.envs.host.outcome import told
from jaxdreamer.envs.host.vector import VectorEnv
from jaxdreamer.envs.host.workers.pool import WorkerVectorEnv

if TYPE_CHECKING:  # it imports jax, which workers must not
    from jaxdreamer.envs.device.functional import FunctionalEnv

Make = Callable[[EnvConfig], Env]
MakeFunctional = Callable[[EnvConfig], "FunctionalEnv"]
MakeLanes = Callable[[EnvConfig, int, int], VectorEnv]

# Named, not imported: a backend's libraries load when it is used.
_BACKENDS: dict[str, Any] = {  # Make or str
    "dmc": "jaxdreamer.envs.host.dmc_env:make",
    "gym": "jaxdreamer.envs.host.gymnasium_env:make",
    "mujoco": "jaxdreamer.envs.host.mujoco_env:make_mujoco_env_from_config",
    "robotics": "jaxdreamer.envs.host.robotics_env:make",
    "toy": "jaxdreamer.envs.host.toy:make",
}
_LANES: dict[str, Any] = {  # MakeLanes or str
    "unity_mlagents": "jaxdreamer.envs.unity.lanes:make_lanes",
}
_FUNCTIONAL: dict[str, Any] = {  # MakeFunctional or str
    "brax": "jaxdreamer.envs.device.brax_env:make_functional",
    "pure": "jaxdreamer.envs.device.pure:make_functional",
}
# What lists a backend's tasks: a function that takes nothing.
_TASKS = {
    "brax": "jaxdreamer.envs.device.brax_env:names",
    "dmc": "jaxdreamer.envs.host.dmc_env:tasks",
    "gym": "jaxdreamer.envs.host.gymnasium_env:tasks",
    "mujoco": "jaxdreamer.envs.host.mujoco_env:tasks",
    "pure": "jaxdreamer.envs.device.pure:tasks",
    "robotics": "jaxdreamer.envs.host.robotics_env:tasks",
    "toy": "jaxdreamer.envs.host.toy:tasks",
}
_ALIASES = {
    "gymnasium": "gym",
    "dm_control": "dmc",
    "mjcf": "mujoco",
    "native_mujoco": "mujoco",
    "gymnasium_robotics": "robotics",
    "unity": "unity_mlagents",
    "mlagents": "unity_mlagents",
}


def register(
    name: str, make: Make | MakeLanes | MakeFunctional | str, *, lanes: bool = False, functional: bool = False
) -> None:
    """Add a backend, or replace the one of that name. ``make`` may be ``"module:function"``, imported on first use.

    With ``lanes`` it is a function of (config, count, seed) that makes the lanes of ``count`` environments at once; with
    ``functional`` one of (config) that returns pure functions.
    Worker processes are sent what was registered here, functions of a script or notebook included.
    """
    if lanes and functional:
        raise ConfigError(
            f"backend {name}: pure functions bring no lanes of their own; give one of lanes and functional"
        )
    for kind in (_BACKENDS, _LANES, _FUNCTIONAL):
        kind.pop(name, None)
    (_LANES if lanes else _FUNCTIONAL if functional else _BACKENDS)[name] = make


def backends() -> list[str]:
    """The registered names, sorted."""
    return sorted([*_BACKENDS, *_LANES, *_FUNCTIONAL])


def tasks(backend: str) -> list[str]:
    """What a backend's ``env.id`` can be, where that can be listed; MissingExtra where its library is missing."""
    name = _resolve(backend)
    listed = _TASKS.get(name)
    return [] if listed is None else sorted(_load(listed)())


def located(config: EnvConfig) -> EnvConfig:
    """The same with every file named by its absolute path, so that it is found from any working folder."""
    backend, named = canonical(config.backend), {}
    if backend == "mujoco" and is_model(config.id) and not config.id.lstrip().startswith("<"):
        named["id"] = config.id
    if backend == "unity_mlagents":
        named = {name: getattr(config, name) for name in ("unity_file_name", "unity_log_folder", "unity_python")}
        if os.sep not in config.unity_python:
            del named["unity_python"]  # a command, looked up in PATH
    paths: dict[str, Any] = {name: os.path.abspath(os.path.expanduser(path)) for name, path in named.items() if path}
    return dataclasses.replace(config, **paths)


def imported(setting: str, text: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; ConfigError, naming the setting, where there is none."""
    name, found, attribute = text.partition(":")
    if not found or not name or not attribute:
        raise ConfigError(f"{setting}: expected module:function, found {text!r}")
    module = imported_module(setting, name)
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(attribute, known)
        where = getattr(module, "__file__", None) or "a module without a file"
        raise ConfigError(f"{setting}: {text!r} cannot be imported: {where} has no {attribute!r}{hint}")
    function = getattr(module, attribute)
    if not callable(function):
        raise ConfigError(f"{setting}: {text!r} is not a function but {type(function).__name__}")
    return function


def imported_module(setting: str, name: str) -> ModuleType:
    """The module of that name; ConfigError, naming the setting, where it cannot be imported, whatever it raises."""
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        if name.endswith(".py") or os.sep in name:
            there = os.path.normpath(name).removesuffix(".py")
            as_imported = os.path.basename(there) if os.path.isabs(name) else there.replace(os.sep, ".")
            raise ConfigError(
                f"{setting}: expected the name of a module, found {name!r}, which is a file's: give {as_imported!r}, and "
                "start from the folder that it is imported from"
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            here = {os.getcwd(), ""} & set(sys.path)
            beside = f"; {os.getcwd()} is {'' if here else 'not '}on Python's path: start from the folder that holds it"
            raise ConfigError(f"{setting}: there is no module {name!r}: {error}{beside}") from error
        raised = traceback.extract_tb(error.__traceback__)[-1]
        where = (
            "" if isinstance(error, SyntaxError) else f" ({raised.filename}, line {raised.lineno})"
        )  # it says itself
        told = f"{type(error).__name__}: {error}{where}"
        raise ConfigError(f"{setting}: the module {name!r} cannot be imported: {told}") from error


def make_env(config: EnvConfig) -> Env:
    """The environment that ``config.backend`` makes of ``config``; ConfigError for an unknown backend."""
    name = _resolve(config.backend)
    if name in _LANES:
        raise ConfigError(f"env.backend={name} brings its own lanes: use make_vector instead of make_env")
    if name in _FUNCTIONAL:
        from jaxdreamer.envs.device.hosted import host

        return host(make_functional(config), config)
    return _make_one(_BACKENDS[name], config)


def is_functional(config: EnvConfig) -> bool:
    """Whether the backend's environments are pure functions, which can be trained on the device."""
    return _ALIASES.get(config.backend, config.backend) in _FUNCTIONAL


def make_functional(config: EnvConfig) -> FunctionalEnv:
    """The pure functions that ``config.backend`` makes of ``config``; ConfigError where it makes none."""
    name = _resolve(config.backend)
    if name not in _FUNCTIONAL:
        raise ConfigError(
            f"env.backend={name} steps its environments on the host; on the device run: {', '.join(sorted(_FUNCTIONAL))}"
        )
    from jaxdreamer.devices import devices

    devices()
    return _load(_FUNCTIONAL[name])(config)


def make_vector(
    config: EnvConfig, count: int, seed: int = 0, *, make: Callable[[], Any] | None = None, apart: bool = False
) -> VectorEnv:
    """``count`` environments side by side, each made by ``make``, or else as ``config`` says.

    They run in ``config.workers`` processes, or in this one where that is 0. What ``make`` returns is wrapped as ``config``
    says where it is gymnasium's or old gym's. With ``apart`` it makes one more, to see at once that it is another.
    A backend that brings its own lanes may return another number of them; ``num_envs`` of the result tells.
    """
    if make is not None and not callable(make):
        raise ConfigError(
            f"make must be a function that makes an environment, found {reprlib.repr(make)}: each lane and each evaluation "
            "needs its own instance, so give make=lambda: MyEnv()"
        )
    if make is None and (name := _resolve(config.backend)) in _LANES:
        return _load(_LANES[name])(config, count, seed)
    makers = [_maker(config) if make is None else _Made(make, config)] * count
    if make is not None and apart and (count == 1 or config.workers):  # otherwise the lanes show it
        makers[0] = _Made(make, config, twice=True)
    if not config.workers:
        return VectorEnv(makers, seed)
    if make is None and is_functional(config):
        raise ConfigError(f"env.workers: workers never import jax, and backend {config.backend} needs it; leave it 0")
    return WorkerVectorEnv(
        makers,
        seed,
        workers=config.workers,
        timeout=config.worker_timeout,
        max_restarts=config.max_restarts,
    )


def _maker(config: EnvConfig) -> Callable[[], Env]:
    """What makes one, in a form that takes a registered function along to other processes."""
    name = _resolve(config.backend)
    return partial(_make_one, _BACKENDS[name], config) if name in _BACKENDS else partial(make_env, config)


def _make_one(make: Any, config: EnvConfig) -> Env:
    return as_env(_load(make)(config), config)


@dataclass(frozen=True)
class _Made:
    """Makes environments by a function of somebody's, in a form that goes to other processes."""

    make: Callable[[], Any]
    config: EnvConfig
    twice: bool = False

    def __call__(self) -> Env:
        env = self._one()
        if self.twice:
            other = self._one()
            check_apart([env, other])
            VectorEnv([other]).close()  # which minds no failure of that
        return env

    def _one(self) -> Env:
        with told("the function that makes the environment"):
            made = self.make()
        return as_env(made, self.config)


def canonical(backend: str) -> str:
    """The registered name of a backend given by any of its names."""
    return _ALIASES.get(backend, backend)


def _resolve(backend: str) -> str:
    name = canonical(backend)
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
