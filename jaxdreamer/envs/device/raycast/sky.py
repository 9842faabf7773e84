"""The skybox behind everything: six square pictures around the eye, in OpenGL's order and orientation.

OpenGL's cube has y up and MuJoCo's world z: (x, y, z) is looked up as (x, z, -y).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxdreamer.envs.device.raycast.shapes import TINY, Array, Vector, parts


def behind(faces: np.ndarray | None, d: Vector, axes: Array, pixel: float) -> Vector:
    """Colour of the sky in the directions d = (x, y, -1) of a camera whose axes are ``axes`` [3, 3].

    ``faces``, [6, W, W, 3] in [0, 1]: right, left, up, down, front, back; None: black. Where the camera does not turn the
    sky is a constant of the program, averaged over each pixel as wide as ``pixel`` at depth 1. Where it turns, colours of
    the four sides are averaged along rows, and up and down are one colour each.
    """
    if faces is None:
        return (np.float32(0),) * 3
    if not isinstance(axes, np.ndarray):
        return _gradient(faces, d, axes)
    fine = int(np.ceil(pixel * faces.shape[1] / 2))  # looks at each texel, which is 2 / W wide at depth 1
    steps = ((np.arange(fine) + 0.5) / fine - 0.5) * pixel
    looks = [_texels(faces, (d[0] + right, d[1] + up, d[2]), axes) for right in steps for up in steps]
    return parts(np.mean(looks, 0, dtype=np.float32))


def _texels(faces: np.ndarray, d: Vector, axes: np.ndarray) -> np.ndarray:
    x, z, y = (sum(axes[i, j] * d[j] for j in range(3)) for i in range(3))
    z = -z
    reach = np.stack([abs(x), abs(y), abs(z)])
    along = reach.argmax(0)
    face = 2 * along + (np.choose(along, [x, y, z]) < 0)
    across, down = np.choose(face, [-z, z, x, x, x, -x]), np.choose(face, [-y, -y, z, -z, -y, -y])
    width = faces.shape[1]
    row, column = (np.minimum((c / reach.max(0) + 1) / 2 * width, width - 1).astype(int) for c in (down, across))
    return faces[face, row, column]


def _gradient(faces: np.ndarray, d: Vector, axes: Array) -> Vector:
    sides = faces[[0, 1, 4, 5]].mean((0, 2))[::-1]
    colours = jnp.asarray([faces[3].mean((0, 1)), *sides, faces[2].mean((0, 1))])
    x, y, z = (sum(axes[i, j] * d[j] for j in range(3)) for i in range(3))
    level = z / jnp.maximum(jnp.maximum(abs(x), abs(y)), TINY)
    index = jnp.clip(jnp.round((level + 1) / 2 * len(sides) + 0.5), 0, len(sides) + 1).astype(jnp.int32)
    return parts(colours[index])
