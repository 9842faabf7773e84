"""DreamerV1 and DreamerV2: one algorithm, of which a preset is data."""

from __future__ import annotations

from functools import partial

from jaxdreamer.agent.algorithm import Algorithm
from jaxdreamer.agent.begin import begin
from jaxdreamer.agent.learner import make_learner
from jaxdreamer.agent.open_loop import open_loop
from jaxdreamer.agent.policy import acting, keeping, make_policy
from jaxdreamer.agent.world import make_world
from jaxdreamer.config import Config
from jaxdreamer.nets.networks import Networks, make_networks
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.types import EnvSpec


def make(config: Config, spec: EnvSpec, networks: Networks | None = None, across: Across = ALONE) -> Algorithm:
    """The algorithm of a configuration for an environment's observations and actions.

    ``across``: see :func:`~jaxdreamer.agent.learner.make_learner`.
    """
    networks = networks or make_networks(config.model, spec)
    learner = make_learner(config, spec, networks, across)
    return Algorithm(
        init=learner.init,
        update=learner.update,
        policy=make_policy(config, spec, networks, across),
        acting=acting,
        open_loop=partial(open_loop, networks),
        keep=keeping(config),
        world=make_world(config, networks),
        begin=begin,
    )
