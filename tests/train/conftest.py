"""A trainer by hand, where a test looks into it."""

from __future__ import annotations

import io

import jax
import pytest
from rich.console import Console

from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.record import metrics
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.host.evaluate import make_evaluate
from jaxdreamer.train.host.loop import HostLoop
from jaxdreamer.train.loop import Job, Run


@pytest.fixture
def start_host(tmp_path):
    """``start_host(config, envs, make_envs, name="run")``; everything it opened is closed at the end."""
    opened = []

    def start(config, envs, make_envs, name="run") -> HostLoop:
        rundir = RunDir(tmp_path / name).acquire()
        log = metrics.MetricsLog(rundir.metrics)
        progress = Progress(config.run.frames, console=Console(file=io.StringIO()))
        algorithm = make_algorithm(config, envs.spec)
        play = make_evaluate(algorithm.policy, make_envs, jax.random.key(config.seed))
        trainer = HostLoop(Job(algorithm, [Run(config, rundir, log)], progress), envs, play)
        opened.append((trainer, log, rundir))
        return trainer

    yield start
    for trainer, log, rundir in opened:
        trainer.close()
        trainer.envs.close()
        log.close()
        rundir.release()
