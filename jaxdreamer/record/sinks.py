"""Further places for metrics, by name: TensorBoard and Weights & Biases, each behind an extra.

Another one is a class here, or elsewhere, with the methods of :class:`Sink` or :class:`FullSink`, and a line in SINKS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxdreamer.errors import ConfigError, import_extra, nearest, shown
from jaxdreamer.files import FileUnusable, read_bytes, read_text
from jaxdreamer.saving import write_text


class Sink(Protocol):
    """Where records go beside the JSONL file."""

    name: str

    def write(self, record: Mapping[str, Any], step: int) -> None:
        """Take one record; ``step`` is its ``env_frames``."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Take one picture, uint8 [H, W, 3]."""

    def close(self) -> None:
        """Flush and end."""


@runtime_checkable
class FullSink(Sink, Protocol):
    """One that takes films and settings, too; others are not handed any."""

    def film(self, name: str, path: Path, step: int) -> None:
        """Take one film, a GIF."""

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Take the run's settings by dotted name, plain values, before its first record; of a resumed run anew."""


class TensorBoard:
    """Event files in ``folder/tensorboard``. Points after ``resume_frames``, or all older ones, are hidden."""

    name = "tensorboard"

    @staticmethod
    def library() -> Any:
        """What it is made with. MissingExtra where that is not installed."""
        return import_extra("tensorboardX", "tensorboard", "TensorBoard logging")

    def __init__(self, folder: Path, resume_frames: int | None = None):
        module = self.library()
        purge = 0 if resume_frames is None else resume_frames + 1
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def write(self, record: Mapping[str, Any], step: int) -> None:
        """See :class:`Sink`."""
        for key, value in record.items():
            if value is not None:
                self._writer.add_scalar(key, value, step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """See :class:`Sink`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def film(self, name: str, path: Path, step: int) -> None:
        """See :class:`Sink`. It is shown among the images, where TensorBoard plays a GIF."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        with Image.open(path) as film:
            width, height = film.size
        # add_video would draw the frames again, with moviepy.
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=read_bytes(path))
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """See :class:`Sink`. They are a table among the texts."""
        rows = "".join(f"| {key} | {_cell(value)} |\n" for key, value in settings.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)

    def close(self) -> None:
        """See :class:`Sink`."""
        self._writer.close()


class Wandb:
    """A Weights & Biases run; a resumed run continues the one whose id is in ``folder``."""

    name = "wandb"

    @staticmethod
    def library() -> Any:
        """What it is made with. MissingExtra where that is not installed."""
        return import_extra("wandb", "wandb", "Weights & Biases logging")

    def __init__(self, folder: Path, resume_frames: int | None = None):
        self._module = self.library()
        marker = folder / "wandb_id.txt"
        known = read_text(marker, 1000).strip() if resume_frames is not None and marker.exists() else None
        if known is not None and not re.fullmatch(r"[\w-]{1,128}", known):
            raise FileUnusable(f"{marker} holds no id of a Weights & Biases run, but {shown(known)}: remove it")
        # Seeds trained side by side have runs of their own, in one process.
        name = f"{folder.parent.name}-{folder.name}" if folder.name.startswith("seed-") else folder.name
        # Seeds of one run are a group. The project is the one that is set, or ours instead of "uncategorized".
        about = {"project": os.environ.get("WANDB_PROJECT") or "jaxdreamer"}
        if name != folder.name:
            about["group"] = folder.parent.name
        try:
            self._run = self._module.init(
                dir=str(folder), name=name, id=known, resume="allow", reinit="create_new", **about
            )
        except (self._module.Error, ValueError) as error:  # no login, a key of the wrong length, no network
            why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ConfigError(
                f"Weights & Biases cannot be used: {why}. Log in with `wandb login`; or set "
                f"WANDB_MODE=offline, which keeps its metrics in {folder} for `wandb sync`; or leave --wandb out"
            ) from error
        write_text(marker, self._run.id)

    def write(self, record: Mapping[str, Any], step: int) -> None:
        """See :class:`Sink`."""
        self._run.log({key: value for key, value in record.items() if value is not None}, step=step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """See :class:`Sink`."""
        self._run.log({name: self._module.Image(image)}, step=step)

    def film(self, name: str, path: Path, step: int) -> None:
        """See :class:`Sink`."""
        self._run.log({name: self._module.Video(str(path), format="gif")}, step=step)

    def settings(self, settings: Mapping[str, Any]) -> None:
        """See :class:`Sink`."""
        self._run.config.update(dict(settings), allow_val_change=True)

    def close(self) -> None:
        """See :class:`Sink`."""
        self._run.finish()


def _cell(value: Any) -> str:
    """A value in a cell of a table in Markdown."""
    text = "" if value is None else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


SINKS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}


def check_sinks(names: Iterable[str | Sink]) -> None:
    """MissingExtra, with the pip line, or ConfigError where one of these could not be made for want of its library."""
    for name in names:
        if isinstance(name, str):
            if name not in SINKS:
                raise ConfigError(f"unknown metrics sink {name!r}{nearest(name, SINKS)}; there are: {', '.join(SINKS)}")
            SINKS[name].library()


def make_sinks(
    names: Iterable[str | Sink], folder: str | os.PathLike[str], resume_frames: int | None = None
) -> list[Sink]:
    """The sinks of these names; one that is no name is a sink already.

    ``resume_frames`` is where a resumed run continues; None starts over, even where the folder holds an earlier run's.
    Raises MissingExtra, with the pip line, or ConfigError.
    """
    check_sinks(names := list(names))
    return [SINKS[name](Path(folder), resume_frames) if isinstance(name, str) else name for name in names]
