"""The part of a checkpoint that is no array: its ``host.json``, as dataclasses that know the form of every value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_origin, get_type_hints

from jaxdreamer.config import ConfigError
from jaxdreamer.files import list_of, natural, number, optional, require
from jaxdreamer.record import checkpoint
from jaxdreamer.record.parts import Block, Part, write_part
from jaxdreamer.record.progress import Progress
from jaxdreamer.train.crew import Crew
from jaxdreamer.train.schedule import Segments
from jaxdreamer.train.tally import Tally

CADENCES = ("eval", "log", "checkpoint")
"""In the order in which they are served."""
_EVERY = {name: list_of(number, 2) for name in CADENCES}


def read_newest(
    folders: Sequence[Path], read: Callable[[int, int], tuple[Any, Any]], progress: Progress
) -> list[tuple[Any, Any]]:
    """What ``read(index, step)`` gives for each of the ``folders``, of their newest common checkpoint that can be used.

    Raises:
        ConfigError: they have no checkpoint in common.
        CheckpointDamaged: they have none in common that is undamaged.
    """
    steps = [checkpoint.steps(folder) for folder in folders]
    common = sorted(set.intersection(*map(set, steps)), reverse=True)
    if not common:
        raise ConfigError(
            "the seeds' folders have no checkpoint in common: resume each alone, with its own --logdir: "
            + "; ".join(f"{folder.parent}: {there}" for folder, there in zip(folders, steps))
        )
    reasons = []
    for step in common:
        try:
            return [read(index, step) for index in range(len(folders))]
        except checkpoint.CheckpointDamaged as error:
            reasons.append(str(error))
            if step != common[-1]:
                progress.log(f"checkpoint {step} is damaged and skipped: {error}")
    raise checkpoint.CheckpointDamaged("; ".join(reasons))


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What both loops keep; each adds its own. A field's annotation gives its form, see :func:`jaxdreamer.files.require`."""

    loop: str
    config: Annotated[dict[str, Any], {"run": dict}]
    every: Annotated[dict[str, list[int]], _EVERY]
    """By name: the interval, and where it was last due."""
    finished_at: Annotated[int | None, optional(natural)]
    """Where the run was when it was evaluated for the last time; None before that."""
    ended: bool
    """Whether it was over before its budget was spent."""
    segments: Annotated[dict[str, int], Segments.FORM]
    tally: Annotated[dict[str, Any], Tally.FORM]
    metrics_offset: Annotated[int, natural]
    """Bytes of the log."""

    NAME: ClassVar = "host.json"

    @classmethod
    def read(cls, data: Any) -> Self:
        """Read what :meth:`to_json` made; FileUnusable, naming the value, for anything else."""
        hints = get_type_hints(cls, include_extras=True)
        forms = {}
        for name in (field.name for field in dataclasses.fields(cls)):
            kind = get_origin(hints[name])
            forms[name] = hints[name].__metadata__[0] if kind is Annotated else kind or hints[name]
        require(data, forms, cls.NAME)
        return cls(**{name: data[name] for name in forms})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def parts_of_others(crew: Crew, folder: Path, tree: Any) -> list[Part]:
    """What the other processes hold of a checkpoint's arrays, which they write into ``folder``; none of one process."""
    if crew.alone:
        return []
    mine = None if crew.leads else write_part(folder, crew.process, tree)
    said = [json.loads(text) for text in crew.collect("writing a checkpoint", json.dumps(mine))]
    return [
        Part(name, size, crc, [Block(*block) for block in blocks]) for name, size, crc, blocks in filter(None, said)
    ]
