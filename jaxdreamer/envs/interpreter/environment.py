"""An environment in another interpreter, as if it were a gymnasium environment of this one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.spaces import restore_space
from jaxdreamer.envs.interpreter import wire
from jaxdreamer.envs.interpreter.process import Failed, Process, ProcessLost

logger = logging.getLogger(__name__)
_SERVED = Path(__file__).with_name("gym_worker.py")


class InterpreterEnv:
    """What another interpreter makes of an id: gymnasium's interface, or old gym's where ``step`` returns four values.

    Whatever the environment raises is an EnvError with its traceback; so is the end of its process. ``info`` holds nothing
    but ``TimeLimit.truncated`` and ``episode_metrics``.
    """

    def __init__(self, python: str, name: str, *, options: dict[str, Any], time_limit: int, seconds: float) -> None:
        """Start ``python`` and make ``name``, ``module:function``, ``module:Name-v0`` or ``Name-v0``, with ``options``.

        ``time_limit`` > 0 replaces the limit the id is registered with; ``seconds`` is how long an answer may take.
        ConfigError for an interpreter, or an id, that cannot be used.
        """
        self._python, self._id, self._seconds = python, name, seconds
        self._process = Process("env.python", python, _SERVED)
        try:
            about, _ = self._ask("make", id=name, options=options, time_limit=time_limit)
            self.observation_space, self.action_space = (restore_space(about[key]) for key in ("observation", "action"))
        except BaseException:
            self.close()
            raise
        self.metadata = about["metadata"]
        self.render_mode = "rgb_array" if about["draws"] else None
        if not about["seedable"]:
            logger.warning("%s cannot be seeded: its reset takes no seed, and it has no seed method", self)

    def __str__(self) -> str:
        return f"{self._id} in {self._python}"

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        return self._call("reset", seed), {}

    def step(self, action: Any) -> Any:
        """One step: five values, or old gym's four."""
        return self._call("step", action)

    def render(self) -> Any:
        """The present frame."""
        return self._call("render", None)

    def close(self) -> None:
        """Let the environment close, and end its process."""
        self._process.close()

    def _call(self, command: str, value: Any) -> Any:
        arrays: dict[str, Any] = {}
        header, found = self._ask(command, arrays, value=wire.pack(value, arrays))
        return wire.unpack(header["value"], found)

    def _ask(self, command: str, arrays: dict[str, Any] | None = None, **words: Any) -> tuple[dict[str, Any], Any]:
        try:
            self._process.send({"command": command, **words}, arrays)
            return self._process.receive(self._seconds)
        except ProcessLost as error:
            self._process.kill()
            raise EnvError(f"{command} of {self}: {error}") from None
        except Failed as error:
            if error.reason == "unknown":
                raise ConfigError(f"env.id: {self._id!r} in env.python={self._python}: {error}") from None
            if error.reason == "missing":
                raise ConfigError(
                    f"env.python: {error}. It needs numpy and gymnasium, or an old gym, beside what {self._id} needs:\n"
                    f"{self._python} -m pip install numpy gymnasium"
                ) from None
            if error.reason == "library":
                raise EnvError(f"{command} of {self} needs a library that is not installed there: {error}") from None
            raise EnvError(f"{command} of {self} raised, there:\n{error}".rstrip()) from None
