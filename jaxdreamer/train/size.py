"""What cannot be trained, or needs more memory than there is, is refused before anything is allocated."""

from __future__ import annotations

import math

import jax

from jaxdreamer.agent.algorithm import Algorithm, Make
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.memory import refuse_beyond_memory
from jaxdreamer.nets.networks import Networks
from jaxdreamer.train.schedule import updates_in_a_call
from jaxdreamer.types import EnvSpec

__all__ = ["make_trainable"]


def make_trainable(
    config: Config, spec: EnvSpec, networks: Networks | None = None, make: Make | None = None
) -> Algorithm:
    """:func:`make_algorithm`, once it is certain that it can be trained on these observations and actions.

    Raises:
        ConfigError: a combination that only the environment's spec shows to be impossible.
        TooLarge: memory would not hold it.
    """
    empty = [key for key, item in spec.obs.items() if 0 in item.shape]
    if empty or not spec.obs or not spec.action.size:
        what = (
            f"observation {empty[0]!r} holds no numbers" if empty else "there is nothing to see, or nothing to decide"
        )
        raise ConfigError(f"{what}: the environment's spec is {spec.to_dict()}; leave such keys out of it")
    algorithm = make_algorithm(config, spec, networks, make=make)
    _check_size(config, spec, algorithm)
    return algorithm


def _check_size(config: Config, spec: EnvSpec, algorithm: Algorithm) -> None:
    """TooLarge where memory would not hold the least that learning takes; what the compiler adds is not counted."""
    model, replay, horizon = config.model, config.replay, config.behavior.imagine_horizon
    stoch = model.stoch_size * max(1, model.classes)
    entries = replay.batch_size * replay.batch_length
    dreams = 4 * entries * (horizon + 1) * (model.deter_size + stoch)
    refuse_beyond_memory(
        f"one update on {replay.batch_size:,} sequences of {replay.batch_length:,} entries, each continued by "
        f"{horizon:,} imagined steps,",
        dreams,
        "lower replay.batch_size, replay.batch_length, behavior.imagine_horizon or the sizes in model",
    )
    calls = updates_in_a_call(config.run.updates, config.run.updates_per_call)
    refuse_beyond_memory(
        f"{calls:,} batches of {replay.batch_size:,} sequences of {replay.batch_length:,} entries",
        calls * entries * sum(item.nbytes for item in spec.obs.values()),
        "lower replay.batch_size, replay.batch_length or run.updates_per_call",
    )
    parameters = jax.tree.leaves(jax.eval_shape(algorithm.init, jax.random.key(0)).params)
    refuse_beyond_memory(
        "the networks, their gradients and Adam's two moments",
        4 * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in parameters),
        "lower the sizes in model (stoch_size, classes, deter_size, hidden_size, embed_size, cnn_depth, units)",
    )
