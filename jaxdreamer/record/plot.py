"""Learning curves from metrics files: in one line of text, and as a picture. The picture needs the extra ``plot``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from jaxdreamer.config import ConfigError
from jaxdreamer.errors import import_extra
from jaxdreamer.files import at_home
from jaxdreamer.record.metrics import curve, read
from jaxdreamer.record.rundir import runs_of
from jaxdreamer.saving import storing

__all__ = ["Points", "draw", "read_curves", "spark"]

Points = list[tuple[float, float]]
SUFFIXES = (".png", ".svg", ".pdf")
_WIDTH = 50
_LONGEST = 60  # characters of a run's name in a picture


def read_curves(
    logdirs: Iterable[str | os.PathLike[str]], x: str = "env_frames", y: str = "eval/return"
) -> dict[str, Points]:
    """The points of each run, by a unique name. A folder made by ``--seeds`` stands for the runs of all seeds.

    Raises ConfigError where a run has no such metric; the message names those it has.
    """
    found: dict[Path, Points] = {}
    for source in [item for logdir in logdirs for item in _sources(at_home(logdir))]:
        records = read(source)
        points = curve(records, y, x)
        if not points:
            known = sorted({key for record in records for key in record})
            raise ConfigError(f"{source} has no values of {y!r} over {x!r}; it has: {', '.join(known) or 'nothing'}")
        found[source] = points
    if not found:
        raise ConfigError("no run folder given")
    return dict(zip(_names(list(found)), found.values()))


def draw(
    curves: Mapping[str, Points], path: str | os.PathLike[str], x: str = "env_frames", y: str = "eval/return"
) -> Path:
    """A picture of curves. Raises MissingExtra without matplotlib, ConfigError for a file that is no picture."""
    path = at_home(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a picture of curves is {', '.join(SUFFIXES)}, found {path}")
    import_extra("matplotlib", "plot", f"the picture {path}")
    # The object interface: pyplot would keep a global figure and choose a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot(*zip(*points), label=_label(name), marker="o" if len(points) == 1 else None)
    axes.set_xlabel(x.replace("$", r"\$"))
    axes.set_ylabel(y.replace("$", r"\$"))
    axes.grid(alpha=0.3)
    axes.legend()
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def spark(values: Sequence[float]) -> str:
    """A curve in one line of text: the lowest value to the highest, with both named. Of many values it shows means."""
    count = min(len(values), _WIDTH)
    ends = [round(index * len(values) / count) for index in range(count + 1)]
    values = [fmean(values[start:end]) for start, end in itertools.pairwise(ends)]
    low, high = min(values), max(values)
    blocks = "▁▂▃▄▅▆▇█"
    steps = [blocks[int((value - low) / ((high - low) or 1) * (len(blocks) - 1))] for value in values]
    return f"{low:.0f} {''.join(steps)} {high:.0f}"


def _label(name: str) -> str:
    """A folder's name as the legend can show it; of a long one only the end."""
    text = "".join(character if character.isprintable() else "?" for character in name)
    text = text if len(text) <= _LONGEST else f"...{text[-_LONGEST:]}"
    text = text.replace("$", r"\$")  # otherwise text between two of them is a formula
    return f" {text}" if text.startswith("_") else text  # otherwise matplotlib leaves it out


def _sources(path: Path) -> list[Path]:
    """The metrics files that a folder, or a file, stands for."""
    if path.is_file():
        return [path]
    sources = [run / "metrics.jsonl" for run in runs_of(path)]
    missing = next((source for source in sources if not source.exists()), None)
    if missing is not None:
        raise ConfigError(f"{missing} does not exist: give run folders, or metrics.jsonl files")
    return sources


def _names(sources: list[Path]) -> list[str]:
    """The name of each run's folder, with as many of the folders above as make it unique."""
    parts = [source.absolute().parent.parts for source in sources]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names) and not any(name.startswith("seed-") for name in names):
            return names
    return [str(source) for source in sources]
