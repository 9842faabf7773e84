"""What a person is told of a run at its start and at its end: one block of labelled lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxdreamer.files import shell_word
from jaxdreamer.record import checkpoint, metrics, sessions
from jaxdreamer.record.pace import clock_time
from jaxdreamer.record.plot import spark
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import read_config

__all__ = ["Outcome", "Row", "block", "card"]

Row = tuple[str, str]
_MOST_SEEDS = 8  # with a line of their own


class Outcome(NamedTuple):
    """A finished run: its folder, and its last evaluation."""

    rundir: RunDir
    scores: dict[str, float]  # by the names of the metrics; empty where there is no environment


def block(title: str, rows: Sequence[Row]) -> list[str]:
    """The rows below a title, the labels in a column of their own; values are not wrapped, so that a path can be copied."""
    width = max(len(label) for label, _ in rows)
    return [f"{title} {'-' * (60 - len(title))}", *(f"  {label:{width}}  {value}" for label, value in rows)]


def card(outcomes: Sequence[Outcome], trust: str = "") -> list[str]:
    """What came out of one run, or of several seeds trained side by side, and what to do next.

    ``trust`` is the word that a command needs which reads these runs.
    """
    first = outcomes[0].rundir
    folder = first.path.parent if len(outcomes) > 1 else first.path
    records, config = metrics.read(first.metrics), read_config(first)
    played = bool(outcomes[0].scores)
    rows = (_returns(outcomes) if played else []) + (
        _course(first, records) if len(outcomes) == 1 else _seeds(outcomes)
    )
    if records:
        frames, updates = records[-1]["env_frames"], f"{records[-1]['updates']:,} updates"
        without = "" if frames == config.run.frames else " without resets"
        rows.append(("frames", f"{frames:,}{without}, {updates}") if frames else ("learned", updates))
    rows.append(
        ("time", f"{clock_time(sessions.wall_seconds(sessions.read(first.sessions), records))}, evaluations included")
    )
    films = sorted(first.videos.glob("policy-*"))
    rows += [("film", str(film)) for film in films[-1:]]
    rows.append(("folder", str(folder)))
    word = shell_word(folder)
    if played:
        rows.append(("play it", f"jaxdreamer evaluate {word}{trust}"))
    if len(outcomes) == 1 and checkpoint.steps(first.best):
        rows.append(("the best", f"jaxdreamer evaluate {word} --best{trust}"))
    rows.append(("look at it", f"jaxdreamer report {word}"))
    return block("finished", rows)


def _returns(outcomes: Sequence[Outcome]) -> list[Row]:
    """The final return and its spread: over episodes, and over seeds where there are several."""
    if len(outcomes) == 1:
        scores = outcomes[0].scores
        spread = f" +- {scores['eval/return_std']:.1f}" if scores["eval/episodes"] > 1 else ""
        ends = f"lowest {scores['eval/return_min']:.1f}, highest {scores['eval/return_max']:.1f}"
        many = f"{scores['eval/episodes']:.0f} episode{'s' if scores['eval/episodes'] > 1 else ''}"
        return [("return", f"{scores['eval/return']:.1f}{spread} over {many} without exploration ({ends})")]
    means = [one.scores["eval/return"] for one in outcomes]
    mean = sum(means) / len(means)
    spread = (sum((each - mean) ** 2 for each in means) / len(means)) ** 0.5
    return [
        (
            "return",
            f"{mean:.1f} +- {spread:.1f} over {len(means)} seeds (lowest {min(means):.1f}, highest {max(means):.1f}), each "
            f"the mean of {outcomes[0].scores['eval/episodes']:.0f} episodes without exploration",
        )
    ]


def _course(rundir: RunDir, records: list[dict[str, Any]]) -> list[Row]:
    """How one run got there; nothing where the metrics of a finished run were deleted."""
    points = metrics.curve(records, "eval/return")
    if not points:
        return []
    frames, values = zip(*points)
    best = max(range(len(points)), key=values.__getitem__)
    kept = ", kept in best/" if checkpoint.steps(rundir.best) else ""
    return [
        ("best", f"{values[best]:.1f} at {frames[best]:,} frames{kept}"),
        ("learning curve", f"{spark(values)}, {frames[0]:,} to {frames[-1]:,} frames"),
    ]


def _seeds(outcomes: Sequence[Outcome]) -> list[Row]:
    rows = []
    for one in outcomes[:_MOST_SEEDS]:
        points = metrics.curve(metrics.read(one.rundir.metrics), "eval/return")
        course = f"  {spark([value for _, value in points])}" if points else ""
        rows.append((one.rundir.path.name, f"{one.scores['eval/return']:.1f}{course}"))
    more = len(outcomes) - _MOST_SEEDS
    return [*rows, ("...", f"and {more} more: jaxdreamer runs")] if more > 0 else rows
