"""The command for experience as files: data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from jaxdreamer.cli import words
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.errors import shown
from jaxdreamer.files import shell_word


@dataclass(frozen=True)
class DataOptions:
    """Write a run's replay as episodes, or say what a folder of episodes, or a dataset of Minari's or LeRobot's, holds.

    `jaxdreamer data export RUN`, `jaxdreamer data show PATH`; `jaxdreamer train --data PATH` learns from them.
    """

    what: tuple[str, ...] = field(metadata=words.BARE)
    """export RUN, or show PATH."""
    to: Literal["npz", "minari"] = "npz"
    """npz: a folder with a file of NumPy arrays for each episode. minari: a Minari dataset."""
    out: Path | None = field(default=None, metadata={"short": "o"})
    """The folder to write to. Default: data in the run's folder, for Minari data-v0."""


def data(options: DataOptions) -> int:
    """``jaxdreamer data``."""
    if len(options.what) != 2 or options.what[0] not in ("export", "show"):
        raise ConfigError(f"data takes `export RUN` or `show PATH`, found {shown(' '.join(options.what))}")
    action, path = options.what
    if action == "show":
        return _show(path)
    from jaxdreamer.data.export import export_data

    written = export_data(path, options.to, options.out)
    print(f"{written.folder}: {written.episodes:,} episodes of {written.entries:,} entries")
    print(f"to learn from them: jaxdreamer train --data {shell_word(written.folder)}")
    return 0


def _show(path: str) -> int:
    from jaxdreamer.data.source import open_source
    from jaxdreamer.train.folder import describe

    source = open_source(path, EnvConfig())
    for label, text in describe(source.spec):
        print(f"{label}: {text}")
    returns = [float(episode["reward"].sum()) for episode in source]
    print(f"{len(source.lengths):,} episodes of {sum(source.lengths):,} entries ({source.kind}{source.remark})")
    print(f"return {fmean(returns):.2f} on average, lowest {min(returns):.2f}, highest {max(returns):.2f}")
    return 0
