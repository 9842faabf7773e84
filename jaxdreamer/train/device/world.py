"""Environments as pure functions, trained and evaluated inside compiled programs."""

from __future__ import annotations

from collections.abc import Callable

from jaxdreamer.agent.algorithm import Policy
from jaxdreamer.config import Config
from jaxdreamer.envs.device.functional import FunctionalEnv
from jaxdreamer.train.device.evaluate import make_evaluate
from jaxdreamer.train.device.loop import DeviceLoop
from jaxdreamer.train.evaluate import Play
from jaxdreamer.train.loop import Job
from jaxdreamer.types import EnvSpec


class DeviceWorld:
    """A :class:`~jaxdreamer.train.run.World` of one functional environment."""

    name = "device"
    spaces = None

    def __init__(self, config: Config, env: FunctionalEnv):
        self._config, self._env = config, env
        self.spec, self.can_render = env.spec, env.render is not None

    def loop(self, job: Job) -> DeviceLoop:
        """The loop of one or several seeds."""
        if bound := self._config.env.action_bound:
            job.progress.log(f"env.action_bound={bound:g} is not used: every action has bounds of its own")
        return DeviceLoop(job, self._env, self.player(job.algorithm.policy))

    def player(self, policy: Policy, check: Callable[[EnvSpec, bool], None] = lambda spec, can_render: None) -> Play:
        """Plays evaluations, of the environment that ``check`` may refuse."""
        check(self.spec, self.can_render)
        return make_evaluate(self._config.env, self._env, policy)

    def close(self) -> None:
        """Nothing is held."""
