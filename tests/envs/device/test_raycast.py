"""The ray-caster against MuJoCo's renderer, its cameras against MuJoCo's, its shapes against a slow oracle."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.device.raycast import cast as raycast
from jaxdreamer.envs.device.raycast import scene
from jaxdreamer.envs.device.raycast.shapes import KINDS, Rays, place, plane
from tests import oracles
from tests.envs.device.raycast_reference import BRAX, REFERENCE

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("brax")
BACKENDS = ("generalized", "spring", "positional", "mjx")
# Mean absolute difference of the pictures in levels of 255, and of their mean colours. Checkered floors blur with the
# distance in the texture filter's own way, and shadows and reflections are MuJoCo's alone.
CLOSE = {"ant": (7.5, 4), "halfcheetah": (6.5, 2), "humanoid": (7.5, 2), "inverted_pendulum": (0.6, 0.5)}
CLOSE |= {"pusher": (2.3, 1.3), "reacher": (8, 8), "swimmer": (5.5, 2.5)}


def get_environment(name, backend="generalized"):
    from jaxdreamer.envs.device.brax_env import import_brax

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_brax().get_environment(name, backend=backend)


def poses(reference, name):
    return SimpleNamespace(pos=reference[f"{name}/pos"], rot=reference[f"{name}/rot"])


def draw(render, x):
    """uint8 [n, H, W, 3] of n poses."""
    many = jax.jit(jax.vmap(lambda pos, rot: render(SimpleNamespace(pos=pos, rot=rot))))
    return np.asarray(many(x.pos, x.rot))


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE) as arrays:
        return dict(arrays)


def white_on_black(model):
    """The scene with luminous bodies, black planes and no sky: its picture is the silhouette."""
    found = scene.read_scene(model)
    geoms = [
        geom._replace(
            material=geom.material._replace(
                rgba=(0, 0, 0, 1) if geom.kind == scene.PLANE else (1, 1, 1, 1), emission=1.0, texture=((1, 1, 1),) * 4
            )
        )
        for geom in found.geoms
    ]
    return found._replace(geoms=tuple(geoms), lights=(), sky=None)


@pytest.mark.parametrize("name", BRAX)
def test_the_picture_is_the_one_mujoco_draws(name, reference, monkeypatch):
    system = get_environment(name).sys
    x = poses(reference, name)
    theirs = reference[f"{name}/picture"].astype(float)
    ours = draw(raycast.make_renderer(system), x).astype(float)
    each, mean = CLOSE[name]
    assert np.abs(ours - theirs).mean() < each
    assert np.abs(ours.mean((1, 2)) - theirs.mean((1, 2))).max() < mean

    monkeypatch.setattr(raycast, "read_scene", white_on_black)
    silhouette = draw(raycast.make_renderer(system), x)[..., 0] > 127
    expected = reference[f"{name}/silhouette"]
    for ours, theirs in zip(silhouette, expected):
        alike = (ours & theirs).sum() / (ours | theirs).sum()
        assert alike > 0.98, (name, alike)


def test_the_reference_is_what_mujoco_draws_here(reference, tmp_path):
    """Where MuJoCo has OpenGL; elsewhere the pictures kept with the tests stand for it."""
    out = tmp_path / "now.npz"
    command = [sys.executable, "-m", "tests.envs.device.raycast_reference", str(out), "inverted_pendulum", "ant"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REFERENCE.parents[3], check=False)
    if done.returncode and ("OpenGL" in done.stderr or "GL" in done.stderr.strip().splitlines()[-1]):
        pytest.skip(f"MuJoCo cannot draw here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    with np.load(out) as now:
        for key in now:
            if key.endswith("silhouette"):
                assert (now[key] != reference[key]).mean() < 0.002
            if key.endswith("pos"):
                np.testing.assert_allclose(now[key], reference[key], atol=1e-4)


@pytest.fixture(scope="module")
def pendulum():
    return get_environment("inverted_pendulum")


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_physics_backend_gives_the_same_picture(backend, reference, pendulum):
    env = get_environment("inverted_pendulum", backend)
    qpos = reference["inverted_pendulum/qpos"][2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brax's use of MJX's old names
        x = jax.jit(lambda q: env.pipeline_init(q, jnp.zeros(2)).x)(qpos)
    render = jax.jit(lambda pos, rot: raycast.make_renderer(env.sys)(SimpleNamespace(pos=pos, rot=rot)))
    kept = poses(reference, "inverted_pendulum")
    ours, expected = render(x.pos, x.rot), render(kept.pos[2], kept.rot[2])
    assert np.abs(np.asarray(ours, int) - np.asarray(expected, int)).max() <= 3
    assert not np.array_equal(expected, render(kept.pos[0], kept.rot[0]))


def test_many_at_once_are_one_by_one(reference, pendulum):
    render, x = raycast.make_renderer(pendulum.sys, height=17, width=24), poses(reference, "inverted_pendulum")
    many = draw(render, x)
    assert many.shape == (3, 17, 24, 3) and many.dtype == np.uint8
    for index in range(3):
        one = jax.jit(lambda p, r: render(SimpleNamespace(pos=p, rot=r)))(x.pos[index], x.rot[index])
        assert np.abs(many[index].astype(int) - np.asarray(one, int)).max() <= 1


# -------------------------------------------------------------------------------------------------------- models

CAMERAS = """
<mujoco>
  <worldbody>
    <light name="sun" type="directional" dir="1 2 -3"/>
    <camera name="wall" pos="1 2 3" xyaxes="0 1 0 -1 0 1" fovy="60"/>
    <body name="a" pos="0.3 0.2 1">
      <freejoint/>
      <geom size="0.1" mass="2"/>
      <light name="lamp" mode="trackcom" pos="0 0 2" dir="0 1 -1"/>
      <light name="torch" pos="0.1 0 2" dir="0 1 -1"/>
      <light name="stare" mode="targetbody" target="b" pos="0.1 1 2"/>
      <camera name="eye" pos="0.1 0.2 0.3" euler="20 30 40"/>
      <camera name="track" mode="track" pos="0 -3 0.5" xyaxes="1 0 0 0 0 1"/>
      <camera name="trackcom" mode="trackcom" pos="0 -3 0.5" xyaxes="1 0 0 0 0.2 1"/>
      <camera name="look" mode="targetbody" target="b" pos="0 -3 0.5"/>
      <camera name="lookcom" mode="targetbodycom" target="a" pos="0 -3 0.5"/>
      <body name="b" pos="0.5 0 0"><joint axis="0 1 0"/><geom type="capsule" size="0.05 0.3" pos="0.2 0 0" mass="1"/></body>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module")
def rig():
    model = mujoco.MjModel.from_xml_string(CAMERAS)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    data.qpos[:] = rng.normal(size=model.nq)
    data.qpos[3:7] /= np.linalg.norm(data.qpos[3:7])
    mujoco.mj_forward(model, data)
    return model, data, raycast.with_world(data.xpos[1:], data.xquat[1:])


@pytest.mark.parametrize("name", ["wall", "eye", "track", "trackcom", "look", "lookcom"])
def test_cameras_are_where_mujoco_puts_them(rig, name):
    model, data, bodies = rig
    camera = scene.read_camera(model, name)
    pos, rot = raycast.mounted(camera.mount, bodies)
    index = model.camera(name).id
    np.testing.assert_allclose(pos, data.cam_xpos[index], atol=1e-5)
    np.testing.assert_allclose(rot, data.cam_xmat[index].reshape(3, 3), atol=1e-5)
    assert camera.fovy == model.cam_fovy[index]


def test_lights_are_where_mujoco_puts_them(rig):
    model, data, bodies = rig
    head, *lights = scene.read_scene(model).lights
    assert head.mount is None and len(lights) == model.nlight
    for index, light in enumerate(lights):
        pos, rot = raycast.mounted(light.mount, bodies)
        np.testing.assert_allclose(pos, data.light_xpos[index], atol=1e-5)
        np.testing.assert_allclose(-np.asarray(rot)[:, 2], data.light_xdir[index], atol=1e-5)


def test_the_free_camera_is_mujocos(rig):
    model, data, bodies = rig
    view, option, drawn = mujoco.MjvCamera(), mujoco.MjvOption(), mujoco.MjvScene(model, 100)
    mujoco.mjv_defaultFreeCamera(model, view)
    mujoco.mjv_updateScene(model, data, option, None, view, mujoco.mjtCatBit.mjCAT_ALL, drawn)
    pos, rot = raycast.mounted(scene.read_camera(model, -1).mount, bodies)
    eyes = drawn.camera[0].pos / 2 + drawn.camera[1].pos / 2  # of a stereo pair
    np.testing.assert_allclose(pos, eyes, atol=1e-4)
    np.testing.assert_allclose(-rot[:, 2], drawn.camera[0].forward, atol=1e-5)
    np.testing.assert_allclose(rot[:, 1], drawn.camera[0].up, atol=1e-5)


def test_which_camera(rig):
    model = rig[0]
    none = mujoco.MjModel.from_xml_string("<mujoco/>")
    wall = mujoco.MjModel.from_xml_string('<mujoco><worldbody><camera name="wall" fovy="33"/></worldbody></mujoco>')

    def same(left, right):
        return all(jax.tree.leaves(jax.tree.map(np.array_equal, left, right)))

    assert same(scene.read_camera(model, None), scene.read_camera(model, "track"))
    assert same(scene.read_camera(model, 1), scene.read_camera(model, model.camera(1).name))
    assert scene.read_camera(wall, None).fovy == 33
    assert same(scene.read_camera(none, None), scene.read_camera(none, -1))
    with pytest.raises(ConfigError, match=r"trak.*did you mean track.*0 \(wall\)"):
        scene.read_camera(model, "trak")
    for index in (6, -2):
        with pytest.raises(ConfigError, match="unknown camera"):
            scene.read_camera(model, index)


def test_hidden_geoms_materials_and_refusals():
    model = mujoco.MjModel.from_xml_string("""
        <mujoco>
          <asset><material name="red" rgba="1 0 0 1" emission="0.5"/>
                 <mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset>
          <worldbody>
            <geom size="1" material="red"/><geom size="1" material="red" rgba="0 1 0 1"/>
            <geom size="1" group="3"/><geom size="1" rgba="1 1 1 0"/><geom size="1" group="2"/>
            <geom type="mesh" mesh="m" group="4"/>
          </worldbody>
        </mujoco>""")
    geoms = scene.read_scene(model).geoms
    assert [geom.material.rgba[:3] for geom in geoms] == [(1, 0, 0), (0, 1, 0), (0.5, 0.5, 0.5)]
    assert [geom.material.emission for geom in geoms] == [0.5, 0.5, 0]
    model.geom_group[5] = 0
    with pytest.raises(ConfigError, match=r"mesh.*obs=state"):
        raycast.make_renderer(model)
    with pytest.raises(ConfigError, match="without one"):
        raycast.make_renderer(object())
    with pytest.raises(ValueError, match=r"poses of 2 links.*vmap"):
        raycast.make_renderer(mujoco.MjModel.from_xml_string(CAMERAS))(
            SimpleNamespace(pos=np.zeros((5, 2, 3)), rot=np.zeros((5, 2, 4)))
        )


# -------------------------------------------------------------------------------------------------------- shapes

SHAPES = {
    "sphere": (scene.SPHERE, [0.7, 0, 0]),
    "capsule": (scene.CAPSULE, [0.3, 0.8, 0]),
    "ellipsoid": (scene.ELLIPSOID, [0.4, 0.9, 0.6]),
    "cylinder": (scene.CYLINDER, [0.5, 0.7, 0]),
    "box": (scene.BOX, [0.4, 0.6, 0.8]),
}
SIDE = 12


def some_rays(near=0.01):
    pixel = 0.8 / SIDE
    x = ((np.arange(SIDE) + 0.5 - SIDE / 2) * pixel).astype(np.float32)[None, :]
    y = -x.T
    return Rays((x, y, np.float32(-1)), x * x + y * y + 1, pixel, near)


def turned(seed):
    quat = np.random.default_rng(seed).normal(size=4)
    return scene.quaternion_matrix(quat / np.linalg.norm(quat))


def geom_of(kind, size):
    material = scene.Material((1, 1, 1, 1), 0, 0, 0, ((1, 1, 1),) * 4, (0, 0))
    return scene.Geom(kind, 0, np.zeros(3), np.eye(3), np.array(size, np.float32), material)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_meet_rays_where_the_oracle_does(name, seed):
    kind, size = SHAPES[name]
    centre, rot = np.array([0.1, -0.2, -3], np.float32), turned(seed)
    rays = some_rays()
    hit = KINDS[kind](place(geom_of(kind, size), jnp.asarray(centre), jnp.asarray(rot)), rays)
    depth, normal = oracles.cast_ray(name, size, centre, rot, oracles.ray_grid(SIDE, rays.pixel))
    met = np.isfinite(depth)
    assert 10 < met.sum() < SIDE * SIDE - 10
    np.testing.assert_array_equal(np.asarray(hit.rank) < 100, met)
    np.testing.assert_allclose(np.asarray(hit.t)[met], depth[met], atol=2e-4)
    ours = np.stack([np.broadcast_to(c, met.shape) for c in hit.normal], -1)
    np.testing.assert_allclose(ours[met], normal[met], atol=5e-3)


@pytest.mark.parametrize("size", [[0.3, 0.8, 0], [0.02, 0.8, 0]])
def test_a_capsules_cover_is_its_share_of_the_pixel(size):
    centre, rot = np.array([0.1, -0.2, -3], np.float32), turned(1)
    rays = some_rays()
    hit = KINDS[scene.CAPSULE](place(geom_of(scene.CAPSULE, size), jnp.asarray(centre), jnp.asarray(rot)), rays)
    fine = 10
    depth, _ = oracles.cast_ray("capsule", size, centre, rot, oracles.ray_grid(SIDE * fine, rays.pixel / fine))
    share = np.isfinite(depth).reshape(SIDE, fine, SIDE, fine).mean((1, 3))
    assert ((share > 0.05) & (share < 0.95)).sum() > 8  # edges
    assert np.abs(np.asarray(hit.cover) - share).max() < 0.25
    assert np.abs(np.asarray(hit.cover) - share).mean() < 0.02
    np.testing.assert_allclose(np.asarray(hit.cover).sum(), share.sum(), rtol=0.05)


def test_a_planes_depth_edges_and_checks():
    size, rot = [1.0, 0.5, 0.1], np.asarray(turned(4))
    rot = rot if rot[2, 2] > 0 else rot * [1, -1, -1]  # its front towards the eye
    centre, rays = np.array([0.1, 0, -3], np.float32), some_rays()
    geom = geom_of(scene.PLANE, size)
    quadrants = ((0.0, 0, 0), (0.25, 0, 0), (0.5, 0, 0), (1.0, 0, 0))
    geom = geom._replace(material=geom.material._replace(texture=quadrants, repeat=(0.9, 1.3)))
    hit, texture, _ = plane(geom, place(geom, jnp.asarray(centre), jnp.asarray(rot, jnp.float32)), rays, 100.0)
    fine = 10
    grid = oracles.ray_grid(SIDE * fine, rays.pixel / fine)
    t = (centre @ rot[:, 2]) / (grid @ rot[:, 2])
    at = (t[..., None] * grid - centre) @ rot
    share = (np.abs(at[..., :2]) < size[:2]).all(-1).reshape(SIDE, fine, SIDE, fine).mean((1, 3))
    assert 20 < (share > 0.5).sum() < SIDE * SIDE - 20
    assert np.abs(np.asarray(hit.cover) - share).mean() < 0.03
    middle = np.asarray(oracles.ray_grid(SIDE, rays.pixel))
    np.testing.assert_allclose(hit.t, (centre @ rot[:, 2]) / (middle @ rot[:, 2]), rtol=1e-4)
    upper = np.floor(2 * (at[..., 0] * 0.9 - 0.5)) % 2, np.floor(2 * (-at[..., 1] * 1.3 - 0.5)) % 2
    exact = np.array([c[0] for c in quadrants])[(2 * upper[0] + upper[1]).astype(int)]
    exact = exact.reshape(SIDE, fine, SIDE, fine).mean((1, 3))
    assert np.abs(np.asarray(texture[0]) - exact).mean() < 0.08
    behind = plane(geom, place(geom, jnp.asarray(centre), jnp.asarray(-rot, jnp.float32)), rays, 100.0)[0]
    np.testing.assert_allclose(behind.cover, 0.3 * np.asarray(hit.cover), atol=1e-6)


def test_the_nearer_shape_hides_the_farther_and_nothing_behind_the_eye_is_seen():
    model = mujoco.MjModel.from_xml_string("""
        <mujoco>
          <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
          <worldbody>
            <camera name="eye" pos="0 0 0"/>
            <geom pos="0 0 -5" size="1 1 1" type="box" rgba="0 0 1 1"/>
            <geom pos="0 0 -2" size="0.3" rgba="1 0 0 1"/>
            <geom pos="0 0.6 -3" size="0.2 0.2" type="cylinder" rgba="0 1 0 1"/>
            <geom pos="0 0 5" size="3" rgba="1 1 1 1"/>
          </worldbody>
        </mujoco>""")
    render = raycast.make_renderer(model, height=33, width=33, camera="eye")
    picture = np.asarray(render(SimpleNamespace(pos=np.zeros((0, 3)), rot=np.zeros((0, 4)))))
    colours = {tuple(c) for c in picture.reshape(-1, 3) if c.max() == 255 and (c > 0).sum() == 1}
    assert colours == {(255, 0, 0), (0, 255, 0), (0, 0, 255)}
    assert tuple(picture[16, 16]) == (255, 0, 0) and tuple(picture[0, 0]) == (0, 0, 0)
    assert tuple(picture[21, 16]) == (255, 0, 0) or tuple(picture[21, 21]) == (0, 0, 255)
    assert tuple(picture[8, 16]) == (0, 255, 0)


def test_the_ground_hides_what_is_below_and_shows_through_what_is_clear():
    model = mujoco.MjModel.from_xml_string("""
        <mujoco>
          <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
          <worldbody>
            <camera name="eye" pos="0 0 4"/>
            <geom type="plane" size="3 3 1" rgba="0 0 1 1"/>
            <geom pos="0.6 0 0.5" size="0.3" rgba="1 0 0 0.5"/>
            <geom pos="-0.6 0 -1" size="0.3" rgba="0 1 0 1"/>
            <geom pos="0 -0.6 0.5" size="0.3" rgba="1 1 0 1"/>
            <geom pos="0.25 -0.6 0.31" size="0.3" rgba="1 1 0 1"/>
          </worldbody>
        </mujoco>""")
    render = raycast.make_renderer(model, height=33, width=33, camera="eye")
    picture = np.asarray(render(SimpleNamespace(pos=np.zeros((0, 3)), rot=np.zeros((0, 4)))))
    ours = {tuple(c) for c in picture.reshape(-1, 3).tolist()}
    assert (128, 0, 128) in ours and (0, 0, 255) in ours and (255, 255, 0) in ours
    assert not any(g > r for r, g, _ in ours)  # no green
    assert (picture[22:24, 15:21] == (255, 255, 0)).all()  # where two bodies meet there is no seam


@pytest.mark.parametrize(("angle", "shines"), [(0.2, True), (0.9, False)])
def test_a_spot_is_opengls(angle, shines):
    """At the origin's floor, below the lamp's axis turned away by ``angle``; the cone's half-angle is 0.6."""
    turn = np.array([np.sin(angle), 0, np.cos(angle)])  # towards which the lamp does not shine
    colours = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.4, 0.3]), np.array([0.3, 0.2, 0.1])
    light = scene.Light(*colours, False, np.degrees(0.6), 10.0, np.array([1, 0.1, 0.05]), False, None)
    material = scene.Material((0.9, 0.8, 0.7, 1), 0.4, 0.1, 0.05, ((1, 1, 1),) * 4, (0, 0))
    point, lamp = np.array([0.3, -0.2, -3.0]), np.array([0.3, 0.1, -1.0])
    normal = np.array([0, 0, 1.0])
    ours = raycast._shine(material, tuple(point), tuple(normal), [raycast.Lamp(light, tuple(lamp), tuple(turn))])
    path = lamp - point
    distance = np.linalg.norm(path)
    toward, view = path / distance, -point / np.linalg.norm(point)
    halfway = (toward + view) / np.linalg.norm(toward + view)
    strength = (toward @ turn) ** 10 / (1 + 0.1 * distance + 0.05 * distance**2) * shines
    rgba = np.array(material.rgba[:3])
    shine = (normal @ halfway) ** 12.8 * 0.4 * colours[2]
    expected = 0.05 * rgba + strength * (rgba * (colours[0] + normal @ toward * colours[1]) + shine)
    np.testing.assert_allclose(np.array(ours, float), expected, rtol=1e-4)
