"""Pixels inside the program: an analytic ray-caster in plain JAX for models in MuJoCo's format.

Drawn are planes with their checkered textures, spheres, capsules, ellipsoids, cylinders and boxes, be they geoms or sites,
and spatial tendons, strings slack or taut, in their own and their materials' colours, under the headlight and the model's
lights, before the model's skybox. What MuJoCo's own renderer adds and this one leaves out: shadows, reflections, haze,
textures other than a plane's (a body gets its texture's mean colour), the way of a tendon around what it is wrapped on, and
what shows through transparent bodies other than planes and sky. Edges of planes, spheres and capsules are antialiased by
the share of the pixel they cover, so that thin limbs do not flicker; the other shapes' edges are not.

A picture is computed in the camera's coordinates, where the eye is the origin and a ray is d = (x, y, -1): what differs
between pixels is then linear in x and y, all else is a scalar of the shape, and XLA makes loops over the pixels of it
that hold no [shapes, pixels] array. t, a ray's parameter, is the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.device.raycast.poses import Poses, compose, mounted, placed, rotate, with_world
from jaxdreamer.envs.device.raycast.scene import PLANE, Geom, Light, Material, Scene, read_camera, read_scene
from jaxdreamer.envs.device.raycast.shapes import (
    FAR,
    KINDS,
    TINY,
    Array,
    Hit,
    Rays,
    Shape,
    Vector,
    dot,
    parts,
    place,
    plane,
    unit,
    vector,
)
from jaxdreamer.envs.device.raycast.sky import behind

BEHIND = 4 * FAR  # the rank of what is behind the eye
UNROLL = 4  # shapes computed in one loop over the pixels: time is won until the machine's registers are full
BANDS = 2  # turns of the loop over the rows


class Lamp(NamedTuple):
    """A light in the camera's coordinates: where it is, and the direction towards which it does not shine."""

    light: Light
    pos: Vector
    back: Vector


def make_renderer(
    sys: Any, *, height: int = 64, width: int = 64, camera: int | str | None = None
) -> Callable[[Any], jax.Array]:
    """``render(x) -> uint8 [height, width, 3]`` of the model in ``sys``, pure: for jit, vmap and every physics backend.

    ``sys`` is a Brax system, or a MuJoCo model whose every body is a link; ``x`` has the links' poses in the world, as
    ``pipeline_state.x``: ``pos`` [L, 3] in metres and ``rot`` [L, 4], unit quaternions (w, x, y, z). ``camera`` is an index
    or a name, -1 the free camera; None: the first that tracks a body, else the first, else the free camera, placed as
    MuJoCo places them. ConfigError for an unknown camera, for a system without a MuJoCo model, and for shapes that cannot
    be drawn.
    """
    model = getattr(sys, "mj_model", sys)
    if not hasattr(model, "geom_type"):
        raise ConfigError(
            f"pixels need a system with a MuJoCo model, found {type(sys).__name__} without one; use obs=state"
        )
    scene, eye = read_scene(model), read_camera(model, camera)
    links = int(model.nbody) - 1

    def render(x: Any) -> jax.Array:
        if x.pos.shape != (links, 3) or x.rot.shape != (links, 4):
            raise ValueError(
                f"expected poses of {links} links, pos {(links, 3)} and rot {(links, 4)}; found {x.pos.shape} and "
                f"{x.rot.shape}; jax.vmap draws several states"
            )
        bodies = with_world(x.pos, x.rot)
        geoms, places = placed(scene, bodies)
        lights = [light.mount and mounted(light.mount, bodies) for light in scene.lights]
        drawn = scene._replace(geoms=geoms)
        return cast(drawn, places, mounted(eye.mount, bodies), lights, fovy=eye.fovy, height=height, width=width)

    return render


def cast(
    scene: Scene,
    geoms: Poses,
    camera: tuple[Array, Array],
    lights: Sequence[tuple[Array, Array] | None],
    *,
    fovy: float,
    height: int,
    width: int,
) -> jax.Array:
    """uint8 [height, width, 3] of a scene whose geoms have the poses ``geoms`` in the world; knows no simulator.

    ``camera`` and each of ``lights`` (None for the headlight): position [3] and axes [3, 3], looking along -z. ``fovy`` is
    the vertical field of view in degrees.
    """
    eye, axes = camera
    inverse = jnp.swapaxes(jnp.asarray(axes), -1, -2)
    rows = -(-height // BANDS)  # of a band; the last may have one too many
    pixel = float(2 * np.tan(np.radians(fovy) / 2) / height)
    x = ((np.arange(width) + 0.5 - width / 2) * pixel).astype(np.float32)[None, :]
    y = ((height / 2 - np.arange(rows * BANDS) - 0.5) * pixel).astype(np.float32)[:, None]

    centre, local = rotate(inverse, geoms.pos - eye), compose(inverse, geoms.rot)
    shapes = [place(geom, centre[index], local[index]) for index, geom in enumerate(scene.geoms)]
    lamps = [_lamp(light, at, inverse, eye) for light, at in zip(scene.lights, lights)]
    grounds = [
        (geom, s, _vertex_light(scene, geom, s, lamps)) for geom, s in zip(scene.geoms, shapes) if geom.kind == PLANE
    ]
    bodies = [index for index, geom in enumerate(scene.geoms) if geom.kind != PLANE]

    def band(_, item):
        y, colour = item
        rays = Rays((x, y, np.float32(-1)), x * x + y * y + 1, pixel, scene.near)
        depth: Array = jnp.float32(FAR)
        for geom, shape, light in grounds:
            hit, texture, at = plane(geom, shape, rays, scene.far)
            seen = jnp.where(hit.t < depth, hit.cover, 0)
            shone = _between_vertices(light, at)
            colour = _over(colour, vector([shone[i] * texture[i] for i in range(3)]), seen)
            depth = jnp.where(seen > 0.5, hit.t, depth)
        if bodies:
            material, hit = _front([scene.geoms[i] for i in bodies], [shapes[i] for i in bodies], rays)
            seen = jnp.where(hit.t < depth, hit.cover, 0) * material.rgba[3]
            point = vector([hit.t * c for c in rays.d])
            shone = _shine(material, point, hit.normal, lamps)
            colour = _over(colour, vector([shone[i] * material.texture[0][i] for i in range(3)]), seen)
        r, g, b = (jnp.floor(jnp.clip(c, 0, 1) * 255 + 0.5).astype(jnp.int32) for c in colour)
        return None, jnp.broadcast_to(r | g << 8 | b << 16, (rows, width))

    # Three colours in one number, and rows in a loop: both keep XLA from computing a pixel once for every colour.
    def bands(array):
        return jnp.broadcast_to(array, (rows * BANDS, width)).reshape(BANDS, rows, width)

    sky = tuple(bands(c) for c in behind(scene.sky, (x, y, np.float32(-1)), axes, pixel))
    _, packed = jax.lax.scan(band, None, (y.reshape(BANDS, rows, 1), sky))
    packed = packed.reshape(rows * BANDS, width)[:height]
    return jnp.stack([packed & 255, packed >> 8 & 255, packed >> 16], -1).astype(jnp.uint8)


def _front(geoms: list[Geom], shapes: list[Shape], rays: Rays) -> tuple[Material, Hit]:
    """The foremost hit of each ray, or the nearest miss, and its material; ``cover`` is the largest of any shape's.

    A miss counts because its shape may cover a part of the pixel, and the largest cover because two shapes that meet
    inside a pixel leave no seam. The shape's number travels in the lowest bits of its rank, so that a loop finds the
    foremost by integer minima, holding two numbers a pixel; then that shape alone is computed again, and shaded.
    """
    mask = (1 << (len(geoms) - 1).bit_length()) - 1
    grid = rays.square.shape
    found = jnp.full(grid, np.iinfo(np.int32).max, jnp.int32), jnp.zeros(grid, jnp.float32)
    kinds = [KINDS[geom.kind] for geom in geoms]
    for hit_of in dict.fromkeys(kinds):
        numbers = [number for number, kind in enumerate(kinds) if kind is hit_of]
        # A loop of one turn would be unrolled, and computed anew for every use; a shape met twice does no harm.
        unroll = max(1, min(UNROLL, len(numbers) // 2))
        numbers += numbers[-1:] * (-len(numbers) % unroll)

        def meet(found, item, hit_of=hit_of):
            number, shape = item
            hit = hit_of(shape, rays)
            ahead = hit.t > rays.near
            rank = jnp.where(ahead, hit.rank, BEHIND)
            bits = jax.lax.bitcast_convert_type(rank, jnp.int32) & ~mask | number  # positive floats sort as their bits
            return (jnp.minimum(found[0], bits), jnp.maximum(found[1], jnp.where(ahead, hit.cover, 0))), None

        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *(shapes[number] for number in numbers))
        found, _ = jax.lax.scan(meet, found, (np.array(numbers, np.int32), stacked), unroll=unroll)
    which = found[0] & mask
    own = Shape(*(_choose(column, which) for column in zip(*shapes)))
    hit = kinds[0](own, rays)
    for other in [kind for kind in dict.fromkeys(kinds) if kind is not kinds[0]]:
        chosen = _choose([kind is other for kind in kinds], which)
        hit = Hit(
            *jax.tree.map(lambda a, b, chosen=chosen: jnp.where(chosen, a, b), tuple(other(own, rays)), tuple(hit))
        )
    material = Material(*(_choose(column, which) for column in zip(*(geom.material for geom in geoms))))
    return material, hit._replace(cover=found[1])


def _choose(values: Sequence[Any], which: Array) -> Any:
    """``values[which]`` for every pixel, of numbers or equal trees of them; a scalar where all are one number."""
    if isinstance(values[0], tuple):
        parts = [_choose(column, which) for column in zip(*values)]
        return type(values[0])(*parts) if hasattr(values[0], "_fields") else tuple(parts)
    if len(values) == 1 or (all(isinstance(value, float) for value in values) and len(set(values)) == 1):
        return values[0]
    return jnp.stack([jnp.asarray(value) for value in values])[which]


def _lamp(light: Light, at: tuple[Array, Array] | None, inverse: Array, eye: Array) -> Lamp:
    if at is None:  # the headlight looks where the camera looks
        return Lamp(light, (0.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    return Lamp(light, parts(rotate(inverse, at[0] - eye)), parts(rotate(inverse, at[1][:, 2])))


def _shine(material: Material, point: Vector, normal: Vector, lamps: Sequence[Lamp]) -> Vector:
    """OpenGL's lighting: emission + sum over lights of ambient + diffuse (n . l) + specular (n . h)^shininess.

    A light's part is scaled by its cone and attenuation, and the sum saturates pass by pass as MuJoCo draws them. It is
    of the surface without texture, which multiplies it.
    """
    away = unit(point)
    base = material.emission if lamps else material.emission + 0.3  # without lights MuJoCo adds some
    passes = [[base * material.rgba[i] for i in range(3)]]
    for light, pos, back in lamps:
        toward, strength = back, 1.0
        if not light.directional:
            path = vector([pos[i] - point[i] for i in range(3)])
            square = jnp.maximum(dot(path, path), TINY)
            toward = unit(path)
            cosine = dot(toward, back)
            cone = jnp.where(cosine >= np.cos(np.radians(light.cutoff)), _power(cosine, light.exponent), 0)
            k = light.attenuation
            strength = cone / (k[0] + k[1] * jnp.sqrt(square) + k[2] * square)
        facing = dot(normal, toward)
        halfway = unit(vector([toward[i] - away[i] for i in range(3)]))
        gloss = jnp.where(facing > 0, material.specular * _power(dot(normal, halfway), 128 * material.shininess), 0)
        facing = jnp.maximum(facing, 0)
        added = [
            strength * (material.rgba[i] * (light.ambient[i] + facing * light.diffuse[i]) + gloss * light.specular[i])
            for i in range(3)
        ]
        if light.separate:
            passes.append(added)
        else:
            passes[0] = [old + new for old, new in zip(passes[0], added)]
    return vector([sum(jnp.minimum(part[i], 1) for part in passes) for i in range(3)])


def _vertex_light(scene: Scene, geom: Geom, shape: Shape, lamps: Sequence[Lamp]) -> Vector:
    """Light on a plane, each colour [n + 1, n + 1] over y and x: MuJoCo lights a plane at the vertices of n x n quads.

    That matters: a spot shines farther on a large plane than its cone.
    """
    steps = np.linspace(-1, 1, scene.quads + 1, dtype=np.float32)
    u, v = (steps * (float(size) or scene.far) for size in geom.size[:2])
    point = vector([shape.centre[i] + shape.axes[0][i] * u[None, :] + shape.axes[1][i] * v[:, None] for i in range(3)])
    grid = scene.quads + 1, scene.quads + 1
    return vector([jnp.broadcast_to(c, grid) for c in _shine(geom.material, point, shape.axes[2], lamps)])


def _between_vertices(light: Vector, at: tuple[Array, Array]) -> Vector:
    """Interpolated at ``at``, where x and y run from 0 to 1 over the plane."""
    quads = np.shape(light[0])[0] - 1
    u, v = ([jnp.maximum(1 - jnp.abs(quads * where - i), 0) for i in range(quads + 1)] for where in at)
    return vector([sum(v[j] * sum(u[i] * c[j, i] for i in range(quads + 1)) for j in range(quads + 1)) for c in light])


def _power(base: Array, exponent: Array) -> Array:
    """``base ** exponent`` of a cosine; nothing below e^-30, for numbers too small for float32's range are slow."""
    log = exponent * jnp.log(jnp.clip(base, TINY, 1))
    return jnp.where(log > -30, jnp.exp(log), 0)


def _over(below: Vector, above: Vector, alpha: Array) -> Vector:
    return vector([b + alpha * (a - b) for b, a in zip(below, above)])
