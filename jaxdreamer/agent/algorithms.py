"""The algorithms there are, by name."""

from __future__ import annotations

from importlib import import_module

from jaxdreamer.agent.algorithm import Algorithm, Make
from jaxdreamer.config import Config
from jaxdreamer.errors import ConfigError, nearest
from jaxdreamer.nets.networks import Networks
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.types import EnvSpec

# The module whose ``make`` it is, loaded when it is used.
ALGORITHMS = {
    "dreamer": "jaxdreamer.agent.dreamer",
    "dreamer_v3": "jaxdreamer.agent.dreamer_v3",
}


def make_algorithm(
    config: Config,
    spec: EnvSpec,
    networks: Networks | None = None,
    *,
    make: Make | None = None,
    across: Across = ALONE,
) -> Algorithm:
    """The algorithm that ``config.algorithm`` names, for an environment's observations and actions.

    Args:
        networks: instead of those that ``config.model`` describes.
        make: makes it instead, as ``make(config, spec, networks)``.
        across: who has the other parts of a batch, see :func:`~jaxdreamer.agent.learner.make_learner`.

    Raises:
        ConfigError: there is none of that name.
    """
    if make is None and config.algorithm not in ALGORITHMS:
        hint = nearest(config.algorithm, ALGORITHMS)
        raise ConfigError(
            f"algorithm: there is no {config.algorithm!r}{hint}; there are: {', '.join(sorted(ALGORITHMS))}. One of your "
            "own is handed to train_agent, evaluate_agent and load_agent as algorithm=..."
        )
    make = make or import_module(ALGORITHMS[config.algorithm]).make
    return make(config, spec, networks) if across is ALONE else make(config, spec, networks, across=across)
