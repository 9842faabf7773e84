"""Charts as SVG inside an HTML page, coloured by the page's style: for light and dark, without a library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape

import numpy as np

from jaxdreamer.record.bands import Band
from jaxdreamer.record.pace import compact

__all__ = ["COLORS", "bar", "chart", "plain"]

COLORS = 8
"""Classes ``c0`` to ``c7`` of the page's style; further curves are dashed."""
_WIDTH, _HEIGHT = 440, 250
_SMALLEST = 1e-290  # of smaller numbers differences have no digits
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 8, 36


def plain(text: object) -> str:
    """Any text for the page: what cannot be shown is a question mark, what HTML understands is escaped."""
    return escape("".join(c if c.isprintable() or c == "\n" else "?" for c in str(text)))


def chart(bands: Mapping[str, Band], order: Iterable[str], x_label: str, y_label: str) -> str:
    """Curves with their bands.

    Args:
        bands: by name; each has its colour by its name's place in ``order``.
        order: all names of the page, so that a name has one colour everywhere.
        x_label, y_label: what the axes are, with units.
    """
    places = {name: index for index, name in enumerate(order)}
    ends = [end for one in bands.values() for end in (one.center, one.low, one.high) if end is not None]
    across = _Scale(_range(one.x for one in bands.values()), _LEFT, _WIDTH - _RIGHT)
    up = _Scale(_range(ends), _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(across, up), _labels(x_label, y_label)]
    for name, one in bands.items():
        parts.append(_curve(name, one, places[name], across, up))
    said = f"{y_label} over {x_label}: {', '.join(bands)}"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{plain(said)}">{"".join(parts)}</svg>'


def bar(shares: Mapping[str, float]) -> str:
    """Shares of a whole, from 0 to 1, as one bar; each has its colour by its place."""
    parts, at = [], 0.0
    for index, (name, share) in enumerate(shares.items()):
        title = f"<title>{plain(name)}: {100 * share:.1f}%</title>"
        width = 100 * share
        parts.append(f'<rect class="f{index % COLORS}" x="{at:.3f}" width="{width:.3f}" height="6">{title}</rect>')
        at += width
    said = ", ".join(f"{name} {100 * share:.0f}%" for name, share in shares.items())
    return (
        f'<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{plain(said)}">'
        f"{''.join(parts)}</svg>"
    )


class _Scale:
    """From numbers to places on the chart."""

    def __init__(self, ends: tuple[float, float], first: float, last: float) -> None:
        self.low, self.high = ends
        self.first, self.last = first, last

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self, count: int) -> list[float]:
        """Round numbers, 1, 2 or 5 times a power of ten apart, about so many."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(size * power for size in (1, 2, 5, 10) if size * power >= 0.7 * rough)
        first = math.ceil(self.low / step - 1e-9)
        return [step * index for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _range(arrays: Iterable[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest number, apart."""
    values = np.concatenate([np.ravel(array) for array in arrays])
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if high - low > max(1e-9 * size, _SMALLEST):
        return low, high
    around = 0.1 * size if size > _SMALLEST else 1.0
    return low - around, high + around


def _grid(across: _Scale, up: _Scale) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in up.ticks(5):
        y = f"{up(value):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y}" dy=".32em" text-anchor="end">{compact(value)}</text>')
    for value in across.ticks(5):
        x = f"{across(value):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 14}" text-anchor="middle">{compact(value)}</text>')
    return "".join(parts)


def _labels(x_label: str, y_label: str) -> str:
    middle, height = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<text class="axis" x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{plain(x_label)}</text>'
        f'<text class="axis" transform="translate(11 {height}) rotate(-90)" text-anchor="middle">{plain(y_label)}</text>'
    )


def _curve(name: str, one: Band, place: int, across: _Scale, up: _Scale) -> str:
    color, dash = place % COLORS, ' stroke-dasharray="5 3"' * (place >= COLORS)
    line = [(across(x), up(y)) for x, y in zip(one.x, one.center)]
    title = f"<title>{plain(name)}: {one.center[-1]:.4g} at {one.x[-1]:,.0f}</title>"
    parts = []
    if one.low is not None and one.high is not None:
        outline = [(across(x), up(y)) for x, y in zip(one.x, one.high)]
        outline += [(across(x), up(y)) for x, y in zip(one.x[::-1], one.low[::-1])]
        stroke = f' class="f{color} band"' if len(line) > 1 else f' class="s{color}"'
        parts.append(f'<polygon{stroke} points="{_points(outline)}">{title}</polygon>')
    if len(line) > 1:
        parts.append(f'<polyline class="s{color}"{dash} points="{_points(line)}">{title}</polyline>')
    x, y = line[-1]
    parts.append(
        f'<circle class="f{color}" cx="{x:.1f}" cy="{y:.1f}" r="{3 if len(line) == 1 else 2}">{title}</circle>'
    )
    return "".join(parts)


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
