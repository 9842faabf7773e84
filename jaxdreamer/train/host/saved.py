"""The part of a host loop's checkpoint that is no array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from jaxdreamer.files import FileUnusable, list_of, natural, number
from jaxdreamer.replay import disk
from jaxdreamer.train import given
from jaxdreamer.train.saved import Saved


def _lane(value: Any) -> bool:
    """Whether it is where a lane was: numbers and flags by name."""
    return isinstance(value, dict) and all(isinstance(v, bool) or number(v) for v in value.values())


@dataclass(frozen=True, kw_only=True)
class HostSaved(Saved):
    """What a checkpoint of a host loop holds beside its arrays."""

    broken_in_a_row: Annotated[list[int], [natural]]
    running: Annotated[dict[str, list[float]], {"returns": [number], "lengths": [natural]}]
    rng: dict[str, Any]
    pending: Annotated[list[dict[str, list[int]]], [{"start": [natural], "lane": [natural]}]]
    """Windows that were asked for and not yet learned from."""
    pending_shape: Annotated[list[int], list_of(natural, 3)]
    envs: Annotated[dict[str, Any], {"seed": natural, "agent_steps": natural, "lanes": [_lane]}]
    begun: bool
    """Whether the environments had begun a step."""
    replay: Annotated[dict[str, Any], disk.FORM]
    data: Annotated[dict[str, int] | None, given.is_about]
    """What the run was given to learn from."""

    @classmethod
    def of_lanes(cls, data: Any, lanes: int) -> HostSaved:
        """:meth:`read`, for a run of so many environments."""
        saved = cls.read(data)
        found = [*map(len, (saved.broken_in_a_row, *saved.running.values(), saved.envs["lanes"]))]
        if set(found) != {lanes} or any(
            lane >= lanes + bool(saved.data) for item in saved.pending for lane in item["lane"]
        ):
            raise FileUnusable(f"{cls.NAME} is not of a run with {lanes} environments")
        try:
            np.random.default_rng().bit_generator.state = saved.rng
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # as NumPy has it
            raise FileUnusable(f"{cls.NAME}: 'rng' is no state of a generator ({error})") from error
        return saved
