"""The settings of a stored run: ``config.json``, those that its checkpoints were trained with, and the difference."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdreamer import config as configs
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir

__all__ = ["checkpoints_of", "figures_of", "naming_rewrite", "read_config", "trained_config", "warn_if_edited"]

_log = logging.getLogger("jaxdreamer")


def read_config(rundir: RunDir) -> Config:
    """The configuration in the run's folder; where ``config.json`` is gone, that of its newest checkpoint."""
    if not rundir.exists and (trained := trained_config(rundir)) is not None:
        _log.warning("%s is missing: the newest checkpoint's settings are used", rundir.config)
        return trained
    rundir.check_exists()
    try:
        return configs.load(rundir.config)
    except JaxdreamerError as error:
        if not checkpoint.steps(rundir.checkpoints):
            raise
        raise type(error)(f"{error}; if you delete it, the newest checkpoint's settings are used") from error


def trained_config(rundir: RunDir) -> Config | None:
    """The configuration that the newest readable checkpoint was trained with; None where there is none."""
    for step, host in sorted(checkpoint.hosts(rundir.checkpoints).items(), reverse=True):
        if isinstance(host.get("config"), dict):
            try:
                return configs.from_dict(host["config"])
            except ConfigError as error:
                raise ConfigError(f"{rundir.checkpoints}, step {step}: {error}") from error
    return None


def checkpoints_of(rundir: RunDir, best: bool) -> Path:
    """The folder of a run's newest checkpoints, or of its best one; CheckpointMissing where none was kept."""
    if best and not checkpoint.steps(rundir.best):
        raise checkpoint.CheckpointMissing(
            f"{rundir.path} has no best checkpoint: it is kept by runs that are trained with run.keep_best=true, from "
            "their first evaluation on"
        )
    return rundir.best if best else rundir.checkpoints


def figures_of(host: dict[str, Any]) -> dict[str, Any] | None:
    """Of an agent saved by itself, without optimizers and replay: what is known of its run. None for a run's checkpoint."""
    figures = host.get("figures")
    return figures if isinstance(figures, dict) else None


def warn_if_edited(rundir: RunDir, config: Config, host: dict[str, Any]) -> None:
    """Log which settings are not those that the checkpoint with this ``host`` was trained with."""
    if isinstance(host.get("config"), dict):
        for key, (old, new) in configs.difference(configs.from_dict(host["config"]), config).items():
            _log.warning("%s says %s=%r, but the checkpoint was trained with %r", rundir.config, key, new, old)


@contextlib.contextmanager
def naming_rewrite(rundir: RunDir) -> Iterator[None]:
    """Around the reading of ``spec.json``: adds the command that rewrites the file to an error."""
    try:
        yield
    except JaxdreamerError as error:
        raise type(error)(f"{error}; or have it rewritten by: {rundir.train_command}") from error
