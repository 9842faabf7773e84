"""A report on runs: one HTML page that holds all it shows, and opens from a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jaxdreamer import config as configs
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import at_home
from jaxdreamer.record import loops, metrics, sessions
from jaxdreamer.record.bands import IN_WORDS, Band, Center, band
from jaxdreamer.record.listing import Listed, look
from jaxdreamer.record.pace import clock_time
from jaxdreamer.record.page import embedded, legend, note, page, section, table
from jaxdreamer.record.plot import groups_of, unit_of
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import read_config
from jaxdreamer.record.svg import bar, chart, plain
from jaxdreamer.saving import write_text

__all__ = ["write_report"]

Explain = Callable[[str], str | None]
_FIRST = ("train/return", "eval/length", "open_loop/*", "loss/model", "kl", "actor_entropy", "imagined/return")
_NO_CURVES = ("agent_steps", "env_frames", "updates", "train_ratio", "time/unix")
_PARTS = {
    "environment": "environments",
    "policy": "acting",
    "store": "storing entries",
    "sample": "batches",
    "transfer": "batches on their way to the device",
    "update": "learning",
    "device": "environments and learning, in one program",
    "log": "the log",
    "evaluate": "evaluations",
    "save": "checkpoints",
}
"""What ``time/share_*`` are of."""


class _Run(NamedTuple):
    """What is known of one run."""

    name: str
    group: str
    folder: RunDir
    listed: Listed
    config: Config | None  # None of a run that is broken
    records: list[dict[str, Any]]
    sessions: list[dict[str, Any]]

    @property
    def about(self) -> dict[str, Any]:
        """What its last start said of itself."""
        return next((entry for entry in reversed(self.sessions) if "failed" not in entry), {})


def write_report(
    logdirs: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    by: Sequence[str] = (),
    center: Center = "mean",
    title: str = "",
    explain: Explain = lambda name: None,
) -> Path:
    """Write the page.

    Args:
        logdirs, by: runs and their groups, see :func:`jaxdreamer.record.plot.groups_of`.
        out: the file, .html.
        center: of a group's curves.
        title: the page's; the tasks by default.
        explain: a sentence on a metric, by its name.

    Raises:
        ConfigError: there is no such run, or the file is no page. StorageError: it cannot be written.
    """
    out = at_home(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"a report is .html, found {out}")
    runs = [
        _read(name, group, source.parent)
        for group, inside in groups_of(logdirs, by).items()
        for name, source in inside.items()
    ]
    tasks = dict.fromkeys(run.listed.environment for run in runs if run.listed.environment)
    title = title or f"{', '.join(tasks) or 'unknown task'}: {len(runs)} run{'s' * (len(runs) > 1)}"
    parts = [
        f"<h1>{plain(title)}</h1>",
        note(f"Written by jaxdreamer, {time.strftime('%Y-%m-%d %H:%M %Z')}. This page asks nothing of a network."),
        _summary(runs),
        *_curves(runs, center, explain),
        _films(runs),
        _dreams(runs),
        _speed(runs),
        _settings(runs),
        _machines(runs),
    ]
    write_text(out, page(title, parts))
    return out


def _read(name: str, group: str, folder: Path) -> _Run:
    run, listed = RunDir(folder), look(folder)
    try:
        return _Run(name, group, run, listed, read_config(run), metrics.read(run.metrics), sessions.read(run.sessions))
    except JaxdreamerError as error:
        return _Run(name, group, run, listed._replace(state="broken", why=str(error)), None, [], [])


def _summary(runs: Sequence[_Run]) -> str:
    lines = []
    for run in runs:
        one = run.listed
        final: dict[str, Any] = next(
            (record for record in reversed(run.records) if record.get("eval/return") is not None), {}
        )
        spread = final.get("eval/return_std")
        returned = "" if one.last is None else f"{one.last:.4g}" + ("" if spread is None else f" \u00b1 {spread:.3g}")
        best = "" if one.best is None else f"{one.best:.4g} at {one.best_at:,}"
        wall = clock_time(sessions.wall_seconds(run.sessions, run.records)) if run.records else ""
        many = run.about.get("parameters")
        lines.append(
            (run.name, one.state, one.environment or "", one.preset or "", "" if one.seed is None else one.seed,
             "" if many is None else f"{many:,}", f"{one.frames or 0:,}", returned, best, wall)
        )  # fmt: skip
    head = ("run", "state", "task", "preset", "seed", "parameters", "frames", "last return", "best return", "time")
    broken = [note(f"{run.name} is broken: {run.listed.why}") for run in runs if run.listed.state == "broken"]
    said = note("Returns are means \u00b1 deviations over the episodes of an evaluation, played without exploration.")
    return section("Runs", table(head, lines), said, *broken)


# ---- curves --------------------------------------------------------------------------------------------------------


def _curves(runs: Sequence[_Run], center: Center, explain: Explain) -> list[str]:
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    measured = dict.fromkeys(key for run in runs for record in run.records for key in record)
    bands = {metric: _bands(groups, metric, center) for metric in measured if metric not in _NO_CURVES}
    bands = {metric: found for metric, found in bands.items() if found}
    if not bands:
        return [section("Curves", note("Nothing has been measured yet."))]
    order = list(dict.fromkeys(name for found in bands.values() for name in found))
    several = f"Lines are the {IN_WORDS[center]} of a group's runs, bands its 95 % bootstrap interval over them. "
    several = several * any(one.runs > 1 for found in bands.values() for one in found.values())
    many = {name: len(groups.get(name, ())) for name in order}
    first = [metric for pattern in _FIRST for metric in bands if fnmatchcase(metric, pattern)]
    rest = [metric for metric in sorted(bands) if metric not in (*first, "eval/return")]
    cards = {metric: _card(metric, found, order, explain) for metric, found in bands.items()}
    names = [f"{name} ({many[name]} runs)" if many[name] > 1 else name for name in order]
    shown = [legend(names), note(several + "The horizontal axis is in env frames.")]
    if "eval/return" in cards:
        shown.append(f'<div class="first">{cards["eval/return"]}</div>')
    shown.append(f'<div class="cards" style="margin-top:1rem">{_cards(cards, first)}</div>')
    if rest:
        inside = f'<div class="cards">{_cards(cards, rest)}</div>'
        shown.append(f"<details><summary>{len(rest)} further metrics</summary>{inside}</details>")
    return [section("Curves", *shown)]


def _cards(cards: Mapping[str, str], names: Iterable[str]) -> str:
    return "".join(f"<div>{cards[name]}</div>" for name in names)


def _card(metric: str, found: Mapping[str, Band], order: Sequence[str], explain: Explain) -> str:
    sentence = explain(metric)
    return f"<h3>{plain(metric)}</h3>{chart(found, order, 'env frames', unit_of(metric) or metric)}" + (
        note(sentence) if sentence else ""
    )


def _bands(groups: Mapping[str, Sequence[_Run]], metric: str, center: Center) -> dict[str, Band]:
    """A band of each group that has the metric; of runs that have no stretch in common each by itself."""
    found = {}
    for group, runs in groups.items():
        curves = {run.name: points for run in runs if (points := metrics.curve(run.records, metric))}
        if not curves:
            continue
        try:
            found[group] = band(list(curves.values()), center)
        except ConfigError:
            found |= {name: band([points]) for name, points in curves.items()}
    return found


# ---- pictures ------------------------------------------------------------------------------------------------------


def _films(runs: Sequence[_Run]) -> str:
    figures = []
    for run in runs:
        films = sorted(run.folder.videos.glob("policy-*"), key=lambda path: path.stem)
        for film in [path for path in films if path.suffix in (".gif", ".mp4")][-1:]:
            frames = film.stem.rpartition("-")[2].lstrip("0") or "0"
            figures.append(_figure(film, f"{run.name}, the policy at {frames} frames"))
    if not figures:
        return section("Films", note("No run has a film: of environments that can be drawn each evaluation makes one."))
    return section("Films", f'<div class="cards">{"".join(figures)}</div>')


def _figure(path: Path, caption: str) -> str:
    try:
        inside = embedded(path, caption)
    except JaxdreamerError as error:
        return f"<figure>{note(f'{caption}: left out, as {error}')}</figure>"
    return f"<figure>{inside}<figcaption>{plain(caption)}</figcaption></figure>"


def _dreams(runs: Sequence[_Run]) -> str:
    parts = []
    for run in runs:
        if run.config is None:
            continue
        try:
            pictures = loops.newest(run.folder)
        except JaxdreamerError as error:
            parts.append(note(f"{run.name}: pictures are left out, as {error}"))
            continue
        for key, path in pictures.items():
            frames = path.stem.rpartition("-")[2].lstrip("0") or "0"
            caption = f"{run.name}: {key} at {frames} frames"
            try:
                picture = embedded(path, caption)
                parts.append(loops.labelled(picture, path, caption, *loops.shape(run.folder, key), run.config))
            except JaxdreamerError as error:
                parts.append(note(f"{caption}: left out, as {error}"))
    if not parts:
        return ""
    said = note(
        "What happened, what the model makes of it, and the difference (gray: none). It is shown the truth up to the line, "
        "and predicts the rest from the actions alone."
    )
    return section("What the model dreams", said, *parts)


# ---- speed, settings, machines -------------------------------------------------------------------------------------


def _speed(runs: Sequence[_Run]) -> str:
    lines, bars = [], []
    for run in runs:
        seconds = sessions.wall_seconds(run.sessions, run.records)
        if seconds <= 0:
            continue
        rates = [(run.records[-1].get(name) or 0) / seconds for name in ("env_frames", "updates")]
        lines.append((run.name, *(f"{rate:.4g}" for rate in rates), clock_time(seconds)))
        if shares := _shares(run.records):
            parts = legend(f"{name} {100 * share:.0f}%" for name, share in shares.items())
            bars.append(f"<p>{plain(run.name)}</p>{bar(shares)}{parts}")
    if not lines:
        return ""
    return section("Speed", table(("run", "env frames a second", "updates a second", "time"), lines), *bars)


def _shares(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Where the time went, in words, over all lines that say so, each weighed by the time since the one before it."""
    timed = [record for record in records if any(name.startswith("time/share_") for name in record)]
    weighed: dict[str, float] = {}
    total = 0.0
    for before, after in pairwise(timed):
        seconds = (after.get("time/unix") or 0) - (before.get("time/unix") or 0)
        if seconds <= 0:
            continue
        total += seconds
        for name, share in after.items():
            if name.startswith("time/share_") and share is not None:
                part = _PARTS.get(name[11:], name[11:])
                weighed[part] = weighed.get(part, 0.0) + seconds * share
    shares = {part: seconds / total for part, seconds in weighed.items()} if total else {}
    rest = 1 - sum(shares.values())
    return {**shares, "compiling and the rest": rest} if shares and rest > 0.005 else shares


def _settings(runs: Sequence[_Run]) -> str:
    known = [(run.name, run.config) for run in runs if run.config is not None]
    each = {name: configs.fields(config) for name, config in known}
    keys = dict.fromkeys(key for fields in each.values() for key in fields)
    absent = "\u2013"
    lines = [[key, *(fields.get(key, absent) for fields in each.values())] for key in keys]
    differing = [line for line in lines if any(value != line[1] for value in line[2:])]
    parts = [table(("setting", *each), differing)] if differing else []
    if len(known) > 1 and not differing:
        parts.append(note("All settings are the same."))
    parts += [
        f"<details><summary>All settings of {plain(name)}</summary><pre>{plain(configs.to_yaml(config))}</pre></details>"
        for name, config in known
    ]
    return section("Settings" if len(known) < 2 else "Settings that differ", *parts)


def _machines(runs: Sequence[_Run]) -> str:
    known = {run.name: run.about for run in runs if run.about}
    if not known:
        return ""
    names = ("device", "platform", "devices", "processor", "cores", "system", "loop")
    lines = [[name, *(about.get(name, "") for about in known.values())] for name in names]
    libraries = dict.fromkeys(name for about in known.values() for name in about.get("versions", {}))
    lines += [[name, *(about.get("versions", {}).get(name, "") for about in known.values())] for name in libraries]
    head: tuple[str, ...] = ("", *known)
    if len(known) > 1 and all(len(set(map(str, line[1:]))) == 1 for line in lines):
        head, lines = ("", "all runs"), [line[:2] for line in lines]
    return section("Versions and hardware", table(head, lines))
