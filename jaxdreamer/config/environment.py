"""The settings of an environment: those of every backend, and the base of the options that only some have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxdreamer import families, values
from jaxdreamer.config.settings import Settings, hints, setting
from jaxdreamer.errors import ConfigError, nearest, shown
from jaxdreamer.files import safe_name

NO_ENV = "none"
"""The ``env.id`` of a run that has no environment: it learns from ``replay.data`` alone."""


@dataclass(frozen=True)
class Options(Settings):
    """Settings of an environment that only some backends have; a backend's record names its own subclass.

    An option is written ``env.NAME`` or ``NAME``. One of the same name in several backends means the same in all of them.
    """


@dataclass(frozen=True)
class CameraOptions(Options):
    """Where MuJoCo's models are seen from."""

    camera: str = ""
    """MuJoCo camera that draws, by name or number; -1 is the free camera. Empty: the task's own."""


@dataclass(frozen=True)
class DrawingOptions(CameraOptions):
    """How MuJoCo draws."""

    render_quality: Literal["auto", "full", "fast"] = "auto"
    """Drawing of MuJoCo tasks. fast: no shadows, reflections, multisampling. auto: fast where no GPU draws, else full."""


@dataclass(frozen=True)
class EnvConfig(Settings):
    """Which environment, and how it is seen and stepped."""

    id: str = "Pendulum-v1"
    """The task's name in its library. none: there is no environment, only replay.data."""
    backend: str = "gym"
    """Which library makes it; `jaxdreamer envs` lists what is installed."""
    obs: Literal["auto", "state", "pixels", "both"] = "auto"
    """What the agent sees: the task's own observation, rendered pixels, or both. auto: the task's own."""
    image_size: tuple[int, int] = setting((64, 64), 8, 4096)
    """Height and width of every image, in pixels."""
    action_repeat: int = setting(1, 1, 1_000_000)
    """Simulator steps per agent step. Stops early where the episode ends; the rewards are added up."""
    time_limit: int = 0
    """Longest episode in agent steps; reaching it ends the episode without being terminal. 0: the task's own limit."""
    num_envs: int = setting(1, 1, 2**20)
    """Environments stepped side by side."""
    exclude: tuple[str, ...] = ()
    """Observation keys to leave out, as globs."""
    action_bound: float = 0.0
    """Half-width given to action dimensions without finite bounds. 0: such a space is refused."""
    workers: int = setting(0, 0, 1024, free=True)
    """Processes the environments run in, sharing them evenly. 0: this one."""
    worker_timeout: float = setting(120.0, 1e-3, 1e6, free=True)  # the system's own limit is 2^31 milliseconds
    """Seconds after which a worker process that does not answer is taken for hung."""
    max_restarts: int = setting(3, free=True)
    """How often in a row, with no episode finished in between, a failed worker process is started again."""
    options: Any = None
    """What only this backend has, such as BraxOptions(brax_backend="spring"), or a mapping of it. None: its defaults."""

    def __post_init__(self) -> None:
        backend = values.convert(str, "backend", self.backend)
        object.__setattr__(self, "options", _read_options(backend, self.options))
        super().__post_init__()

    @property
    def task(self) -> str:
        """What the task is called in the names of folders."""
        if self.backend == "custom" and self.id == type(self).id:
            return "custom"  # made by a function, which says no name
        record = families.find(self.backend)
        return safe_name(record.label(self) if record and record.label else self.id)


def options_of(backend: str) -> type[Options]:
    """The options of a backend given by any of its names.

    Those of one that this program has not registered, or whose environments it makes itself (``custom``), are those of any
    environment on the host, which MuJoCo may draw.
    """
    record = families.find(backend)
    if record is not None and record.options is not None:
        return record.options
    return DrawingOptions if record is None or record.kind == "host" else Options


def _read_options(backend: str, given: Any) -> Options:
    """``given`` as the options of ``backend``; ConfigError for one that belongs to another backend, or to none."""
    kind = options_of(backend)
    if type(given) is kind:
        return given
    if isinstance(given, Options):  # of another backend: what was set must exist here, too
        given = changed(given)
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"env.options: expected {kind.__name__} or a mapping, found {shown(given)}")
    own = {item.name for item in dataclasses.fields(kind)}
    for name in [name for name in given or {} if name not in own]:
        owners = [item for item in families.records() if name in hints(options_of(item))]
        if not owners:
            raise ConfigError(f"env.options: there is no option {shown(name)}{nearest(str(name), own)}")
        raise ConfigError(
            f"env.{name} is an option of env.backend={' or '.join(owners)}; {shown(backend)} has "
            f"{', '.join(sorted(own)) or 'no options'}"
        )
    return kind(**(given or {}))


def changed(options: Options) -> dict[str, Any]:
    """The options that are not at their defaults, by name."""
    fields_ = dataclasses.fields(options)
    return {item.name: value for item in fields_ if (value := getattr(options, item.name)) != item.default}


def replace_env(env: EnvConfig, changes: Mapping[str, Any]) -> EnvConfig:
    """A copy with settings changed, by bare name, options of its backend among them."""
    own: dict[str, Any] = {name: value for name, value in changes.items() if name in hints(EnvConfig)}
    if options := {name: value for name, value in changes.items() if name not in own}:
        own["options"] = changed(env.options) | options
    return dataclasses.replace(env, **own)


def with_metadata(env: EnvConfig, name: str) -> dict[str, Any]:
    """Metadata ``name`` of the settings of ``env`` whose field has it, by bare name."""
    fields = [*dataclasses.fields(env), *dataclasses.fields(env.options)]
    return {item.name: item.metadata[name] for item in fields if item.metadata.get(name)}
