"""An HTML page in one file: its style, and the parts that it is made of. It asks nothing of a network, and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxdreamer.files import FileUnusable, read_bytes
from jaxdreamer.record.svg import COLORS, plain

__all__ = ["embedded", "legend", "note", "page", "section", "table"]

_LARGEST = 2**25  # bytes of a film
_KINDS = {".gif": ("image/gif", b"GIF8", 0), ".png": ("image/png", b"\x89PNG", 0), ".mp4": ("video/mp4", b"ftyp", 4)}
_LIGHT = ("#0072b2", "#d55e00", "#008a63", "#b3478f", "#8a6d00", "#4b8fc9", "#7a4fbf", "#555555")
_DARK = ("#5bb4f0", "#ff8c42", "#3ecf9f", "#e58ac4", "#e0c14a", "#9ad0f5", "#b79cf0", "#bbbbbb")
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --front: #1c2024; --soft: #5c6670; --line: #d9dee3; --card: #f5f7f9; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181c; --front: #e6e9ec; --soft: #9aa5af; --line: #343c44; --card: #1d2329; DARK }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--back); color: var(--front);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; margin: .5rem 0 0 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem } h3 { font-size: 1rem; margin: 0 }
p { margin: .3rem 0 } .soft, figcaption { color: var(--soft); font-size: .85rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; min-width: 100%; width: max-content }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { color: var(--soft); font-weight: 600; white-space: nowrap }
td { font-variant-numeric: tabular-nums; max-width: 24rem }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)) }
.first { max-width: 42rem } .cards > *, .first { background: var(--card); border-radius: .5rem; padding: .75rem; margin: 0 }
svg { display: block; width: 100%; height: auto } .bar { height: 1.4rem; border-radius: .3rem }
.grid { stroke: var(--line); stroke-width: 1 } .tick, .axis { fill: var(--soft); font: 11.5px system-ui, sans-serif }
.axis { font-size: 12px } polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round } .band { opacity: .22 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .5rem 0; list-style: none }
.legend li { font-size: .9rem }
.legend svg { display: inline-block; width: .9em; height: .9em; margin-right: .4em; vertical-align: -.1em }
figure { margin: 0 }
figure img, figure video { display: block; width: 100%; max-width: 24rem; image-rendering: pixelated; border-radius: .3rem }
.loop { display: grid; grid-template-columns: max-content 1fr; gap: 2px 8px; font-size: .75rem; color: var(--soft) }
.loop img { max-width: none; border-radius: 0 } .rows { display: grid; grid-auto-rows: 1fr; align-items: center }
.along { display: flex; grid-column: 2 } .along span { border-top: 3px solid; white-space: nowrap; overflow: hidden }
pre { background: var(--card); padding: .75rem; border-radius: .5rem; overflow-x: auto; font-size: .8rem }
summary { cursor: pointer; margin: .5rem 0 }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document."""
    colors = []
    for name, palette in (("LIGHT", _LIGHT), ("DARK", _DARK)):
        colors.append((name, " ".join(f"--c{index}: {color};" for index, color in enumerate(palette))))
    style = _STYLE
    for name, rules in colors:
        style = style.replace(name, rules)
    for index in range(COLORS):
        style += (
            f".s{index} {{ stroke: var(--c{index}); color: var(--c{index}) }} .f{index} {{ fill: var(--c{index}) }}\n"
        )
    # The policy holds the browser to it: nothing is fetched, nothing runs.
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{plain(title)}</title>",
            f"<style>{style}</style></head><body>",
            *parts,
            "</body></html>\n",
        ]
    )


def section(title: str, *parts: str) -> str:
    """A heading and what is below it."""
    return f"<section><h2>{plain(title)}</h2>\n{''.join(parts)}</section>"


def note(text: str) -> str:
    """A sentence beside what matters."""
    return f'<p class="soft">{plain(text)}</p>'


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table; the first column names the line."""
    top = "".join(f"<th>{plain(name)}</th>" for name in head)
    rows = "".join(
        f"<tr><th>{plain(line[0])}</th>{''.join(f'<td>{plain(cell)}</td>' for cell in line[1:])}</tr>" for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>'


def legend(names: Iterable[str]) -> str:
    """What the colours are of, by their places."""
    items = "".join(
        f'<li><svg viewBox="0 0 10 10"><rect class="f{index % COLORS}" width="10" height="10"/></svg>{plain(name)}</li>'
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def embedded(path: Path, alt: str) -> str:
    """A picture or a film, inside the page. FileUnusable where it is too large, or not what its name says."""
    kind, magic, at = _KINDS[path.suffix]
    data = read_bytes(path, _LARGEST)
    if data[at : at + len(magic)] != magic:
        raise FileUnusable(f"{path} is no {path.suffix[1:].upper()}")
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    if kind.startswith("video"):
        return f'<video controls loop muted playsinline aria-label="{plain(alt)}" src="{source}"></video>'
    return f'<img alt="{plain(alt)}" src="{source}">'
