"""How much memory a run's networks and batches need; too much is refused, naming the settings, before anything is made."""

from __future__ import annotations

import math

import jax

from jaxdreamer.config import Config
from jaxdreamer.memory import refuse_beyond_memory
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.train.schedule import updates_in_a_call
from jaxdreamer.types import EnvSpec

__all__ = ["check_size"]


def check_size(config: Config, spec: EnvSpec) -> None:
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
    parameters = jax.tree.leaves(jax.eval_shape(make_networks(model, spec).init, jax.random.key(0)))
    refuse_beyond_memory(
        "the networks, their gradients and Adam's two moments",
        4 * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in parameters),
        "lower the sizes in model (stoch_size, classes, deter_size, hidden_size, embed_size, cnn_depth, units)",
    )
