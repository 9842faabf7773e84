"""Where batches and states lie: the one place through which a loop's arrays reach its devices and come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxdreamer.types import PyTree


class Placement(NamedTuple):
    """How a loop's arrays lie on devices. With one device nothing is shared out; see :func:`one_device`."""

    put_batch: Callable[[PyTree], PyTree]
    """Host arrays [..., B, ...] to the devices, each of which gets its share of the B sequences."""
    put_state: Callable[[PyTree], PyTree]
    """A tree that every device needs whole, to all of them: train states, plans, keys."""
    gather: Callable[[PyTree], PyTree]
    """A tree from the devices to NumPy arrays of this process."""
    is_writer: bool = True
    """Whether this process writes the run's folder: metrics, checkpoints, pictures. Of several processes one does."""


def one_device() -> Placement:
    """Everything on jax's default device."""
    return Placement(put_batch=jax.device_put, put_state=jax.device_put, gather=jax.device_get)
