"""A trainer by hand, where a test looks into it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jaxdreamer.record import metrics
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.host.trainer import HostTrainer


@pytest.fixture
def start_host(tmp_path):
    """``start_host(config, envs, make_envs, name="run")``; everything it opened is closed at the end."""
    opened = []

    def start(config, envs, make_envs, name="run") -> HostTrainer:
        rundir = RunDir(tmp_path / name).acquire()
        log = metrics.MetricsLog(rundir.metrics)
        progress = Progress(config.run.frames, console=Console(file=io.StringIO()))
        opened.append((HostTrainer(config, envs, make_envs, rundir, log, progress), log, rundir))
        return opened[-1][0]

    yield start
    for trainer, log, rundir in opened:
        trainer.close()
        log.close()
        rundir.release()
