"""What a new run begins to learn from, instead of fresh weights: another run's, or a train state at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Make
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.nets.networks import Networks
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.folder import began_with, describe, load_run
from jaxdreamer.train.loop import Loop
from jaxdreamer.types import EnvSpec, PyTree, TrainState

__all__ = ["begin_with", "begin_with_run"]


def begin_with(loop: Loop, start: TrainState) -> None:
    """Learn on from ``start`` in every seed. ConfigError where it is of other networks."""
    expected, found = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (loop.state, start))
    if expected != found:
        raise ConfigError(
            "start: the train state given is of other networks or optimizers than this configuration's: "
            f"expected {expected}, found {found}"
        )
    loop.set_states([start] * len(loop.runs))
    loop.segments.random = False  # what was learned plays the prefill
    for run in loop.runs:
        run.tally.updates, run.tally.skipped = int(start.updates), int(start.skipped)


def begin_with_run(loop: Loop, make: Make | None, networks: Networks | None) -> None:
    """Begin every seed with the weights that ``run.start`` and ``run.start_parts`` name; all else stays fresh.

    Raises:
        ConfigError: there is no run, or it is of other spaces or networks; the message says what differs.
        CheckpointMissing, CheckpointDamaged: as for :func:`jaxdreamer.record.checkpoint.restore`.
    """
    config, parts = loop.config, loop.config.run.start_parts
    source = RunDir(config.run.start)
    stored, spec = load_run(source.path)
    _refuse_other_spaces(source, spec, loop.spec)
    if stored.algorithm != config.algorithm:
        raise ConfigError(
            f"run.start: {source.path} was trained by algorithm={stored.algorithm}, this run has "
            f"algorithm={config.algorithm}, which learns other things: use that one"
        )
    made = make_algorithm(stored, spec, networks, make=make)
    learned, _, step = checkpoint.restore_learned(source.checkpoints, made)
    fresh = [loop.state_of(index) for index in range(len(loop.runs))]
    begun = [loop.algorithm.begin(state, learned["params"], learned["aux"], parts) for state in fresh]
    _refuse_other_networks(source, fresh[0], begun[0], stored, config)
    loop.set_states(begun)
    if parts == "all":
        loop.segments.random = False
    loop.progress.log(f"begins with the {began_with(config)}, as of its checkpoint {step:,}")


def _refuse_other_spaces(source: RunDir, there: EnvSpec, here: EnvSpec) -> None:
    if there == here:
        return
    old, new = dict(describe(there)), dict(describe(here))
    differ = [label for label in {**new, **old} if old.get(label) != new.get(label)]
    lines = [f"  {label}: that run has {old.get(label, 'none')}, this one {new.get(label, 'none')}" for label in differ]
    raise ConfigError(
        f"run.start: {source.path} was trained on other observations or actions, so its networks do not fit:\n"
        + "\n".join(lines or [f"  that run has {there.to_dict()}, this one {here.to_dict()}"])
        + "\nstart from a run with the same spaces (the reward may differ), or without one"
    )


def _refuse_other_networks(source: RunDir, fresh: TrainState, begun: TrainState, there: Config, here: Config) -> None:
    of_arrays: Callable[[Any], PyTree] = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    if of_arrays(fresh) == of_arrays(begun):
        return
    differ = {key: pair for key, pair in configs.difference(there, here).items() if key.startswith("model.")}
    lines = [f"  {key}: that run has {old!r}, this one {new!r}" for key, (old, new) in differ.items()]
    raise ConfigError(
        f"run.start: the networks of {source.path} are not this run's:\n"
        + "\n".join(lines or ["  what train_agent was given as networks or algorithm"])
        + "\ngive the new run these settings (without --preset it has all of that run's)"
        + (", or take less: run.start_parts=world_model" if here.run.start_parts == "all" else "")
    )
