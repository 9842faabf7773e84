"""The pictures of open-loop prediction in a run's folder, and labels around them."""

from __future__ import annotations

from pathlib import Path

from jaxdreamer.config import Config
from jaxdreamer.files import FileUnusable, natural, read_json, require, unique_name
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.svg import plain

__all__ = ["labelled", "newest", "shape"]

_FORM = {"obs": {...: {"shape": [natural], "kind": str}}}
_ROWS = ("truth", "model", "error")
_PIXELS = 30  # of a page, for each entry


def _images(rundir: RunDir) -> dict[str, tuple[int, int]]:
    """Height and width of each image that the agent sees, by key."""
    data = read_json(rundir.spec)
    require(data, _FORM, rundir.spec)
    found = {key: item["shape"] for key, item in data["obs"].items() if item["kind"] == "image"}
    return {key: (size[0], size[1]) for key, size in found.items() if len(size) == 3}


def shape(rundir: RunDir, key: str) -> tuple[int, int]:
    """Height and width of an image, as the agent sees it."""
    return _images(rundir)[key]


def newest(rundir: RunDir) -> dict[str, Path]:
    """The newest picture of each image, by key."""
    if not rundir.spec.is_file():
        return {}
    found = {
        key: sorted(rundir.videos.glob(f"open_loop-{unique_name(key)}-{'[0-9]' * 12}.png")) for key in _images(rundir)
    }
    return {key: paths[-1] for key, paths in found.items() if paths}


def labelled(picture: str, path: Path, caption: str, height: int, width: int, config: Config) -> str:
    """The picture with its rows named, and the entries that the model saw told from those it did not.

    Args:
        picture: ``path`` as HTML has it.
        path: of a picture as :func:`jaxdreamer.record.video.open_loop_image` makes them, some below another.
        caption: below it.
        height, width: of an entry.
        config: of the run.
    """
    from PIL import Image

    with Image.open(path) as image:
        across, down = image.size
    entries, sequences = (across - 2) // width, down // (3 * height + 2)
    seen = max(1, config.replay.batch_length // 4)
    if entries <= seen or (entries * width + 2, sequences * (3 * height + 2)) != (across, down):
        raise FileUnusable(f"{path} is {across}x{down}, which are no sequences of {width}x{height}")
    rows = "".join(f"<span>{name}</span>" for name in _ROWS) * sequences
    along = (
        f'<span class="s2" style="flex:{seen}">shown to it ({seen})</span>'
        f'<span class="s1" style="flex:{entries - seen}">predicted ({entries - seen})</span>'
    )
    sized = picture.replace("<img ", f'<img style="width:{_PIXELS * entries}px" ', 1)
    return (
        f'<figure class="wide"><div class="loop" style="width:max-content"><div class="along">{along}</div>'
        f'<div class="rows">{rows}</div><div>{sized}</div></div><figcaption>{plain(caption)}</figcaption></figure>'
    )
