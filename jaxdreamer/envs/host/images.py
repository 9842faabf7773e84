"""Images as the library wants them: uint8, H x W x C, resized by area averaging. The only place that resizes."""

from __future__ import annotations

import numpy as np

from jaxdreamer.envs.base import EnvError


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``image`` uint8 [H, W, C] in another ``size`` (height, width), each new pixel the mean of the area it covers."""
    if image.shape[:2] == tuple(size):
        return image
    from PIL import Image

    height, width = size
    if image.shape[2] == 3:
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    # Channel by channel: PIL would take four for colour and opacity and mix them, but they may be stacked frames.
    channels = [np.ascontiguousarray(image[..., i]) for i in range(image.shape[2])]
    return np.stack(
        [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BOX)) for c in channels], -1
    )


def to_rgb(frame: object) -> np.ndarray:
    """A rendered frame, uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], as a fresh uint8 [H, W, 3]."""
    image = np.array(frame)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise EnvError(f"expected a rendered frame as uint8 [H, W, 3], found {image.dtype} {list(image.shape)}")
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., :3])
