"""Environments stepped on the host, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax

from jaxdreamer.agent.algorithm import Policy
from jaxdreamer.config import Config
from jaxdreamer.envs.base import VectorEnv
from jaxdreamer.envs.registry import make_vector
from jaxdreamer.train.crew import ALONE, Crew
from jaxdreamer.train.evaluate import Play
from jaxdreamer.train.host.evaluate import make_evaluate
from jaxdreamer.train.host.loop import HostLoop
from jaxdreamer.train.host.shared_lanes import SharedLanes
from jaxdreamer.train.loop import Job
from jaxdreamer.train.scores import summary_of
from jaxdreamer.types import EnvSpec


class HostWorld:
    """A :class:`~jaxdreamer.train.run.World` whose environments are made when they are first needed."""

    name = "host"

    def __init__(self, config: Config, make: Callable[[], Any] | None = None, crew: Crew = ALONE):
        self._config, self._make, self._crew = config, make, crew

    @cached_property
    def envs(self) -> VectorEnv:
        """The training environments, of several processes those that this one steps."""
        env, processes = self._config.env, self._crew.processes
        count = env.num_envs // processes
        env = replace(env, workers=-(-env.workers // processes))
        first = self._crew.process * count
        return make_vector(env, count, self._config.seed, make=self._make, apart=True, first=first)

    @property
    def spec(self) -> EnvSpec:
        """Of the training environments."""
        return self.envs.spec

    @property
    def spaces(self) -> dict[str, Any] | None:
        """The environment's own spaces, by name."""
        return self.envs.spaces

    @property
    def can_render(self) -> bool:
        """Whether the training environments can be drawn."""
        return self.envs.can_render

    def loop(self, job: Job) -> HostLoop:
        """The loop of one run."""
        envs = self.envs if self._crew.alone else SharedLanes(self.envs, job.placement)
        return HostLoop(job, envs, self.player(job.algorithm.policy))

    def player(self, policy: Policy, check: Callable[[EnvSpec, bool], None] = lambda spec, can_render: None) -> Play:
        """Plays evaluations, each on environments of its own, which ``check`` may refuse."""

        def make_envs(count: int, seed: int) -> VectorEnv:
            envs = make_vector(self._config.env, count, seed, make=self._make)
            try:
                check(envs.spec, envs.can_render)
            except BaseException:
                envs.close()
                raise
            return envs

        key = jax.random.split(jax.random.key(self._config.seed), 3)[2]
        return make_evaluate(policy, make_envs, key, summary=summary_of(self._config.env))

    def close(self) -> None:
        """Close the training environments, where they were made."""
        if "envs" in self.__dict__:
            self.envs.close()
