"""Which spaces hold pictures, and how their numbers become the bytes of an image: bounds are what becomes 0 and 255."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from jaxdreamer.envs.base import EnvError, NotFinite
from jaxdreamer.envs.host.images import resize

logger = logging.getLogger(__name__)

NOT_FINITE = "holds numbers that are not finite"
SMALLEST_SIDE = 8
SMALLEST_FLAT_SIDE = 32  # of two axes of floats: a stack of vectors, one above the other, is no picture
MOST_CHANNELS = 64
WIDEST_RANGE = 2**16
"""Of bounds; wider ones are there for form's sake, and say nothing about the numbers between them."""


class Picture:
    """How a Box holds pictures: the order of its axes, and its bounds, which become 0 and 255."""

    def __init__(self, space: Any, axes: tuple[int, ...], size: tuple[int, int]) -> None:
        """``axes`` as :func:`picture_axes` gives them; ``size`` (height, width) is what comes out."""
        self._dtype, self._axes, self._size = np.dtype(space.dtype), axes, size
        self._shape = tuple(space.shape)
        self.channels = math.prod(self._shape[axis] for axis in axes[2:])
        low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
        self._low = _single(self._hwc(low))
        width = _single(self._hwc(high)) - self._low
        self._scale = np.where(width > 0, 255.0 / np.where(width > 0, width, 1.0), 0.0)
        self._bounds = f"{low.min():g} to {high.max():g}"
        self._plain = bool(np.all(self._low == 0) and np.all(self._scale == 1))
        self._told = False

    def read(self, key: str, value: Any) -> np.ndarray:
        """``value`` of the space as a fresh uint8 [H, W, C].

        Several frames are channels side by side, the first frame's first. What lies outside of the bounds is cut, with one
        warning. NotFinite for nan and inf; EnvError for another shape, and for fractions where the space has whole numbers.
        """
        image = np.asarray(value)
        if image.shape != self._shape:
            raise EnvError(f"observation {key!r}: the space says shape {self._shape}, found {image.shape}")
        if image.dtype.kind not in "biuf":
            raise TypeError(image.dtype)
        if image.dtype.kind == "f":
            self._check_floats(key, image)
        image = self._hwc(image)
        if not (self._plain and image.dtype == np.uint8):
            image = self._to_bytes(key, image)
        return resize(np.array(image, order="C"), self._size)

    def restore(self, image: np.ndarray) -> np.ndarray:
        """Undo :meth:`read` of uint8 [H, W, C]: an array of the space, in its size, its order of axes and its bounds."""
        shape = [self._shape[axis] for axis in self._axes]
        levels = resize(image, (shape[0], shape[1])).astype(np.float64)
        value = self._low + levels / np.where(self._scale > 0, self._scale, 1.0)
        value = value if self._dtype.kind == "f" else np.rint(value)
        return value.reshape(shape).transpose(np.argsort(self._axes)).astype(self._dtype)

    def _hwc(self, array: np.ndarray) -> np.ndarray:
        array = array.transpose(self._axes) if array.ndim == len(self._axes) else array
        return array.reshape(*array.shape[:2], -1)

    def _check_floats(self, key: str, image: np.ndarray) -> None:
        if not np.isfinite(image).all():
            raise NotFinite(f"observation {key!r} {NOT_FINITE}")
        if self._dtype.kind != "f" and not np.array_equal(image, np.rint(image)):
            fraction = image[image != np.rint(image)].flat[0]
            raise EnvError(
                f"observation {key!r}: its space has whole numbers ({self._dtype}, {self._bounds}), but found "
                f"{image.dtype} with fractions such as {fraction:g}: give the space the dtype and bounds of what is returned"
            )

    def _to_bytes(self, key: str, image: np.ndarray) -> np.ndarray:
        levels = (image.astype(np.float64) - self._low) * self._scale
        if not self._told and (levels.min() < -0.5 or levels.max() > 255.5):  # closer than half a level is a rounding
            self._told = True
            logger.warning(
                "observation %r holds %g to %g, but its space says %s: the rest is clipped; give the space the right bounds",
                key,
                image.min(),
                image.max(),
                self._bounds,
            )
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def picture_axes(shape: tuple[int, ...], whole: bool) -> tuple[int, ...] | None:
    """The order of axes that makes [H, W, ...] of a shape that is a picture's, else None.

    Two sides of 8 and more, and at most 64 channels: last, no more than either side has pixels, or first, and fewer than
    that: [H, W, C] or [C, H, W]. Several frames stand before: [N, H, W, C] or [N, C, H, W]. Or there are no channels:
    [H, W], of which the sides must be 32 and more unless its numbers are ``whole``.
    """
    if len(shape) == 2:
        return (0, 1) if min(shape) >= (SMALLEST_SIDE if whole else SMALLEST_FLAT_SIDE) else None
    readings = {3: ((0, 1, 2), (1, 2, 0)), 4: ((1, 2, 0, 3), (2, 3, 0, 1))}.get(len(shape), ())
    for first, axes in enumerate(readings):
        side = min(shape[axes[0]], shape[axes[1]])
        rest = [shape[axis] for axis in axes[2:]]
        if side >= SMALLEST_SIDE and max(rest) <= side - first and 1 <= math.prod(rest) <= MOST_CHANNELS:
            return axes
    return None


def picture_of(space: Any) -> tuple[int, ...] | None:
    """:func:`picture_axes` of a Box, where all of its bounds are such that they can be stretched to 0 and 255."""
    axes = picture_axes(tuple(space.shape), np.dtype(space.dtype).kind != "f")
    return axes if axes and stretchable(space).all() else None


def stretchable(space: Any) -> np.ndarray:
    """Which of a Box's numbers have bounds that say what lies between them: bool [*shape]."""
    low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
    with np.errstate(invalid="ignore", over="ignore"):
        return (high >= low) & (high - low <= WIDEST_RANGE)


def _single(array: np.ndarray) -> np.ndarray:
    """An array of equal numbers as one of them: that is quicker to count with."""
    return array.flat[0] if array.size and (array == array.flat[0]).all() else array
