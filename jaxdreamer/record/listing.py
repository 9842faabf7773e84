"""The runs in a folder, and how each is doing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxdreamer.config import Config, ConfigError
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import FileMissing, at_home
from jaxdreamer.record import checkpoint, metrics, sessions
from jaxdreamer.record.pace import in_words
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import figures_of, read_config

__all__ = ["COLUMNS", "LEAST", "Listed", "find", "look", "table"]


class Listed(NamedTuple):
    """One run. What is not known is None: of a broken run perhaps everything but the folder."""

    folder: str
    state: str  # finished, running, stopped, killed or broken; agent for one saved by itself
    why: str  # what is broken, or how a run that is not over goes on
    environment: str | None = None
    backend: str | None = None
    preset: str | None = None
    algorithm: str | None = None
    seed: int | None = None
    frames: int | None = None
    budget: int | None = None
    last: float | None = None  # mean returns of evaluations
    best: float | None = None
    best_at: int | None = None  # frames
    written: float | None = None  # seconds since 1970, when the run last said something


def find(folder: str | os.PathLike[str]) -> list[Listed]:
    """Every run in a folder and the folders below it, or the run that it is; the one written to last comes first.

    Links are not followed, and nothing inside a run is looked for. Raises ConfigError where there is no such folder.
    """
    folder = at_home(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give one that holds runs")
    return sorted(map(look, _runs(folder)), key=lambda run: -(run.written or 0))


def _runs(folder: Path) -> Iterator[Path]:
    for path, inside, files in os.walk(folder):
        if "saved" in files or ("config.json" in files and {"metrics.jsonl", "spec.json"} & set(files)):
            yield Path(path)
            inside.clear()
        inside[:] = sorted(name for name in inside if not name.startswith("."))


def look(path: Path) -> Listed:
    """How one run is doing."""
    run = RunDir(path)
    known: dict[str, Any] = {"folder": str(path), "written": _written(run)}
    try:
        config = read_config(run)
        known |= {
            "environment": config.env.task,
            "backend": config.env.backend,
            "preset": config.preset,
            "algorithm": config.algorithm,
            "seed": config.seed,
            "budget": config.run.frames,
        }
        known |= _progress(run, config)
        state, why = _state(run)
    except JaxdreamerError as error:
        state, why = "broken", str(error)
    return Listed(state=state, why=why, **known)


def _written(run: RunDir) -> float | None:
    times = [path.stat().st_mtime for path in (run.metrics, run.sessions, run.config) if path.is_file()]
    return max(times, default=None)


def _progress(run: RunDir, config: Config) -> dict[str, Any]:
    # A checkpoint may be newer than the last line of the log, and the other way round.
    tallies = [host.get("tally") for host in checkpoint.hosts(run.checkpoints).values()]
    steps = [tally.get("agent_steps") for tally in tallies if isinstance(tally, dict)]
    frames = [step * config.env.action_repeat for step in steps if isinstance(step, int)]
    try:
        records = metrics.read(run.metrics)
    except FileMissing:
        return {"frames": max(frames, default=0)}
    frames += [record.get("env_frames") or 0 for record in records]
    found: dict[str, Any] = {"frames": max(frames, default=0)}
    points = metrics.curve(records, "eval/return")
    if points:
        best_at, best = max(points, key=lambda point: point[1])
        found |= {"last": points[-1][1], "best": best, "best_at": best_at}
    return found


def _state(run: RunDir) -> tuple[str, str]:
    writer = run.writer
    if writer is not None and writer[1]:
        return "running", f"on {writer[0]}"
    steps = checkpoint.steps(run.checkpoints)
    if not steps:
        if run.saved:
            return "broken", f"its checkpoints are missing: restore {run.checkpoints}, or start over with --start-over"
        return ("killed" if writer else "stopped"), f"before its first checkpoint; begin again: {run.train_command}"
    host = checkpoint.read_host(run.checkpoints, steps[-1])  # a damaged one is broken, and its error says so
    if figures_of(host) is not None:
        return "agent", "saved without its run; load_agent and --start take it"
    if host.get("finished_at") == steps[-1]:
        return "finished", ""
    last = sessions.read(run.sessions)[-1:]
    if last and "failed" in last[0]:
        return "broken", str(last[0]["failed"])
    return ("killed" if writer else "stopped"), f"go on: {run.train_command}"


COLUMNS = ("run", "state", "environment", "preset", "seed", "frames", "last", "best", "written")


LEAST = ("written", "seed", "preset")
"""Columns that a narrow terminal goes without, in this order."""


def table(runs: list[Listed], root: Path, now: float | None = None) -> list[tuple[str, ...]]:
    """A line of texts for each run, under COLUMNS; folders are written from ``root`` on."""
    now = time.time() if now is None else now
    lines: list[tuple[str, ...]] = []
    for run in runs:
        name = "".join(c if c.isprintable() else "?" for c in os.path.relpath(run.folder, root))
        age = "" if run.written is None else f"{in_words(max(0.0, now - run.written))} ago"
        frames = "" if run.frames is None else f"{run.frames:,}"
        if run.budget and run.frames is not None and run.state != "finished":
            frames += f" ({100 * run.frames / run.budget:.0f}%)"
        best = "" if run.best is None else f"{run.best:.4g} at {run.best_at:,}"
        last = "" if run.last is None else f"{run.last:.4g}"
        seed = "" if run.seed is None else str(run.seed)
        lines.append((name, run.state, run.environment or "?", run.preset or "?", seed, frames, last, best, age))
    return lines
