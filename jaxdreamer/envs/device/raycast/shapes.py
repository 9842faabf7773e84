"""Where the rays of a picture meet a shape: closed forms in the camera's coordinates.

The eye is the origin and a ray is d = (x, y, -1): what differs between pixels is linear in x and y, all else is a scalar
of the shape. t, a ray's parameter, is the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdreamer.envs.device.raycast.scene import BOX, CAPSULE, CYLINDER, ELLIPSOID, SPHERE, Geom

FAR = 1e8  # beyond every shape: the depth of nothing
TINY = 1e-9

Array = Any  # a jax.Array, or a NumPy constant until a traced value meets it
Vector = tuple[Array, Array, Array]  # components apart, so that none is ever stacked on the way


class Rays(NamedTuple):
    """All pixels' rays d = (x, y, -1)."""

    d: Vector
    """[1, W], [H, 1], scalar"""
    square: Array
    """d . d, [H, W]"""
    pixel: float
    """A pixel's width at depth 1"""
    near: float


class Shape(NamedTuple):
    """One shape in the camera's coordinates; each number a scalar, or [H, W] where every pixel has its own shape."""

    centre: Vector
    axes: tuple[Vector, Vector, Vector]
    size: Vector


class Hit(NamedTuple):
    """What the rays meet of one shape, each [H, W]. What is not used of it is not computed."""

    rank: Array
    """Smaller is seen first: t where a ray hits, then misses by how near they are, then what is behind the eye"""
    cover: Array
    """The share of the pixel that is covered, in [0, 1]"""
    t: Array
    normal: Vector


def place(geom: Geom, centre: Array, local: Array) -> Shape:
    """A geom whose centre [3] and axes [3, 3] are known in the camera's coordinates."""
    size = geom.size if geom.kind != SPHERE else (geom.size[0], 0.0, 0.0)  # a sphere is a capsule without length
    axes = tuple(parts(local[:, i]) for i in range(3))
    return Shape(parts(centre), axes, size)  # type: ignore[arg-type]


def _round(shape: Shape, rays: Rays) -> Hit:
    """A capsule: all balls of one radius whose centres are c + s u with abs(s) <= half; a sphere has half = 0.

    Two values of s matter: where the ray enters the cylinder around the axis, clamped to the capsule (the ball there is
    the one it hits first), and where the ray passes the axis most closely (the ball there says how near a miss it was).
    """
    radius, half, _ = shape.size
    c, u, d, dd = shape.centre, shape.axes[2], rays.d, rays.square
    dc, cc = dot(d, c), dot(c, c)
    du, cu = dot(d, u), dot(c, u)
    a, b = jnp.maximum(dd - du * du, TINY), dc - du * cu  # a is 0 for a ray along the axis, where any s is right
    root = jnp.sqrt(jnp.maximum(b * b - a * (cc - cu * cu - radius * radius), 0))
    s = jnp.clip((b - root) / a * du - cu, -half, half)
    first = dc + s * du, cc + s * (2 * cu + s)  # of that ball: d . centre, centre . centre
    s0 = jnp.clip(b / a * du - cu, -half, half)
    closest = dc + s0 * du, cc + s0 * (2 * cu + s0)
    depth = first[0] * first[0] - dd * (first[1] - radius * radius)  # radius^2 - distance^2, times dd
    t = (first[0] - jnp.sqrt(jnp.maximum(depth, 0))) / dd
    rank = jnp.where(depth > 0, t, FAR * (1 + jnp.minimum(-depth, 1)))
    scale = 1 / radius
    normal = vector([(t * d[i] - c[i] - s * u[i]) * scale for i in range(3)])
    distance = jnp.sqrt(jnp.maximum(closest[1] - closest[0] * closest[0] / dd, 0))
    blur = jnp.maximum(rays.pixel * closest[0] / dd, TINY)  # a pixel's width at that depth
    strip = jnp.minimum(distance + radius, blur / 2) - jnp.maximum(distance - radius, -blur / 2)
    return Hit(rank, jnp.clip(strip / blur, 0, 1), t, normal)


def _box(shape: Shape, rays: Rays) -> Hit:
    """Three slabs: the ray is inside after the last entry and before the first exit."""
    origin, d = _inside(shape, rays)
    inverse = [1 / jnp.where(jnp.abs(c) < TINY, TINY, c) for c in d]
    reach = [jnp.abs(inverse[i]) * shape.size[i] for i in range(3)]
    enter = [-origin[i] * inverse[i] - reach[i] for i in range(3)]
    leave = [-origin[i] * inverse[i] + reach[i] for i in range(3)]
    t = jnp.maximum(jnp.maximum(enter[0], enter[1]), enter[2])
    inside = t < jnp.minimum(jnp.minimum(leave[0], leave[1]), leave[2])
    faces = [jnp.where(enter[i] == t, -jnp.sign(d[i]), 0) for i in range(3)]
    return _solid(inside, t, _world(shape, faces))


def _cylinder(shape: Shape, rays: Rays) -> Hit:
    """A slab cut by an endless cylinder."""
    radius, half, _ = shape.size
    o, d = _inside(shape, rays)
    a = jnp.maximum(d[0] * d[0] + d[1] * d[1], TINY)
    b = o[0] * d[0] + o[1] * d[1]
    discriminant = b * b - a * (o[0] * o[0] + o[1] * o[1] - radius * radius)
    root = jnp.sqrt(jnp.maximum(discriminant, 0))
    inverse = 1 / jnp.where(jnp.abs(d[2]) < TINY, TINY, d[2])
    side, lid = (-b - root) / a, -o[2] * inverse - jnp.abs(inverse) * half
    t = jnp.maximum(side, lid)
    inside = (discriminant > 0) & (t < jnp.minimum((-b + root) / a, -o[2] * inverse + jnp.abs(inverse) * half))
    on_side = side > lid
    normal = (
        jnp.where(on_side, (o[0] + t * d[0]) / radius, 0),
        jnp.where(on_side, (o[1] + t * d[1]) / radius, 0),
        jnp.where(on_side, 0, -jnp.sign(d[2])),
    )
    return _solid(inside, t, _world(shape, normal))


def _ellipsoid(shape: Shape, rays: Rays) -> Hit:
    """A unit ball, in coordinates divided by the radii."""
    scale = [1 / size for size in shape.size]
    origin, direction = _inside(shape, rays)
    o = vector([scale[i] * origin[i] for i in range(3)])
    d = vector([scale[i] * direction[i] for i in range(3)])
    a, b = dot(d, d), dot(o, d)
    discriminant = b * b - a * (dot(o, o) - 1)
    t = (-b - jnp.sqrt(jnp.maximum(discriminant, 0))) / a
    normal = unit(vector([(o[i] + t * d[i]) * scale[i] for i in range(3)]))
    return _solid(discriminant > 0, t, _world(shape, normal))


def _solid(inside: Array, t: Array, normal: Vector) -> Hit:
    """A hit that covers all of its pixel, or nothing."""
    return Hit(jnp.where(inside, t, 2 * FAR), inside.astype(jnp.float32), t, normal)


def plane(geom: Geom, shape: Shape, rays: Rays, far: float) -> tuple[Hit, Vector, tuple[Array, Array]]:
    """A rectangle: the hit, its texture's colour, and where on it that is, x and y from 0 to 1.

    Edges and texture are filtered over the pixel's footprint, the texture as wide as the footprint is long, as mipmaps
    do. From behind a plane is faint. Infinite planes end at ``far``.
    """
    c, n, d = shape.centre, shape.axes[2], rays.d
    nc, nd = dot(n, c), dot(n, d)
    slope = 1 / jnp.where(jnp.abs(nd) < TINY, TINY, nd)
    t = nc * slope
    cover = jnp.where(t > rays.near, jnp.where(nc < 0, 1.0, 0.3), 0) * geom.material.rgba[3]
    where: list[Array] = []
    periods: list[Array] = []
    steps: list[list[Array]] = [[], []]
    for axis in (0, 1):
        e, half, repeat = shape.axes[axis], float(geom.size[axis]) or far, geom.material.repeat[axis]
        ed = dot(e, d) * slope
        at = nc * ed - dot(e, c)
        # How far one pixel to the right, and one up, move the point along this axis.
        step = [jnp.abs(e[i] - ed * n[i]) * jnp.abs(t) * rays.pixel for i in (0, 1)]
        cover = cover * jnp.clip((half - jnp.abs(at)) / jnp.maximum(step[0] + step[1], TINY) + 0.5, 0, 1)
        where.append(jnp.clip(0.5 + 0.5 * at / half, 0, 1))
        periods.append((repeat if axis == 0 else -repeat) * at - 0.5)  # v runs against y
        steps = [[*steps[i], repeat * step[i]] for i in (0, 1)]
    texture = vector(geom.material.texture[0])
    if any(geom.material.repeat):
        blur = jnp.sqrt(jnp.maximum(*(a * a + b * b for a, b in steps)))
        low = [_lower_half(period, blur) if r else 1.0 for period, r in zip(periods, geom.material.repeat)]
        weights = [a * b for a in (low[0], 1 - low[0]) for b in (low[1], 1 - low[1])]
        texture = vector([sum(w * q[i] for w, q in zip(weights, geom.material.texture)) for i in range(3)])
    return Hit(t, cover, t, n), texture, (where[0], where[1])


def _lower_half(u: Array, width: Array) -> Array:
    """The share of the interval of ``width`` around ``u`` whose fractional part is below 1/2."""
    width = jnp.maximum(width, 4e-3)  # a difference of large numbers: much narrower would be noise

    def integral(u):  # of the square wave that is 1 in the lower half and -1 in the upper
        return 0.5 - jnp.abs(u - jnp.floor(u) - 0.5)

    return 0.5 + 0.5 * (integral(u + width / 2) - integral(u - width / 2)) / width


def _inside(shape: Shape, rays: Rays) -> tuple[Vector, Vector]:
    """The eye and the ray directions in a shape's own frame."""
    eye = vector([-dot(axis, shape.centre) for axis in shape.axes])
    return eye, vector([dot(axis, rays.d) for axis in shape.axes])


def _world(shape: Shape, own: Sequence[Array]) -> Vector:
    """From a shape's own frame to the camera's."""
    return vector([sum(shape.axes[j][i] * own[j] for j in range(3)) for i in range(3)])


def parts(array: Array) -> Vector:
    """Components of the last axis, 3 long."""
    return array[..., 0], array[..., 1], array[..., 2]


def dot(a: Vector, b: Vector) -> Array:
    """``a . b``"""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(v: Vector) -> Vector:
    """``v`` at length 1."""
    scale = jax.lax.rsqrt(jnp.maximum(dot(v, v), TINY))
    return v[0] * scale, v[1] * scale, v[2] * scale


def vector(components: Sequence[Array]) -> Vector:
    """Of three components."""
    return components[0], components[1], components[2]


KINDS = {SPHERE: _round, CAPSULE: _round, BOX: _box, CYLINDER: _cylinder, ELLIPSOID: _ellipsoid}
"""The intersection of each kind but the plane, (shape, rays) -> Hit."""
