"""Run telemetry: the divergence check, rates, and pictures of the model's predictions."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxdreamer.agent.algorithm import OpenLoop
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import unique_name
from jaxdreamer.record import video
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.saving import StorageError
from jaxdreamer.types import EnvSpec

_log = logging.getLogger("jaxdreamer")
MAX_SKIPPED_IN_A_ROW = 20


class Diverged(JaxdreamerError, RuntimeError):
    """Too many updates in a row had a loss or gradient that was not finite."""


def check_updates(worst: Mapping[str, Any], *, updates: int, agent_steps: int) -> None:
    """Raise Diverged where too many updates in a row were skipped.

    ``worst`` holds the metrics of the update that ended the longest run of skipped ones, ``skipped_in_a_row`` among them.
    """
    skipped = int(worst["skipped_in_a_row"])
    if skipped < MAX_SKIPPED_IN_A_ROW:
        return
    bad = [name for name, value in worst.items() if name.startswith("loss/") and not np.isfinite(value)]
    terms = [name for name in bad if name not in ("loss/model", "loss/actor", "loss/critic")] or bad
    raise Diverged(
        f"{skipped} updates in a row were skipped because they were not finite, up to update {updates} at "
        f"agent step {agent_steps}; first to look at: {', '.join(terms) or 'the gradients'}. Parameters are "
        "those of the last good update. Check the environment's rewards and observations for inf and nan, then "
        "lower the learning rates."
    )


_IN_WORDS = {
    "environment": "the environments' step",
    "policy": "the policy's decision",
    "sample": "the next batch",
    "update": "the current call of updates",
    "device": "the current call of the compiled loop",
    "evaluate": "the current step of the evaluation",
    "save": "writing a checkpoint",
}
"""By the clock's names."""


class Clock:
    """Where the time goes, and how fast frames and updates come. What is timed within something else counts once: there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        """In all, by name."""
        self.now = ""
        """What is being timed, by its name; empty in between."""
        self._booked = 0.0  # seconds within what is being timed that went to another name
        self.start(0, 0)

    @property
    def doing(self) -> str:
        """What is being timed, in words."""
        return _IN_WORDS.get(self.now, "the current step")

    def start(self, frames: int, updates: int) -> None:
        """Count from here."""
        self._since = (time.perf_counter(), frames, updates, dict(self.seconds))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``name``, but for what is booked on others meanwhile."""
        start, outer, self.now = time.perf_counter(), self.now, name
        booked, self._booked = self._booked, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] += spent - self._booked
            self._booked = booked + spent
            self.now = outer

    def book(self, name: str, seconds: float) -> None:
        """Say that so much of what is being timed was spent on ``name``."""
        self.seconds[name] += seconds
        self._booked += seconds

    def take(self, frames: int, updates: int) -> dict[str, float]:
        """Frames and updates per second and the shares of the time since the last call; starts anew."""
        then, old_frames, old_updates, before = self._since
        elapsed = max(time.perf_counter() - then, 1e-9)
        scalars = {
            "time/frames_per_second": (frames - old_frames) / elapsed,
            "time/updates_per_second": (updates - old_updates) / elapsed,
        }
        since = {name: seconds - before.get(name, 0.0) for name, seconds in self.seconds.items()}
        scalars |= {f"time/share_{name}": seconds / elapsed for name, seconds in since.items()}
        self.start(frames, updates)
        return scalars


@contextmanager
def spared() -> Iterator[None]:
    """Around the writing of a picture or a film: that it cannot be written must not cost the run."""
    try:
        yield
    except StorageError as error:
        _log.warning("the run continues without a picture: %s", error)


def save_open_loop(
    report: OpenLoop, spec: EnvSpec, rundir: RunDir, metrics: MetricsLog, *, context: int, counters: dict[str, int]
) -> None:
    """Save pictures of what the model makes of sequences from replay, and log its errors.

    Args:
        report: on the host. context: entries that the model saw.
        counters: ``agent_steps``, ``env_frames`` and ``updates``, for the log.
    """
    for key, error in report.error.items():
        scalars = {f"open_loop/{key}_seen": error[:context].mean(), f"open_loop/{key}": error[context:].mean()}
        metrics.write(scalars, **counters)
    for key, truth in report.truth.items():
        if spec.obs[key].kind != "image":
            continue
        model = report.model[key]
        rows = [
            video.open_loop_image(truth[:, b], model[:context, b], model[context:, b]) for b in range(truth.shape[1])
        ]
        image = np.concatenate(rows)
        with spared():
            video.save_image(rundir.videos / f"open_loop-{unique_name(key)}-{counters['env_frames']:012d}.png", image)
        metrics.image(f"open_loop/{key}", image, env_frames=counters["env_frames"])
