"""What an environment is to the library, and the errors this room raises. Imports neither jax nor gymnasium."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.types import EnvSpec, Timestep


class EnvError(JaxdreamerError, RuntimeError):
    """An environment was used wrongly, or did what its own description rules out."""


class NotFinite(EnvError):
    """What becomes whole numbers, a picture or a choice, holds nan or inf, which these cannot say; names the key."""


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

    def reset(self, seed: int | None = None) -> Timestep:
        """Begin an episode: ``is_first``, reward 0. The same seed gives the same episode where the task allows it."""

    def step(self, action: np.ndarray) -> Timestep:
        """One agent step with ``action`` float32 [A]; EnvError for a non-finite action or after the episode's end."""

    def render(self) -> np.ndarray:
        """The present moment as uint8 [H, W, 3], in the size the task draws it."""

    def close(self) -> None:
        """Free what the environment holds; calling it twice is fine."""
