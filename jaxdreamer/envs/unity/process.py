"""One Unity player seen from the trainer: its worker process is started, spoken to, and ended with all it started."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra
from jaxdreamer.envs import endings
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.interpreter import wire
from jaxdreamer.envs.interpreter.process import STARTING_SECONDS, Failed, Process, ProcessLost

REQUIREMENTS = "'mlagents-envs==0.28.0' 'protobuf>=3.20.3,<3.21' 'numpy>=2' setuptools"
_LOG_LINES = 15


class PlayerLost(EnvError):
    """The player died, hung or sent nonsense; another may take its place."""


class Layout(NamedTuple):
    """What a player's behaviour is made of; players that play side by side must agree."""

    sensors: tuple[tuple[str, tuple[int, ...], bool], ...]  # name, shape (H, W, C for an image), is it an image
    continuous: int
    branches: tuple[int, ...]


class PlayerProcess:
    """A worker process with its player; starting is done by the constructor, which waits for the first decisions.

    Raises:
        MissingExtra: the interpreter lacks mlagents_envs, or its protobuf is another than the stubs'.
        ConfigError: no such interpreter or behaviour, or no free port.
        EnvError: the player did not start; the message has its exit code, its last log lines and known causes.
    """

    def __init__(self, config: EnvConfig, seed: int, index: int = 0) -> None:
        """``index`` counts the players of one program, and is added to the worker id."""
        own = self._options = config.options
        self._own_logs = not own.unity_log_folder
        self.log_folder = Path(own.unity_log_folder or tempfile.mkdtemp(prefix="jaxdreamer-unity-")).absolute()
        self.log_folder.mkdir(parents=True, exist_ok=True)
        self.pid: int | None = None
        self._born: float | None = None
        endings.at_once(self, partial(_end_at_once, weakref.ref(self)))
        with open(self.log_folder / f"worker-{own.unity_worker_id + index}.log", "ab") as log:
            self._process = Process(
                "env.unity_python",
                own.unity_python,
                Path(__file__).with_name("unity_worker.py"),
                stderr=log,
                scratch=self.log_folder if self._own_logs else None,
            )
        settings = {name.removeprefix("unity_"): value for name, value in dataclasses.asdict(own).items()}
        settings |= {
            "file_name": str(Path(own.unity_file_name).absolute()) if own.unity_file_name else "",
            "worker_id": own.unity_worker_id + index,
            "log_folder": str(self.log_folder),
            "seed": seed,
        }
        try:
            self._process.send({"command": "start", "settings": settings})
            # Twice: the player may take its time to connect, and again until the first decision.
            ready, self.first = self._receive(2 * own.unity_timeout_wait + STARTING_SECONDS, starting=True)
            sensors = tuple((s["name"], tuple(s["shape"]), bool(s["image"])) for s in ready["sensors"])
            self.layout = Layout(sensors, int(ready["continuous"]), tuple(ready["branches"]))
            self.port, self.pid = int(ready["port"]), ready["pid"]
            self._born = _born(self.pid)
        except BaseException:
            self.close()
            raise

    def reset(self) -> None:
        """Begin all episodes anew; ``first`` holds the first decisions. PlayerLost."""
        self._process.send({"command": "reset"})
        self.first = self._receive(self._options.unity_timeout_wait + STARTING_SECONDS, starting=False)[1]

    def send_actions(self, continuous: np.ndarray, discrete: np.ndarray) -> None:
        """Ask for one exchange: float32 [n, c] and int32 [n, b], for the agents of the last steps in their order."""
        self._process.send({"command": "step"}, {"continuous": continuous, "discrete": discrete})

    def receive_steps(self) -> dict[str, np.ndarray]:
        """The steps that :meth:`send_actions` brought, see :mod:`~jaxdreamer.envs.unity.unity_worker`; PlayerLost."""
        return self._receive(self._options.unity_timeout_wait + wire.CLOSING_SECONDS, starting=False)[1]

    def close(self) -> None:
        """End the worker, the player and its children, and remove the logs unless a folder was asked for."""
        self._process.close()
        self._kill_player()

    def _kill_player(self) -> None:
        """For a worker that was killed: its player would wait for an answer that never comes."""
        if self.pid is not None and self._born is not None and _born(self.pid) == self._born:  # not another's number
            wire.kill_group(self.pid)

    def _receive(self, seconds: float, starting: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        try:
            return self._process.receive(seconds)
        except ProcessLost as error:
            raise PlayerLost(self._tell(str(error), None)) from error
        except Failed as error:
            self._raise(error.reason, str(error), error.exit_code, starting)
            raise AssertionError("unreachable") from error

    def _raise(self, reason: str, message: str, exit_code: int | None, starting: bool) -> None:
        if reason == "missing":
            raise MissingExtra(
                "jaxdreamer[unity]",
                f"Unity players need mlagents_envs with protobuf 3.20: {message}. Where that protobuf does not fit "
                "beside other libraries, give it an interpreter of its own:\n"
                f"python3 -m venv unity-venv && unity-venv/bin/pip install {REQUIREMENTS}\n"
                "and set env.unity_python=unity-venv/bin/python; else:",
            )
        if reason in ("setup", "behavior"):
            raise ConfigError(f"Unity player {self.name}: {message}")
        if reason == "range":
            raise EnvError(f"Unity player {self.name}: {message}; leave it out with env.exclude, or change the sensor")
        if not starting and reason == "died":
            raise PlayerLost(self._tell(message, exit_code))
        causes = "" if reason == "raised" else "\n" + self._causes(message)
        raise EnvError(f"{self._tell(message, exit_code)}{causes}")

    @property
    def name(self) -> str:
        """The player's file, or the Editor."""
        return self._options.unity_file_name or "in the Unity Editor"

    def _tell(self, message: str, exit_code: int | None) -> str:
        code = "" if exit_code is None else f"\nexit code {exit_code}"
        return f"Unity player {self.name}: {message}{code}{self._last_lines()}"

    def _last_lines(self) -> str:
        parts = []
        for path in sorted(self.log_folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            if lines:
                parts.append(f"\nlast lines of {path.name}:\n" + "\n".join(f"  {line}" for line in lines))
        return "".join(parts) or "\nit logged nothing"

    def _causes(self, message: str) -> str:
        if "expected shape" in message:
            return (
                "players built with com.unity.ml-agents 3 send images channels first, which mlagents-envs understands from "
                "1.0 on: set env.unity_python to a Python 3.10 that has mlagents-envs 1.1.0"
            )
        if "not compatible" in message:
            return (
                "Python and the player speak different protocols: build the player with a release of com.unity.ml-agents "
                "that has communication API 1 (1.0 and later), or set env.unity_python to an interpreter whose "
                "mlagents-envs belongs to the player's release"
            )
        display = "" if self._options.unity_no_graphics else "\n- no display: run under xvfb-run, or set "
        display += "" if self._options.unity_no_graphics else "env.unity_no_graphics=true where no sensor is an image"
        return (
            "known causes:\n"
            "- an agent's Behavior Parameters: Behavior Type must be Default, not Heuristic Only or Inference Only\n"
            "- the scene has no agent with a Decision Requester, or waits for somebody to click\n"
            "- the file is no player for this system and processor, or not executable (chmod -R 755)\n"
            f"- a slow first start: raise env.unity_timeout_wait, now {self._options.unity_timeout_wait} s\n"
            "- the player's com.unity.ml-agents and Python's mlagents-envs are of different releases" + display
        )


def _end_at_once(reference: weakref.ref[PlayerProcess]) -> None:
    """Without waiting: the worker follows when its standard input ends, with this program, and ends what it started."""
    player = reference()
    if player is None:
        return
    player._kill_player()
    if player._own_logs:
        shutil.rmtree(player.log_folder, ignore_errors=True)


def _born(pid: int | None) -> float | None:
    """When a process began; None where there is none of that number."""
    try:
        return None if pid is None else psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
