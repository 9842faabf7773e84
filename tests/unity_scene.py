"""What the test player's cameras show; known to the player and to the tests, which run in different interpreters."""

from __future__ import annotations

import numpy as np


def picture(agent: int, time: int, shape: list[int], blank: bool = False) -> np.ndarray:
    """What an agent's camera shows, uint8 [H, W, C]."""
    y, x, c = np.indices(shape)
    return (np.full(shape, 40) if blank else (y + 2 * x + 3 * c + 7 * time + 50 * agent) % 256).astype(np.uint8)
