"""An environment of gymnasium's or old gym's in another interpreter, for :mod:`jaxdreamer.envs.interpreter.worker`.

That interpreter may be as old as Python 3.8 and lack jaxdreamer: this file imports the standard library, numpy and its
neighbours, and what the trainer asks for.

    {"command": "make", "id", "options", "time_limit"}     observation and action (spaces), metadata, draws, seedable
    {"command": "reset" | "step" | "render", "value"}      value: what it returned, packed as by ``wire.pack``
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any

import gym_api
from wire import Failure, pack, unpack

KEPT = ("render_fps", "video.frames_per_second")  # of an environment's metadata
READ = ("TimeLimit.truncated", "episode_metrics")  # of a step's info


class Served:
    """One environment."""

    def __init__(self) -> None:
        self._env: Any = None
        self._pairs = self._seedable = False

    def obey(self, header: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """One command's reply; an error's reason is unknown (id), missing (numpy or gym), library or raised."""
        try:
            return self._reply(header, arrays)
        except Exception as error:
            if isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled":
                raise Failure("library", str(error).strip()) from error
            raise

    def _reply(self, header: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        if header["command"] == "make":
            self._env = make(header["id"], header["options"], header["time_limit"])
            return self._describe(), {}
        packed: dict[str, Any] = {}
        result = getattr(self, "_" + header["command"])(unpack(header["value"], arrays))
        return {"value": pack(result, packed)}, packed

    def _describe(self) -> dict[str, Any]:
        env = self._env
        self._pairs = gym_api.has_pairs(env.observation_space)
        self._seedable = gym_api.takes(env, "reset", "seed")
        metadata = getattr(env, "metadata", None) or {}
        return {
            "observation": gym_api.describe_space(env.observation_space),
            "action": gym_api.describe_space(env.action_space),
            "metadata": {name: pack(metadata[name], {}) for name in KEPT if name in metadata},
            "draws": gym_api.draws_arrays(env),
            "seedable": self._seedable or gym_api.has_seed(env),
        }

    def _reset(self, seed: int | None) -> Any:
        return gym_api.first_observation(gym_api.begin(self._env, seed, self._seedable), self._pairs)

    def _step(self, action: Any) -> Any:
        result = self._env.step(action)
        if isinstance(result, (tuple, list)) and result and isinstance(result[-1], Mapping):
            # Of what else is in there the trainer uses nothing.
            info = {name: result[-1][name] for name in READ if name in result[-1]}
            result = (*result[:-1], info)
        return result

    def _render(self, _: None) -> Any:
        return gym_api.frame_of(self._env)

    def close(self) -> None:
        """Close the environment."""
        getattr(self._env, "close", lambda: None)()

    def kill(self) -> None:
        """Nothing: what an environment starts is of this process's group, and ends with it."""


def make(name: str, options: dict[str, Any], time_limit: int) -> Any:
    """The environment that an id names: ``module:function``, ``module:Name-v0`` or ``Name-v0``."""
    module, _, name = name.rpartition(":")
    if module:
        sys.path.append(os.getcwd())  # as the trainer does it: nothing there hides an installed library
        try:
            function = getattr(import_module(module), name, None)
        except ImportError as error:
            raise Failure("unknown", f"importing {module} raised {type(error).__name__}: {error}") from error
        if callable(function):
            return function(**options)
    found = []
    for title in ("gymnasium", "gym"):
        try:
            library = import_module(title)
        except ImportError as error:
            found.append(str(error))
            continue
        registry = library.envs.registration.registry
        known = list(getattr(registry, "env_specs", registry))  # a class of its own before gym 0.26
        if name in known:
            return make_registered(library, name, options, time_limit)
        near = difflib.get_close_matches(name, known, n=3)
        hint = " (did you mean {}?)".format(", ".join(near)) if near else ""
        found.append(f"{title} {library.__version__} knows no {name!r}{hint}")
    if not {"gymnasium", "gym"} & set(sys.modules):
        raise Failure("missing", f"{sys.executable} cannot import gymnasium or gym: {'; '.join(found)}")
    what = (
        f"{module} has no function {name!r}" if module else "a module that registers ids stands before them, module:id"
    )
    raise Failure("unknown", "; ".join([*found, what]))


def make_registered(library: Any, name: str, options: dict[str, Any], time_limit: int) -> Any:
    """What ``library``, gymnasium or gym in any version, makes of an id that it knows."""
    spec = library.spec(name)
    if time_limit:
        spec.max_episode_steps = time_limit
    creator = spec.entry_point
    if not callable(creator):
        module, _, attribute = creator.partition(":")
        creator = getattr(import_module(module), attribute)
    if "rgb_array" in ((getattr(creator, "metadata", None) or {}).get("render_modes") or ()):
        options = {**options, "render_mode": "rgb_array"}  # costs nothing until a frame is asked for
    if "disable_env_checker" in signature(library.make).parameters:
        options = {**options, "disable_env_checker": True}
    return library.make(name, **options)
