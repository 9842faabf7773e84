"""What a picture needs of a model in MuJoCo's format, read once with NumPy: shapes, materials, lights, camera, sky.

The model is any object with the fields of MuJoCo's ``mjModel``; mujoco itself is not imported. Which geoms, sites and
tendons are drawn, what colours they have and where cameras and lights are follow MuJoCo's renderer. Sizes and colours are
those that the model has when it is read: what a task writes into its model later is not seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxdreamer.config import ConfigError, nearest

PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX = 0, 2, 3, 4, 5, 6  # mjtGeom
SHAPES = {1: "hfield", 7: "mesh", 8: "sdf"}  # mjtGeom too: what cannot be drawn
FIXED, TRACK, TRACKCOM, TARGETBODY, TARGETBODYCOM = range(5)  # mjtCamLight
TEXTURE_2D, SKYBOX = 0, 2  # mjtTexture
RGB_ROLE = 1  # mjtTextureRole
DIRECTIONAL, SPOT = 1, 0  # mjtLightType, as far as MuJoCo's renderer knows it
PULLEY, SITE = 2, 3  # mjtWrap: what ends a tendon's part, and what it is fixed to
TENDON_TRANSMISSION = 3  # mjtTrn
NO_GRAVITY = 1 << 7  # mjtDisableBit
GROUPS = 3  # geoms, sites and tendons of this group and above are hidden by default
DEFAULT_RGBA = np.array([0.5, 0.5, 0.5, 1])  # of a geom without colour: its material's counts


class Material(NamedTuple):
    """How a surface answers light; colours in [0, 1]."""

    rgba: tuple[Any, ...]
    """[4] numbers, or a state's scalars"""
    specular: float
    shininess: float
    emission: float
    texture: tuple[tuple[float, ...], ...]
    """Colours of the texture's quadrants: (low u, low v), (low u, high v), (high u, low v), (high u, high v)"""
    repeat: tuple[float, float]
    """Periods of a plane's texture per metre along its x and y; (0, 0): one colour"""


class Geom(NamedTuple):
    """One shape, of a geom, a site or a piece of a tendon: where in its body's frame, how large, of which material."""

    kind: int
    body: int
    pos: np.ndarray
    """[3]"""
    rot: np.ndarray
    """[3, 3]"""
    size: tuple[Any, Any, Any]
    """As MuJoCo has it: radius, half-lengths; a plane's are 0 where it is infinite. Numbers, or a state's scalars"""
    material: Material


class Tendon(NamedTuple):
    """A part of a tendon from one site to the next."""

    ends: tuple[tuple[int, np.ndarray], tuple[int, np.ndarray]]
    """Of each end the body, and the point [3] in its frame"""
    radius: float
    slack: float | None
    """The length in metres at which it is taut, with ends nearer than that it sags; None: always straight"""
    limit: tuple[float, tuple[float, ...]] | None
    """The length in metres beyond which it has another colour, and that colour [4]"""
    down: np.ndarray
    """[3] where gravity points, of unit length; without gravity 0, and nothing sags"""
    material: Material


class Mount(NamedTuple):
    """How a camera or a light hangs in the world of B bodies.

    position = shift + sum_b weights_b (pos_b + rot_b offsets_b): fixed to a body, following it, or following a centre of
    mass, as the weights say. Axes: ``rot`` in the frame of ``body`` (0, the world: constant), or looking at ``target``.
    """

    weights: np.ndarray
    """[B]"""
    offsets: np.ndarray
    """[B, 3]"""
    shift: np.ndarray
    """[3]"""
    rot: np.ndarray
    """[3, 3], columns right, up, backward: the view is along -z"""
    body: int
    target: tuple[np.ndarray, np.ndarray] | None
    """weights [B] and offsets [B, 3] of the point looked at"""


class Light(NamedTuple):
    """One light; colours are [3] in [0, 1]."""

    ambient: np.ndarray
    diffuse: np.ndarray
    specular: np.ndarray
    directional: bool
    cutoff: float
    """Half-angle of a spot's cone in degrees"""
    exponent: float
    attenuation: np.ndarray
    """[3]: constant, linear and quadratic in the distance"""
    separate: bool
    """Drawn in a pass of its own: each pass saturates at 1, then they are added"""
    mount: Mount | None
    """None: the headlight, which shines where the camera looks"""


class Camera(NamedTuple):
    """Where the eye is, and its vertical field of view in degrees."""

    mount: Mount
    fovy: float


class Scene(NamedTuple):
    """All of a model that a picture needs."""

    geoms: tuple[Geom, ...]
    tendons: tuple[Tendon, ...]
    lights: tuple[Light, ...]
    sky: np.ndarray | None
    """[6, W, W, 3], faces of the sky's cube; None: black"""
    near: float
    """Nothing nearer is drawn, metres"""
    far: float
    """Half the extent of an infinite plane, metres"""
    quads: int
    """Quads along a plane's side, at whose vertices it is lit"""


def read_scene(model: Any) -> Scene:
    """Scene of a MuJoCo model; ConfigError names visible geoms whose shapes cannot be drawn."""
    geoms, refused = [], []
    for source, count in (("geom", model.ngeom), ("site", model.nsite)):
        kinds, bodies, positions, quats, sizes = (
            getattr(model, f"{source}_{name}") for name in ("type", "bodyid", "pos", "quat", "size")
        )
        for i in range(int(count)):
            material = _material(model, source, i)
            if not _visible(model, source, i, material):
                continue
            kind = int(kinds[i])
            if kind in SHAPES:
                refused.append(f"{model.geom(i).name or i} ({SHAPES[kind]})")
            size, rot = tuple(_floats(sizes[i]).tolist()), quaternion_matrix(quats[i])
            geoms.append(Geom(kind, int(bodies[i]), _floats(positions[i]), rot, size, material))
    if refused:
        raise ConfigError(
            f"pixels: planes, spheres, capsules, ellipsoids, cylinders and boxes can be drawn, but not the geoms "
            f"{', '.join(refused)}; use obs=state, or move them to group {GROUPS} or above to leave them out"
        )
    extent = float(model.stat.extent)
    near, far = float(model.vis.map.znear) * extent, float(model.vis.map.zfar) * extent
    return Scene(tuple(geoms), _tendons(model), _lights(model), _sky(model), near, far, int(model.vis.quality.numquads))


def read_camera(model: Any, camera: int | str | None) -> Camera:
    """A camera by index or name, -1 the free camera; None: the first that tracks a body, else the first, else the free.

    ConfigError names the cameras there are.
    """
    count = int(model.ncam)
    names = [model.camera(i).name for i in range(count)]
    if camera is None:
        following = [i for i in range(count) if model.cam_mode[i] != FIXED]
        index = following[0] if following else min(count, 1) - 1
    elif isinstance(camera, str) and camera in names:
        index = names.index(camera)
    elif isinstance(camera, int) and -1 <= camera < count:
        index = camera
    else:
        known = ", ".join(f"{i} ({name})" if name else str(i) for i, name in enumerate(names))
        hint = nearest(camera, names) if isinstance(camera, str) else ""
        raise ConfigError(
            f"unknown camera {camera!r}{hint}; this model has {known or 'none'}, and -1 is the free camera"
        )
    if index < 0:
        return _free_camera(model)
    if model.cam_projection[index] != 0 or model.cam_sensorsize[index].any():
        raise ConfigError(f"camera {camera!r} is orthographic or has intrinsics; only fields of view (fovy) are drawn")
    return Camera(_mount(model, "cam", index, quaternion_matrix(model.cam_quat[index])), float(model.cam_fovy[index]))


def quaternion_matrix(quat: Any) -> np.ndarray:
    """Rotation matrix [3, 3] of a unit quaternion (w, x, y, z)."""
    w, x, y, z = np.asarray(quat, np.float64)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).astype(np.float32)


def _free_camera(model: Any) -> Camera:
    """MuJoCo's default view: 1.5 extents from the model's centre."""
    view = model.vis.global_
    azimuth, elevation = np.radians(float(view.azimuth)), np.radians(float(view.elevation))
    level = np.array([np.cos(azimuth), np.sin(azimuth), 0])
    forward = np.cos(elevation) * level + [0, 0, np.sin(elevation)]
    up = -np.sin(elevation) * level + [0, 0, np.cos(elevation)]
    rot = np.stack([np.cross(forward, up), up, -forward], -1).astype(np.float32)
    shift = _floats(model.stat.center) - np.float32(1.5 * float(model.stat.extent)) * forward.astype(np.float32)
    bodies = int(model.nbody)
    mount = Mount(np.zeros(bodies, np.float32), np.zeros((bodies, 3), np.float32), shift, rot, 0, None)
    return Camera(mount, float(view.fovy))


def _mount(model: Any, kind: str, index: int, rot: np.ndarray) -> Mount:
    """Of the camera (kind ``cam``) or light ``index`` whose axes in its body's frame are ``rot``."""

    def field(name: str) -> np.ndarray:
        return getattr(model, f"{kind}_{name}")[index]

    mode, body = int(field("mode")), int(field("bodyid"))
    target = None
    shift = np.zeros(3, np.float32)
    if mode in (TRACK, TRACKCOM):
        weights, offsets = _point(model, body, of_mass=mode == TRACKCOM)
        shift = _floats(field("pos0" if mode == TRACK else "poscom0"))
        rot = _floats(field("mat0")).reshape(3, 3) if kind == "cam" else _along(field("dir0"))
        body = 0
    else:
        weights, offsets = _point(model, body, of_mass=False)
        offsets[body] = field("pos")
        if mode in (TARGETBODY, TARGETBODYCOM) and field("targetbodyid") >= 0:
            target = _point(model, int(field("targetbodyid")), of_mass=mode == TARGETBODYCOM)
    return Mount(weights, offsets, shift, rot, body, target)


def _point(model: Any, body: int, *, of_mass: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights [B] and offsets [B, 3] of a body's origin, or of the centre of mass of it and all that hangs on it."""
    count = int(model.nbody)
    if not of_mass:
        return np.eye(count, dtype=np.float32)[body], np.zeros((count, 3), np.float32)
    member = np.zeros(count, bool)
    member[body] = True
    for child in range(body + 1, count):  # parents come before their children
        member[child] = member[model.body_parentid[child]]
    mass = np.where(member, model.body_mass, 0)
    if mass.sum() == 0:
        return _point(model, body, of_mass=False)
    return _floats(mass / mass.sum()), _floats(model.body_ipos)


def _along(direction: Any) -> np.ndarray:
    """Axes [3, 3] whose -z is the direction; what its x and y are is of no matter."""
    backward = -np.asarray(direction, np.float64) / np.linalg.norm(direction)
    side = np.cross(np.eye(3)[np.argmin(np.abs(backward))], backward)
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(backward, side), backward], -1).astype(np.float32)


def _tendons(model: Any) -> tuple[Tendon, ...]:
    """Straight from site to site, past what a tendon is wrapped around; or slack, where MuJoCo draws a string."""
    weight = 0.0 if model.opt.disableflags & NO_GRAVITY else float(np.linalg.norm(model.opt.gravity))
    down = _floats(model.opt.gravity / max(weight, 1e-9))
    tendons = []
    for i in range(int(model.ntendon)):
        material = _material(model, "tendon", i)
        if not _visible(model, "tendon", i, material):
            continue
        path = range(int(model.tendon_adr[i]), int(model.tendon_adr[i] + model.tendon_num[i]))
        slack = _slack(model, i) if len(path) == 2 and weight else None
        width, limit = float(model.tendon_width[i]), _limit(model, i) if len(path) == 2 else None
        ends: list[tuple[int, np.ndarray]] = []
        for step in path:
            kind, site = int(model.wrap_type[step]), int(model.wrap_objid[step])
            if kind == SITE:
                ends = [*ends[-1:], (int(model.site_bodyid[site]), _floats(model.site_pos[site]))]
                if len(ends) == 2:
                    tendons.append(Tendon((ends[0], ends[1]), width, slack, limit, down, material))
            elif kind == PULLEY:
                ends = []
    return tuple(tendons)


def _slack(model: Any, tendon: int) -> float | None:
    """The length up to which nothing acts on a tendon, if it is one that is only held by its largest length."""
    actuated = (model.actuator_trntype == TENDON_TRANSMISSION) & (model.actuator_trnid[:, 0] == tendon)
    if model.tendon_damping[tendon].any() or model.tendon_frictionloss[tendon] or actuated.any():
        return None
    sprung = bool(model.tendon_stiffness[tendon])
    low, high = (model.tendon_lengthspring if sprung else model.tendon_range)[tendon]
    return float(high) if low == 0 < high and (sprung or model.tendon_limited[tendon]) else None


def _limit(model: Any, tendon: int) -> tuple[float, tuple[float, ...]] | None:
    """Where a tendon without a colour stretches to its limit, MuJoCo mixes in the constraints', by the limit's impedance."""
    own, share = model.tendon_rgba[tendon], float(model.tendon_solimp_lim[tendon][1])
    if not model.tendon_limited[tendon] or model.tendon_matid[tendon] >= 0 or not np.array_equal(own, DEFAULT_RGBA):
        return None
    mixed = [*(own + share * (model.vis.rgba.constraint - own))[:3].tolist(), 1.0]
    return float(model.tendon_range[tendon][1]), tuple(mixed)


def _visible(model: Any, source: str, index: int, material: Material) -> bool:
    return getattr(model, f"{source}_group")[index] < GROUPS and material.rgba[3] > 0


def _material(model: Any, source: str, item: int) -> Material:
    """Of a geom, site or tendon. Colours multiply: its own (where it has one, else the material's) and the texture's."""
    index, own = int(getattr(model, f"{source}_matid")[item]), _floats(getattr(model, f"{source}_rgba")[item])
    white: tuple[tuple[float, ...], ...] = ((1.0, 1.0, 1.0),) * 4
    if index < 0:  # MuJoCo's defaults
        return Material(tuple(own.tolist()), 0.5, 0.5, 0.0, white, (0.0, 0.0))
    rgba = _floats(model.mat_rgba[index]) if np.array_equal(own, DEFAULT_RGBA) else own
    texture, repeat = white, (0.0, 0.0)
    image = int(model.mat_texid[index][RGB_ROLE])
    if image >= 0:
        pixels = _pixels(model, image)
        if source == "geom" and model.geom_type[item] == PLANE and model.tex_type[image] == TEXTURE_2D:
            top, bottom = np.array_split(pixels, 2)  # v grows downwards
            quadrants = [part for half in zip(np.array_split(top, 2, 1), np.array_split(bottom, 2, 1)) for part in half]
            texture = tuple(tuple(part.mean((0, 1)).tolist()) for part in quadrants)
            size = np.asarray(model.geom_size[item][:2], np.float64)
            per_metre = model.mat_texuniform[index] | (size == 0)
            u, v = 0.5 * model.mat_texrepeat[index] / np.where(per_metre, 1, size)
            repeat = float(u), float(v)
        else:
            texture = (tuple(pixels.mean((0, 1)).tolist()),) * 4
    specular, shininess = float(model.mat_specular[index]), float(model.mat_shininess[index])
    return Material(tuple(rgba.tolist()), specular, shininess, float(model.mat_emission[index]), texture, repeat)


def _pixels(model: Any, texture: int) -> np.ndarray:
    """[H, W, 3] in [0, 1]."""
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    channels, start = int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    pixels = np.asarray(model.tex_data[start : start + height * width * channels], np.float32) / 255
    return np.broadcast_to(pixels.reshape(height, width, channels)[..., :3], (height, width, 3))


def _sky(model: Any) -> np.ndarray | None:
    """The first skybox; its one face is six."""
    for texture in range(int(model.ntex)):
        if model.tex_type[texture] == SKYBOX:
            width = int(model.tex_width[texture])
            return np.broadcast_to(_pixels(model, texture).reshape(-1, width, width, 3), (6, width, width, 3))
    return None


def _lights(model: Any) -> tuple[Light, ...]:
    def colours(source: Any, prefix: str, *index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def colour(name: str) -> np.ndarray:
            values = getattr(source, prefix + name)
            return _floats(values[index] if index else values)

        return colour("ambient"), colour("diffuse"), colour("specular")

    lights = []
    head = model.vis.headlight
    if head.active:
        ambient, diffuse, specular = colours(head, "")
        lights.append(Light(ambient, diffuse, specular, True, 180.0, 0.0, _floats([1, 0, 0]), False, None))
    for i in range(int(model.nlight)):
        kind = int(model.light_type[i])
        if not model.light_active[i] or kind not in (DIRECTIONAL, SPOT):
            continue  # MuJoCo's renderer ignores other types as well
        ambient, diffuse, specular = colours(model, "light_", i)
        cutoff, exponent = float(model.light_cutoff[i]), float(model.light_exponent[i])
        attenuation, separate = _floats(model.light_attenuation[i]), bool(model.light_castshadow[i])
        mount = _mount(model, "light", i, _along(model.light_dir[i]))
        lights.append(
            Light(ambient, diffuse, specular, kind == DIRECTIONAL, cutoff, exponent, attenuation, separate, mount)
        )
    return tuple(lights)


def _floats(values: Any) -> np.ndarray:
    return np.array(values, np.float32)
