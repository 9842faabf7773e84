"""Whether the numbers of an observation are of a size that networks see, by what came of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxdreamer.types import ArraySpec

FEW_LEVELS = 16
"""Of 255: a picture that shows no more is almost a single colour."""
SMALL, LARGE = 0.1, 1e3
"""Vectors that stay within the first or reach the second are far from unit scale."""


def ill_scaled(key: str, spec: ArraySpec, low: ArrayLike, high: ArrayLike) -> str:
    """What is wrong with the size of the numbers that came for ``key``, and what helps; empty where nothing is.

    ``low`` and ``high`` are the least and the greatest that came, of each number or of all.
    """
    least, greatest = float(np.min(low, initial=np.inf)), float(np.max(high, initial=-np.inf))
    if not greatest > least:
        return ""
    if spec.kind == "image" and greatest - least < FEW_LEVELS:
        return (
            f"{key!r} is almost a single colour{' (black)' if greatest < FEW_LEVELS else ''}: it uses {greatest - least:g} "
            "of 255 levels. If its numbers are symbols, give its space their own lowest and highest as bounds, which "
            "become 0 and 255"
        )
    reach = max(abs(least), abs(greatest))
    if spec.kind == "vector" and reach < SMALL:
        return (
            f"{key!r} stays within {reach:.2g} of 0, where its errors hardly count: set model.normalize_inputs=true, or, "
            "where its space's bounds are wider than its whole numbers, give it their own"
        )
    if spec.kind == "vector" and reach > LARGE:
        return f"{key!r} reaches {reach:.3g}: set model.symlog_inputs=true or model.normalize_inputs=true"
    return ""
