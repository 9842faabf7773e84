"""Where a model's things are in a state: bodies, cameras, lights and tendons.

A slack string of length L between points h apart horizontally and v vertically hangs in a catenary, z = a cosh(x / a),
whose parameter follows from sqrt(L^2 - v^2) = 2 a sinh(h / 2a).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdreamer.envs.device.raycast.scene import CAPSULE, Geom, Mount, Scene, Tendon
from jaxdreamer.envs.device.raycast.shapes import Array, parts, unit

PIECES = 12  # capsules of a slack string
TAUT = 1.0001  # a string is at least this many times as long as the way between its ends: a grows without end as it tightens
STEEP = (
    1e-3  # and its ends are at least this share of it apart horizontally: a shrinks to 0 as they come to hang in a line
)


class Poses(NamedTuple):
    """Where things are: position [N, 3], axes [N, 3, 3] in columns."""

    pos: Array
    rot: Array


def with_world(pos: Array, rot: Array) -> Poses:
    """Bodies [1 + L] of links' positions [L, 3] and quaternions [L, 4]: the world comes first."""
    w, x, y, z = jnp.moveaxis(jnp.asarray(rot, jnp.float32), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    matrix = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
    pos = jnp.concatenate([jnp.zeros((1, 3), jnp.float32), jnp.asarray(pos, jnp.float32)])
    return Poses(pos, jnp.concatenate([jnp.eye(3, dtype=jnp.float32)[None], matrix]))


def mounted(mount: Mount, bodies: Poses) -> tuple[Array, Array]:
    """Position [3] and axes [3, 3] of a camera or light."""
    pos = _point(mount.weights, mount.offsets, bodies) + mount.shift
    if mount.target is None:
        return pos, compose(bodies.rot[mount.body], mount.rot) if mount.body else mount.rot
    backward = unit(parts(pos - _point(*mount.target, bodies)))
    right = unit((-backward[1], backward[0], 0.0))  # level
    up = (-backward[2] * right[1], backward[2] * right[0], backward[0] * right[1] - backward[1] * right[0])
    return pos, jnp.stack([jnp.stack([jnp.asarray(c) for c in row]) for row in zip(right, up, backward)])


def rotate(rot: Array, vector: Array) -> Array:
    """``rot`` [..., 3, 3] times ``vector`` [..., 3]; sums, as matrix units would round."""
    return jnp.sum(rot * vector[..., None, :], -1)


def compose(a: Array, b: Array) -> Array:
    """``a`` [..., 3, 3] times ``b`` [..., 3, 3]."""
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], -2)


def placed(scene: Scene, bodies: Poses) -> tuple[tuple[Geom, ...], Poses]:
    """All shapes of a picture, the pieces of tendons among them, and where they are in the world."""
    of = np.array([geom.body for geom in scene.geoms], int)
    pos = np.array([geom.pos for geom in scene.geoms], np.float32).reshape(-1, 3)
    rot = np.array([geom.rot for geom in scene.geoms], np.float32).reshape(-1, 3, 3)
    geoms, places = scene.geoms, Poses(bodies.pos[of] + rotate(bodies.rot[of], pos), compose(bodies.rot[of], rot))
    for tendon in scene.tendons:
        pieces, where = capsules(tendon, bodies)
        geoms, places = (*geoms, *pieces), Poses(*map(jnp.concatenate, zip(places, where)))
    return geoms, places


def capsules(tendon: Tendon, bodies: Poses) -> tuple[list[Geom], Poses]:
    """The geoms that a tendon is drawn as, and where they are in the world."""
    start, end = (bodies.pos[body] + rotate(bodies.rot[body], point) for body, point in tendon.ends)
    points, material = jnp.stack([start, end]), tendon.material
    if tendon.slack is not None:
        points = hang(start, end, tendon.slack, tendon.down)
    if tendon.limit is not None:
        length, colour = tendon.limit
        taut = jnp.sum((end - start) ** 2) > length * length
        rgba = [jnp.where(taut, a, b) for a, b in zip(colour[:3], material.rgba)]
        material = material._replace(rgba=(*rgba, material.rgba[3]))
    step = points[1:] - points[:-1]
    along = jnp.stack(unit(parts(step)), -1)
    half = jnp.sqrt(jnp.sum(step * step, -1)) / 2
    rot = jnp.stack([jnp.zeros_like(along), jnp.zeros_like(along), along], -1)  # a capsule is round: only its z counts
    geoms = [Geom(CAPSULE, 0, np.zeros(3), np.eye(3), (tendon.radius, size, 0.0), material) for size in half]
    return geoms, Poses((points[1:] + points[:-1]) / 2, rot)


def hang(start: Array, end: Array, length: float, down: np.ndarray) -> Array:
    """[PIECES + 1, 3]: points at equal steps along the catenary between two points [3]; a straight line where it is taut.

    ``length`` is in metres and ``down`` [3] a unit vector. With x = h / 2a, sinh(x) / x is known, and Newton's method on
    its logarithm falls to x from sqrt(6 (sinh(x) / x - 1)), which is never below it.
    """
    way = end - start
    drop = jnp.sum(way * down)
    level = way - drop * down
    long = jnp.maximum(length, TAUT * jnp.sqrt(jnp.sum(way * way)))
    apart = jnp.maximum(jnp.sqrt(jnp.sum(level * level)), STEEP * long)
    ratio = jnp.sqrt(long * long - drop * drop) / apart
    x = jnp.sqrt(6 * (ratio - 1))
    for _ in range(8):
        x = x - (jnp.log(jnp.sinh(x) / x) - jnp.log(ratio)) / (1 / jnp.tanh(x) - 1 / x)
    a, middle = apart / (2 * x), -jnp.arctanh(drop / long)  # of x / a, whose lowest point is 0
    arc = jnp.linspace(jnp.sinh(middle - x), jnp.sinh(middle + x), PIECES + 1)[:, None]
    across = a * (jnp.arcsinh(arc) - (middle - x))
    up = a * (jnp.sqrt(1 + arc * arc) - jnp.cosh(middle - x))
    sagging = start + across / apart * level - up * down
    straight = start + jnp.linspace(0, 1, PIECES + 1)[:, None] * way
    return jnp.where(length < long, straight, sagging)


def _point(weights: np.ndarray, offsets: np.ndarray, bodies: Poses) -> Array:
    if not weights.any():
        return np.zeros(3, np.float32)
    return jnp.sum(weights[:, None] * (bodies.pos + rotate(bodies.rot, offsets)), 0)
