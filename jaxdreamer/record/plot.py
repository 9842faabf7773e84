"""Learning curves from metrics files. Needs the extra ``plot``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from jaxdreamer.config import ConfigError
from jaxdreamer.record.extras import require
from jaxdreamer.record.metrics import curve, read

__all__ = ["plot_curves"]


def plot_curves(
    logdirs: Iterable[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    x: str = "env_frames",
    y: str = "eval/return",
) -> Path:
    """Draw metric ``y`` over ``x``, one curve a run folder, into a picture file (``.png``, ``.svg``, ``.pdf``).

    Raises:
        MissingExtra: matplotlib is not installed.
        ConfigError: a run has no such metric; the message names those it has.
    """
    require("matplotlib", "plot", "plotting curves")
    # The object interface: pyplot would keep a global figure and choose a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {}
    for logdir in logdirs:
        source = Path(logdir)
        source = source / "metrics.jsonl" if source.is_dir() else source
        if not source.exists():
            raise ConfigError(f"{source} does not exist: give run folders, or metrics.jsonl files")
        records = read(source)
        points = curve(records, y, x)
        if not points:
            known = sorted({key for record in records for key in record})
            raise ConfigError(f"{source} has no values of {y!r} over {x!r}; it has: {', '.join(known) or 'nothing'}")
        curves[source] = points
    if not curves:
        raise ConfigError("no run folder given")
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for source, points in curves.items():
        axes.plot(*zip(*points), label=source.parent.name or str(source))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
