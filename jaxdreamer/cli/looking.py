"""The commands that look at runs: runs, report, plot."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxdreamer.cli import words
from jaxdreamer.files import at_home


@dataclass(frozen=True)
class PlotOptions:
    """Plot a metric of one or more runs, in the terminal and as a picture.

    Runs of a group are one curve: their mean, or interquartile mean, with a 95 % bootstrap interval over the runs.
    """

    logdirs: tuple[Path, ...] = field(metadata=words.BARE)
    """Folders of runs, folders that --seeds made, or metrics.jsonl files."""
    out: Path = Path("curve.png")
    """The picture: .png, .svg or .pdf."""
    y: str = "eval/return"
    """The metric's name in metrics.jsonl."""
    x: Literal["env_frames", "agent_steps", "updates"] = "env_frames"
    """What it is drawn against."""
    group: str = ""
    """Settings, as in preset or env.id,deter_size: runs that agree in them are a group. Default: the seeds of a folder that
    --seeds made are one, every other run is alone."""
    center: Literal["mean", "iqm"] = "mean"
    """What a group's curve is: the mean, or the mean without the highest and the lowest quarter of the runs."""
    title: str = ""
    """Above the picture. Default: the task, where it is one."""


@dataclass(frozen=True)
class RunsOptions:
    """List the runs in a folder and the folders below it: state, task, preset, seed, frames, evaluations."""

    folder: Path = field(default=Path("runs"), metadata=words.BARE)
    """Where to look; a run's own folder shows that one."""
    json: bool = False
    """Print a list of objects instead of a table, with every number in full."""


def runs(options: RunsOptions) -> int:
    """``jaxdreamer runs``."""
    from jaxdreamer.record.listing import COLUMNS, LEAST, find, table

    found = find(options.folder)
    if options.json:
        print(json.dumps([one._asdict() for one in found], indent=1))
        return 0
    if not found:
        print(f"{options.folder} holds no runs")
        return 0
    lines = [COLUMNS, *table(found, at_home(options.folder))]
    widths = {name: max(len(line[column]) for line in lines) for column, name in enumerate(COLUMNS)}
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for name in LEAST:
        if sum(widths.values()) + 2 * (len(widths) - 1) > room:
            del widths[name]
    for line in lines:
        shown = (f"{text:{widths[name]}}" for name, text in zip(COLUMNS, line) if name in widths)
        print("  ".join(shown).rstrip())
    for one, line in zip(found, lines[1:]):
        if one.state == "broken":
            print(f"{line[0]} is broken: {one.why}")
    return 0


@dataclass(frozen=True)
class ReportOptions:
    """Write one HTML page about runs: curves, films, dreams, speed, settings, versions.

    The page holds all that it shows, opens from a file, and asks nothing of a network.
    """

    logdirs: tuple[Path, ...] = field(metadata=words.BARE)
    """Folders of runs, or folders that --seeds made."""
    out: Path = Path("report.html")
    """The page."""
    group: str = ""
    """Settings, as for `jaxdreamer plot`: runs that agree in them are one curve."""
    center: Literal["mean", "iqm"] = "mean"
    """What that curve is, as for `jaxdreamer plot`."""
    title: str = ""
    """Of the page. Default: the tasks."""


def report(options: ReportOptions) -> int:
    """``jaxdreamer report``."""
    from jaxdreamer.record.report import write_report
    from jaxdreamer.train.metrics import sentence

    by = [name for name in options.group.split(",") if name.strip()]
    out = write_report(
        options.logdirs, options.out, by=by, center=options.center, title=options.title, explain=sentence
    )
    print(f"{out.absolute()} ({out.stat().st_size / 2**20:.1f} MB): open it in a browser")
    return 0


def plot(options: PlotOptions) -> int:
    """``jaxdreamer plot``."""
    from jaxdreamer.record.bands import IN_WORDS, band
    from jaxdreamer.record.plot import AXES, draw, grouped, spark, task_of

    by = [name for name in options.group.split(",") if name.strip()]
    groups = grouped(options.logdirs, by, options.x, options.y)
    for runs in groups.values():
        for name, points in runs.items():
            along, values = zip(*points)
            span = f"{along[0]:,} to {along[-1]:,} {AXES[options.x].removeprefix('env ')}"
            print(f"{name}: {options.y}, {span}: {spark(values)}")
    bands = {name: band(list(runs.values()), options.center) for name, runs in groups.items()}
    for name, one in bands.items():
        if one.low is not None and one.high is not None:
            print(
                f"{name}: {IN_WORDS[options.center]} of {one.runs} runs {one.center[-1]:.1f}, 95 % interval "
                f"{one.low[-1]:.1f} to {one.high[-1]:.1f}, at {one.x[-1]:,.0f} {AXES[options.x]}"
            )
    title = options.title or task_of(options.logdirs)
    print(draw(bands, options.out, x=options.x, y=options.y, title=title, center=options.center))
    return 0
