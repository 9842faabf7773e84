"""Learning curves from metrics files: in one line of text, and as a picture. The picture needs the extra ``plot``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError
from jaxdreamer.errors import JaxdreamerError, import_extra
from jaxdreamer.files import at_home
from jaxdreamer.record.bands import IN_WORDS, Band, Center, Points
from jaxdreamer.record.metrics import curve, read
from jaxdreamer.record.rundir import RunDir, runs_of
from jaxdreamer.record.stored import read_config
from jaxdreamer.saving import storing

__all__ = ["AXES", "Curves", "draw", "grouped", "groups_of", "read_curves", "spark", "task_of", "unit_of"]

Curves = dict[str, Points]
SUFFIXES = (".png", ".svg", ".pdf")
AXES = {"env_frames": "env frames", "agent_steps": "agent steps", "updates": "updates"}
"""What curves may be drawn against, in words."""
_UNITS = {
    "imagined/discount": "",
    "imagined/*": "the units that rewards are learned in",
    "*/return*": "the environment's own units",
    "*/length": "agent steps",
    "*/episodes": "episodes",
    "open_loop/*": "mean squared error",
    "kl": "nats",
    "*_entropy": "nats",
    "loss/obs/*": "nats",
    "time/*_per_second": "1/s",
    "time/share_*": "share of the time",
    "time/unix": "s",
}
"""Of metrics by name or pattern; the others are numbers without a unit."""
_WIDTH = 50
_LONGEST = 60  # characters of a run's name in a picture


def unit_of(metric: str) -> str:
    """The unit of a metric; empty where it has none."""
    return next((unit for pattern, unit in _UNITS.items() if fnmatchcase(metric, pattern)), "")


def read_curves(logdirs: Iterable[str | os.PathLike[str]], x: str = "env_frames", y: str = "eval/return") -> Curves:
    """The points of each run, by a unique name. A folder made by ``--seeds`` stands for the runs of all seeds.

    Raises ConfigError where a run has no such metric; the message names those it has.
    """
    return {name: points for runs in grouped(logdirs, x=x, y=y).values() for name, points in runs.items()}


def grouped(
    logdirs: Iterable[str | os.PathLike[str]], by: Sequence[str] = (), x: str = "env_frames", y: str = "eval/return"
) -> dict[str, Curves]:
    """:func:`read_curves` in groups, as :func:`groups_of` makes them. ConfigError where a run has no such metric."""
    return {
        group: {name: _points(source, x, y) for name, source in runs.items()}
        for group, runs in groups_of(logdirs, by).items()
    }


def groups_of(logdirs: Iterable[str | os.PathLike[str]], by: Sequence[str] = ()) -> dict[str, dict[str, Path]]:
    """The metrics files of runs, by unique names, in groups.

    Args:
        logdirs: runs, folders that ``--seeds`` made, or metrics files.
        by: settings; runs that agree in them are a group. Without any, a folder made by ``--seeds`` is one, and every other
            run is alone.

    Raises:
        ConfigError: there is no such run, or no such setting.
    """
    arguments = [at_home(logdir) for logdir in logdirs]
    sources = dict.fromkeys(source for path in arguments for source in _sources(path))
    if not sources:
        raise ConfigError("no run folder given")
    folders = [path for path in arguments if path.is_dir()]
    several = {source for path in folders for source in _sources(path) if source.parent != RunDir(path).path}
    keys = [configs.resolve_name(name) for name in by]
    groups: dict[str, dict[str, Path]] = {}
    for source, name in zip(sources, _names(list(sources))):
        if keys:
            group = _of_settings(source, keys)
        else:
            group = name.rpartition("/")[0] if source in several else name
        groups.setdefault(group, {})[name] = source
    return groups


def task_of(logdirs: Iterable[str | os.PathLike[str]]) -> str:
    """The task that all these runs are of; empty where there are several, or where nothing beside the metrics is known."""
    sources = [source for logdir in logdirs for source in _sources(at_home(logdir))]
    try:
        tasks = {read_config(RunDir(source.parent)).env.task for source in sources}
    except JaxdreamerError:  # a curve can be drawn without it
        return ""
    return tasks.pop() if len(tasks) == 1 else ""


def _points(source: Path, x: str, y: str) -> Points:
    records = read(source)
    points = curve(records, y, x)
    if not points:
        known = sorted({key for record in records for key in record})
        raise ConfigError(f"{source} has no values of {y!r} over {x!r}; it has: {', '.join(known) or 'nothing'}")
    return points


def _of_settings(source: Path, keys: Sequence[str]) -> str:
    """What a run has for these settings, as a group's name."""
    settings = configs.fields(read_config(RunDir(source.parent)))
    missing = next((key for key in keys if key not in settings), None)
    if missing:
        raise ConfigError(f"{source.parent} has no {missing}: it is an option of another env.backend than the run's")
    alone = ("preset", "algorithm", "env.id")  # whose values say what they are
    return ", ".join(
        str(settings[key]) if key in alone else f"{key.rpartition('.')[2]}={settings[key]}" for key in keys
    )


def draw(
    bands: Mapping[str, Band],
    path: str | os.PathLike[str],
    x: str = "env_frames",
    y: str = "eval/return",
    title: str = "",
    center: Center = "mean",
) -> Path:
    """A picture of curves, with bands where a curve is of several runs.

    Raises MissingExtra without matplotlib, ConfigError for a file that is no picture.
    """
    path = at_home(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a picture of curves is {', '.join(SUFFIXES)}, found {path}")
    import_extra("matplotlib", "plot", f"the picture {path}")
    # The object interface: pyplot would keep a global figure and choose a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, one in bands.items():
        marker = "o" if len(one.x) == 1 else None
        runs = f" ({one.runs} runs)" if one.runs > 1 else ""
        [line] = axes.plot(one.x, one.center, label=f"{_label(name)}{runs}", marker=marker)
        if one.low is not None and one.high is not None:
            axes.fill_between(one.x, one.low, one.high, color=line.get_color(), alpha=0.2, linewidth=0)
            if marker:
                axes.vlines(one.x, one.low, one.high, color=line.get_color())
    unit = unit_of(y)
    axes.set_xlabel(_plain(AXES.get(x, x)))
    axes.set_ylabel(_plain(f"{y} [{unit}]" if unit else y))
    axes.set_title(_plain(title))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    several = any(one.runs > 1 for one in bands.values())
    axes.legend(title=f"{IN_WORDS[center]} and its 95 % bootstrap interval" if several else None)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def spark(values: Sequence[float]) -> str:
    """A curve in one line of text, with its first and its last value. Of many values it shows means."""
    count = min(len(values), _WIDTH)
    ends = [round(index * len(values) / count) for index in range(count + 1)]
    values = [fmean(values[start:end]) for start, end in itertools.pairwise(ends)]
    low, high = min(values), max(values)
    blocks = "▁▂▃▄▅▆▇█"
    steps = [blocks[int((value - low) / ((high - low) or 1) * (len(blocks) - 1))] for value in values]
    return f"{values[0]:.0f} {''.join(steps)} {values[-1]:.0f}"


def _label(name: str) -> str:
    """A folder's name as the legend can show it; of a long one only the end."""
    text = _plain(name if len(name) <= _LONGEST else f"...{name[-_LONGEST:]}")
    return f" {text}" if text.startswith("_") else text  # otherwise matplotlib leaves it out


def _plain(text: str) -> str:
    """Text as it is: between two dollars matplotlib would read a formula."""
    return "".join(character if character.isprintable() else "?" for character in text).replace("$", r"\$")


def _sources(path: Path) -> list[Path]:
    """The metrics files that a folder, or a file, stands for."""
    if path.is_file():
        return [path]
    sources = [run / "metrics.jsonl" for run in runs_of(path)]
    missing = next((source for source in sources if not source.exists()), None)
    if missing is not None:
        raise ConfigError(f"{missing.parent} holds no metrics.jsonl: give run folders, or metrics.jsonl files")
    return sources


def _names(sources: list[Path]) -> list[str]:
    """The name of each run's folder, with as many folders above as tell it from the others, and one more above a seed's."""
    parts = [source.absolute().parent.parts for source in sources]
    names = []
    for own, source in zip(parts, sources):
        depths = (depth for depth in range(1, len(own) + 1) if not own[-depth].startswith("seed-"))
        alone = (depth for depth in depths if sum(other[-depth:] == own[-depth:] for other in parts) == 1)
        depth = next(alone, None)
        names.append(str(source) if depth is None else "/".join(own[-depth:]))
    return names
