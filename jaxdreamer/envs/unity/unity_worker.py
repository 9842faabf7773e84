"""The process beside a Unity player: the one place that imports ``mlagents_envs``, run in its own interpreter.

That interpreter may be another one than the trainer's (``env.unity_python``), without jaxdreamer, as old as Python 3.8:
this file imports the standard library, numpy, the ``wire`` of :mod:`jaxdreamer.envs.interpreter.worker`, which runs it, and
mlagents_envs when it is used. The trainer never imports it. After an error the player is gone.

    {"command": "start", "settings"}                                what :meth:`Served.describe` says, with steps
    {"command": "step"} with continuous [n, c] and discrete [n, b]  steps
    {"command": "reset"}                                            steps

Steps are those of the chosen behaviour's agents: n that ask for a decision, m whose episode ended.

    ============================  ==========================================================================
    id [n, 2]                     int64, team's number and agent's id
    reward [n], group_reward [n]  float32, since the agent's last step
    obs.K [n, ...]                of sensor K: uint8 [H, W, C] for an image, else float32
    allowed [n, choices]          bool, the branches side by side
    ended_id, ended_reward, ended_group_reward, ended_obs.K, interrupted [m]    the same for ended episodes
    ============================  ==========================================================================
"""

from __future__ import annotations

import atexit
import logging
import socket
import sys
import time
import traceback
from typing import Any, NamedTuple

import numpy as np
from wire import CLOSING_SECONDS, Failure, kill_group

EDITOR_PORT = 5004  # where the Unity Editor looks for Python
PORTS_TRIED = 200
EXCHANGES_TO_FIRST_DECISION = 200
SMALLEST_IMAGE = 8
LAST_MESSAGE_SECONDS = 1.0


class Sensor(NamedTuple):
    """One sensor of the behaviour; ``axes`` brings an image's axes into the order H, W, C."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None


class Served:
    """One Unity player, or the Editor, and the behaviour that is played in it."""

    def __init__(self) -> None:
        self._timeout, self._wanted = 0.0, ""
        self._env: Any = None
        self._names: list[str] = []
        self._sensors: list[Sensor] = []
        self._guard: socket.socket | None = None

    def obey(self, header: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """One command's reply; an error's reason is missing, setup, behavior, start, died, range or raised."""
        try:
            if header["command"] == "start":
                self.start(header["settings"])
                return self.describe(), self.steps()
            self.begin() if header["command"] == "reset" else self.step(arrays)
            return {}, self.steps()
        except Exception:
            self.close(0)  # first, so that its log is complete
            raise

    def start(self, settings: dict[str, Any]) -> None:
        """Launch the player, connect, and find the behaviour's first decisions; close() is due even if it fails."""
        self._timeout = float(settings["timeout_wait"])
        self._connect(settings, _load_library())
        self._wanted = settings["behavior_name"]
        self.begin()

    def _connect(self, settings: dict[str, Any], library: Any) -> None:
        from mlagents_envs.exception import UnityTimeOutException, UnityWorkerInUseException
        from mlagents_envs.side_channel.engine_configuration_channel import EngineConfigurationChannel

        file_name = settings["file_name"] or None
        # The library sends a player's output to nowhere unless its own logger asks for everything.
        logging.getLogger("mlagents_envs.env_utils").setLevel(logging.DEBUG)
        for port in self._ports(settings):
            channel = EngineConfigurationChannel()
            channel.set_configuration_parameters(
                time_scale=settings["time_scale"], quality_level=settings["quality_level"]
            )
            # Made in two steps: where __init__ raises, the player it launched must still be found and ended.
            self._env = env = library.__new__(library)
            worker_id = settings["worker_id"] if file_name else 0
            try:
                env.__init__(
                    file_name=file_name,
                    worker_id=worker_id,
                    base_port=port - worker_id,
                    seed=settings["seed"],
                    no_graphics=settings["no_graphics"] and file_name is not None,
                    timeout_wait=self._timeout,
                    additional_args=list(settings["additional_args"]),
                    side_channels=[channel],
                    log_folder=settings["log_folder"],
                )
                self.port = port
                return
            except UnityWorkerInUseException:
                atexit.unregister(env._close)  # there is nothing to close, and it would complain
                self._env = None
            except UnityTimeOutException as error:
                raise Failure("start", f"it did not connect within {self._timeout:g} s") from error
            except Exception as error:
                raise Failure("start", str(error), self._exit_code()) from error
        first = self._first_port(settings)
        if file_name is None:
            raise Failure("setup", f"port {first}, where the Unity Editor connects, is in use by another program")
        raise Failure("setup", f"ports {first} to {first + PORTS_TRIED - 1} are all in use: set env.unity_base_port")

    @staticmethod
    def _first_port(settings: dict[str, Any]) -> int:
        if settings["file_name"]:
            return settings["base_port"] + settings["worker_id"]
        return EDITOR_PORT if settings["base_port"] == EDITOR_PORT + 1 else settings["base_port"]

    def _ports(self, settings: dict[str, Any]) -> Any:
        first = self._first_port(settings)
        for port in range(first, min(65536, first + (PORTS_TRIED if settings["file_name"] else 1))):
            # The library's server shares its port with any other that asks (SO_REUSEPORT), so two started at the same
            # moment would answer each other's players. The UDP port of the same number is bound by one of them only.
            self._guard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self._guard.bind(("127.0.0.1", port))
            except OSError:
                self._guard.close()
                continue
            yield port
            self._guard.close()

    def begin(self) -> None:
        """Begin all episodes, and let time pass until the behaviour's first decisions."""
        env, wanted = self._env, self._wanted
        self._guarded(env.reset)
        for _ in range(EXCHANGES_TO_FIRST_DECISION):
            known = list(env.behavior_specs)
            names = [name for name in known if wanted in ("", name, name.split("?")[0])]
            if any(len(env.get_steps(name)[0]) for name in names):
                break
            self._guarded(env.step)
        else:
            if known and not names:
                raise Failure("behavior", f"the player has no behaviour {wanted!r}; it has: {', '.join(known)}")
            raise Failure(
                "behavior",
                f"no agent asked for a decision in {EXCHANGES_TO_FIRST_DECISION} exchanges: each needs Behavior "
                "Parameters with Behavior Type Default, and a Decision Requester",
            )
        specs = [env.behavior_specs[name] for name in names]
        layouts = [([(s.name, s.shape) for s in spec.observation_specs], spec.action_spec) for spec in specs]
        if len({name.split("?")[0] for name in names}) > 1 or any(layout != layouts[0] for layout in layouts):
            raise Failure("behavior", f"set env.unity_behavior_name: the player has {', '.join(names)}")
        self._sensors = [Sensor(s.name, tuple(s.shape), image_axes(s)) for s in specs[0].observation_specs]
        self._spec, self._names = specs[0], names

    def describe(self) -> dict[str, Any]:
        """What the trainer must know: sensors, actions, port, process."""
        action = self._spec.action_spec
        process = getattr(self._env, "_process", None)
        return {
            "sensors": [{"name": s.name, "shape": _shape(s), "image": s.axes is not None} for s in self._sensors],
            "continuous": int(action.continuous_size),
            "branches": [int(n) for n in action.discrete_branches],
            "port": self.port,
            "pid": None if process is None else process.pid,
        }

    def step(self, actions: dict[str, np.ndarray]) -> None:
        """One exchange: ``continuous`` [n, c] and ``discrete`` [n, b] for the agents of the last steps, in order."""
        from mlagents_envs.base_env import ActionTuple

        start = 0
        for name in self._names:
            stop = start + len(self._env.get_steps(name)[0])
            if stop > start:
                chosen = ActionTuple(actions["continuous"][start:stop], actions["discrete"][start:stop])
                self._env.set_actions(name, chosen)
            start = stop
        self._guarded(self._env.step)

    def steps(self) -> dict[str, np.ndarray]:
        """The arrays of the module's docstring."""
        pairs = [self._env.get_steps(name) for name in self._names]
        arrays: dict[str, np.ndarray] = {}
        for which, prefix in enumerate(("", "ended_")):
            parts = [pair[which] for pair in pairs]
            ids = [np.stack([np.full(len(p), t), p.agent_id], 1) for t, p in enumerate(parts)]
            arrays[prefix + "id"] = np.concatenate(ids).astype(np.int64)
            for field in ("reward", "group_reward"):
                values = np.concatenate([np.asarray(getattr(p, field), np.float32) for p in parts])
                arrays[prefix + field] = values
            for k, sensor in enumerate(self._sensors):
                values = np.concatenate([np.asarray(p.obs[k], np.float32) for p in parts])
                arrays[f"{prefix}obs.{k}"] = values if sensor.axes is None else to_image(values, sensor)
        arrays["interrupted"] = np.concatenate([np.asarray(p[1].interrupted, bool) for p in pairs])
        branches = self._spec.action_spec.discrete_branches
        allowed = []
        for decisions, _ in pairs:
            if branches and decisions.action_mask is not None:
                allowed.append(~np.concatenate([np.asarray(m, bool) for m in decisions.action_mask], axis=1))
            else:
                allowed.append(np.ones((len(decisions), int(sum(branches))), bool))
        arrays["allowed"] = np.concatenate(allowed)
        return arrays

    def _guarded(self, call: Any) -> None:
        """An exchange with the player; Failure where the player is gone, hangs or sends nonsense."""
        try:
            call()
        except Exception as error:
            code = self._exit_code()
            if code is None and type(error).__name__ == "UnityTimeOutException":
                raise Failure("died", f"it did not answer within {self._timeout:g} s") from error
            raise Failure("died", f"{type(error).__name__}: {error}", code) from error

    def _exit_code(self) -> int | None:
        process = getattr(self._env, "_process", None)
        return None if process is None else process.poll()

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """End the player, with whatever it started; it has some seconds to do so by itself."""
        env, self._env = self._env, None
        if env is None:
            return
        process = getattr(env, "_process", None)
        try:
            env._close(seconds)
        except Exception:
            traceback.print_exc()  # into the log: what matters is that the process ends, below
        if process is not None:
            kill_group(process.pid)
            process.wait()
        if self._guard is not None:
            self._guard.close()

    def kill(self) -> None:
        """End the player at once, whatever this process is doing."""
        process = getattr(self._env, "_process", None)
        if process is not None:
            kill_group(process.pid)


def image_axes(spec: Any) -> tuple[int, ...] | None:
    """The axes of a sensor in the order H, W, C where it holds images, else None."""
    shape = tuple(spec.shape)
    if len(shape) != 3:
        return None
    spatial = [i for i, p in enumerate(spec.dimension_property) if int(p) & 2]  # translational equivariance
    if len(spatial) != 2:  # players before API 1.5 do not say; channels are the last axis, or the first in newer ones
        spatial = [1, 2] if shape[0] < min(shape[1:]) and shape[2] >= SMALLEST_IMAGE else [0, 1]
    if min(shape[i] for i in spatial) < SMALLEST_IMAGE:
        return None
    return (*spatial, ({0, 1, 2} - set(spatial)).pop())


def to_image(values: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Floats [n, ...] in [0, 1] as uint8 [n, H, W, C]; Failure for others, which a picture cannot hold."""
    assert sensor.axes is not None
    if values.size and not (np.isfinite(values).all() and values.min() > -1e-3 and values.max() < 1 + 1e-3):
        raise Failure(
            "range",
            f"sensor {sensor.name!r} is an image by its shape {sensor.shape}, but its values lie in "
            f"[{values.min():g}, {values.max():g}] instead of [0, 1]",
        )
    image = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return image.transpose(0, *(axis + 1 for axis in sensor.axes))


def _shape(sensor: Sensor) -> list[int]:
    return list(sensor.shape if sensor.axes is None else (sensor.shape[axis] for axis in sensor.axes))


def _load_library() -> Any:
    """mlagents_envs' environment, with a communicator that notices a dead player at once."""
    try:
        import google.protobuf
    except ImportError as error:
        raise Failure("missing", f"{sys.executable} cannot import protobuf: {error}") from error
    version = google.protobuf.__version__
    if tuple(int(n) for n in version.split(".")[:2]) > (3, 20):
        raise Failure("missing", f"the stubs of mlagents_envs need protobuf 3.20, {sys.executable} has {version}")
    try:
        from mlagents_envs.communicator_objects.unity_message_pb2 import UnityMessageProto
        from mlagents_envs.environment import UnityEnvironment
        from mlagents_envs.exception import UnityTimeOutException
        from mlagents_envs.rpc_communicator import RpcCommunicator
    except ImportError as error:
        raise Failure("missing", f"{sys.executable} cannot import mlagents_envs: {error}") from error

    class Communicator(RpcCommunicator):
        def poll_for_timeout(self, poll_callback: Any = None) -> None:
            # The library looks after the process ten times in a timeout: with 60 s a dead player costs six of them.
            deadline = time.monotonic() + self.timeout_wait
            while time.monotonic() < deadline:
                if self.unity_to_external.parent_conn.poll(0.1):
                    return
                if poll_callback:
                    poll_callback()
            raise UnityTimeOutException("no answer")

        def initialize(self, inputs: Any, poll_callback: Any = None) -> Any:
            self.poll_for_timeout(poll_callback)
            output = self.unity_to_external.parent_conn.recv().unity_output
            message = UnityMessageProto()
            message.header.status = 200
            message.unity_input.CopyFrom(inputs)
            self.unity_to_external.parent_conn.send(message)
            self.poll_for_timeout(poll_callback)  # the library would wait here for ever
            self.unity_to_external.parent_conn.recv()
            return output

        def close(self) -> None:
            # The library stops its server at once: its last message, that the player is to end, may never get there.
            if self.is_open:
                message = UnityMessageProto()
                message.header.status = 400
                self.unity_to_external.parent_conn.send(message)
                self.server.stop(LAST_MESSAGE_SECONDS).wait()
            super().close()

    class Environment(UnityEnvironment):
        @staticmethod
        def _get_communicator(worker_id: int, base_port: int, timeout_wait: float) -> Any:
            return Communicator(worker_id, base_port, timeout_wait)

    return Environment
