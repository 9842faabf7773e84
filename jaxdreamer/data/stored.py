"""The episodes in the newest checkpoint of a run, wherever it was trained."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxdreamer import config as configs
from jaxdreamer.config import Config
from jaxdreamer.data.episodes import DataError, Episode, split
from jaxdreamer.envs.host.spaces import read_spec
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import naming_rewrite, read_config
from jaxdreamer.replay import disk
from jaxdreamer.types import EnvSpec

__all__ = ["open_run", "stored_episodes"]

_log = logging.getLogger("jaxdreamer")


def open_run(path: str | os.PathLike[str]) -> tuple[RunDir, Config, EnvSpec]:
    """A run's folder, settings and spec. ConfigError for a folder that holds none."""
    rundir = RunDir(path)
    config = read_config(rundir)
    with naming_rewrite(rundir):
        return rundir, config, read_spec(rundir.spec)


def stored_episodes(rundir: RunDir, config: Config, spec: EnvSpec) -> Iterator[Episode]:
    """The replay of a run's newest undamaged checkpoint as episodes, see :func:`~jaxdreamer.data.episodes.split`.

    Raises:
        CheckpointMissing, CheckpointDamaged: as :func:`jaxdreamer.record.checkpoint.restore`.
        ReplayDamaged: a file of the replay is missing or altered.
    """
    for step in sorted(checkpoint.steps(rundir.checkpoints), reverse=True):
        try:
            host = checkpoint.read_host(rundir.checkpoints, step)
        except checkpoint.CheckpointDamaged as error:
            _log.warning("checkpoint %d is damaged and skipped: %s", step, error)
            continue
        if host.get("loop") == "device":
            return split([_rows_on_device(rundir, config, spec, host, step)], spec.layout)
        return split(disk.blocks(rundir.replay, host.get("replay"), spec), spec.layout)
    # There is none: this says so in the words that every reader of checkpoints has.
    checkpoint.restore(rundir.checkpoints, {})
    raise DataError(f"{rundir.path} holds no checkpoint")


def _rows_on_device(
    rundir: RunDir, config: Config, spec: EnvSpec, host: Mapping[str, Any], step: int
) -> dict[str, np.ndarray]:
    """Rows of the ring that a loop on the device keeps in its checkpoints, oldest first."""
    trained = configs.from_dict(host["config"])
    shape = (host["replay_rows"], trained.env.num_envs)
    like = {name: jax.ShapeDtypeStruct((*shape, *inner), dtype) for name, (inner, dtype) in spec.layout.items()}
    entries: dict[str, Any] = {name: item for name, item in like.items() if not name.startswith("obs/")}
    entries["obs"] = {name.removeprefix("obs/"): item for name, item in like.items() if name.startswith("obs/")}
    position = jax.ShapeDtypeStruct((), np.int32)
    place = ("loop", "replay")
    tree, _, _ = checkpoint.restore(
        rundir.checkpoints,
        {"loop": {"replay": {"entries": entries, "position": position}}},
        step,
        within=[(*place, "position"), *((*place, "entries", name) for name in entries)],
    )
    ring = tree["loop"]["replay"]
    obs = ring["entries"].pop("obs")
    rows = {name: np.asarray(value) for name, value in ring["entries"].items()}
    rows |= {f"obs/{name}": np.asarray(value) for name, value in obs.items()}
    # A ring that is not full was cut behind its newest row: position is then 0 or its length.
    return {name: np.roll(value, -int(ring["position"]), axis=0) for name, value in rows.items()}
