"""Interfaces of environments, one or several in lanes, and the errors of this room. Imports no gymnasium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.types import EnvSpec, Timestep


class EnvError(JaxdreamerError, RuntimeError):
    """An environment was used wrongly, or did something that its spec or spaces exclude."""


class NotFinite(EnvError):
    """A picture or a choice, which become whole numbers, holds nan or inf; the message names the key."""


class SpaceError(ConfigError):
    """An observation or action space the library cannot use; names the key, the space and what is supported."""


class Env(Protocol):
    """ONE host environment in agent units: actions are flat vectors [A], observations are what :attr:`spec` says.

    A :class:`~jaxdreamer.types.Timestep` from here has no lane axis: observations have their spec's shapes, the reward
    is a float32 scalar, the flags are bools. Arrays are the caller's to keep. Float observations and rewards may be inf or
    nan: they are handed on as they are, and the collecting loop cuts the episode there. Where a picture or a choice was, the
    entry is blank and has the reward nan.
    """

    spec: EnvSpec
    frame_rate: float
    """Agent steps per second of the task's own time, for videos."""
    can_render: bool
    """Whether :meth:`render` works."""
    # It may have ``episode_metrics``, a dict of finite floats by name, which is read at an episode's end.

    def reset(self, seed: int | None = None) -> Timestep:
        """Begin an episode: ``is_first``, reward 0. The same seed gives the same episode where the task allows it."""

    def step(self, action: np.ndarray) -> Timestep:
        """One agent step with ``action`` float32 [A]; EnvError for a non-finite action or after the episode's end."""

    def render(self) -> np.ndarray:
        """The present moment as uint8 [H, W, 3], in the size the task draws it."""

    def close(self) -> None:
        """Free what the environment holds; calling it twice is fine."""


class VectorEnv(Protocol):
    """N lanes; every step advances every lane by exactly one entry.

    A lane that is fresh, or whose previous entry was ``is_last``, is *reset* instead of stepped: its entry is ``is_first``
    with reward 0, and its action is ignored. So an episode's final observation and the next episode's first are two entries.
    A reset that no end came before says that the environment broke off: its episode ended with the entry before.
    """

    @property
    def spec(self) -> EnvSpec:
        """The lanes' common spec."""

    @property
    def spaces(self) -> dict[str, Any] | None:
        """Of one lane, see :attr:`~jaxdreamer.envs.host.agent_env.AgentEnv.spaces`; None where lanes have none."""

    @property
    def num_envs(self) -> int:
        """N, the number of lanes."""

    @property
    def frame_rate(self) -> float:
        """Agent steps per second of the task's own time, for videos."""

    @property
    def can_render(self) -> bool:
        """Whether :meth:`render` can draw this task."""

    @property
    def overlaps(self) -> bool:
        """Whether lanes advance between :meth:`send` and :meth:`receive`, while the caller does something else."""

    @property
    def agent_steps(self) -> int:
        """Agent steps of all lanes together; resets do not count."""

    @property
    def restarts(self) -> int | None:
        """Processes that were started again so far; None where there are none."""

    @property
    def notes(self) -> list[str]:
        """Lines for the log, each once; there may be more once the lanes have drawn."""

    @property
    def said(self) -> Mapping[int, dict[str, float]]:
        """Numbers that environments said of the episodes that ended with the newest entries, by lane and name."""

    @property
    def reset_mask(self) -> np.ndarray:
        """Bool [N]: which lanes the next step will reset; those of a process that is lost are added to them."""

    def step(self, actions: np.ndarray) -> Timestep:
        """One entry of every lane for ``actions`` float32 [N, A]; the first call resets all lanes."""

    def send(self, actions: np.ndarray) -> None:
        """The first half of :meth:`step`."""

    def receive(self) -> Timestep:
        """The second half of :meth:`step`: the entries."""

    def reset_lane(self, lane: int) -> Timestep:
        """Begin a lane's next episode now, leaving the present one where it is; its entry, without a lane axis."""

    def abandon(self, lane: int) -> None:
        """Leave a lane's episode where it is: its next entry is a reset."""

    def render(self, lane: int = 0) -> np.ndarray:
        """One lane's present moment as uint8 [H, W, 3], the caller's to keep."""

    def state(self) -> dict[str, Any]:
        """JSON-ready: the seed, the steps counted, and where each lane is; for :meth:`restore`."""

    def restore(self, state: dict[str, Any], actions: Sequence[np.ndarray | None]) -> list[Timestep | None]:
        """Bring every lane to where :meth:`state` was taken; returns the latest entry of each.

        ``actions`` holds, for each lane, the agent's actions [n, A] of its current episode, oldest first, without the
        reset entry's; None for a lane whose episode is over, or not to be played again: its next entry is a reset.
        Deterministic tasks come out exactly where they were; whether they did shows by comparing an entry with what
        replay holds. The entry is None for a lane that was not played again.
        """

    def close(self) -> None:
        """Free what the lanes hold; calling it twice is fine."""
