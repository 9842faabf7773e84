"""A run without an environment, ``env.id=none``: it learns from ``replay.data`` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from jaxdreamer.agent.algorithm import Policy
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.data.source import Source, open_source
from jaxdreamer.envs.base import EnvError
from jaxdreamer.train.evaluate import Play
from jaxdreamer.train.host.loop import HostLoop
from jaxdreamer.train.loop import Job
from jaxdreamer.types import EnvSpec, Timestep


class NoEnvs:
    """A :class:`~jaxdreamer.envs.base.VectorEnv` of one lane that nobody may step."""

    spaces: dict[str, Any] | None = None
    num_envs, frame_rate, agent_steps = 1, 1.0, 0
    can_render = overlaps = False
    restarts: int | None = None
    said: Mapping[int, dict[str, float]] = {}
    reset_mask = np.ones(1, bool)

    def __init__(self, spec: EnvSpec):
        self.spec, self.notes = spec, list[str]()

    def step(self, *_: Any) -> NoReturn:
        """There is nothing to step."""
        raise EnvError("env.id=none: this run has no environment to step")

    send = receive = reset_lane = render = step

    def abandon(self, lane: int) -> None:
        """No episode is under way."""

    def state(self) -> dict[str, Any]:
        """As any environment's, of a lane that never began."""
        return {"seed": 0, "agent_steps": 0, "lanes": [{}]}

    def restore(self, state: dict[str, Any], actions: Sequence[np.ndarray | None]) -> list[Timestep | None]:
        """It is where it was."""
        return [None]

    def close(self) -> None:
        """Nothing was opened."""


class NoWorld:
    """A :class:`~jaxdreamer.train.run.World` whose spec and spaces are those of the data."""

    name = "host"
    can_render = False

    def __init__(self, config: Config):
        self._config = config

    @cached_property
    def _source(self) -> Source:
        return open_source(self._config.replay.data, self._config.env)

    @property
    def spec(self) -> EnvSpec:
        """Of the data."""
        return self._source.spec

    @property
    def spaces(self) -> dict[str, Any] | None:
        """Those of the environment that the data is from, where it says them: a loaded agent acts in their units."""
        return self._source.spaces

    def loop(self, job: Job) -> HostLoop:
        """The loop of one run, which never steps."""
        return HostLoop(job, NoEnvs(self.spec), None)

    def player(self, policy: Policy, check: Callable[..., None] = lambda spec, can_render: None) -> Play:
        """There is nothing to play on."""
        raise ConfigError("env.id=none: this run has no environment to be evaluated in; load_agent acts without one")

    def close(self) -> None:
        """Nothing was opened."""
