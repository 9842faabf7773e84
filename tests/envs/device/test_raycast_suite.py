"""What is drawn of a model, and how dm_control's tasks look: against MuJoCo's own lists of shapes, and its renderer."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.envs.device.raycast import cast, poses, scene
from jaxdreamer.envs.device.raycast.sky import behind
from tests.envs.device.raycast_reference import FINE, REFERENCE, SIZE, SUITE, alike, flat, load

mujoco = pytest.importorskip("mujoco")

MODEL = """
<mujoco>
  <option gravity="1 0 -8"/>
  <asset><material name="red" rgba="1 0 0 0.5"/></asset>
  <worldbody>
    <geom type="ellipsoid" size="0.1 0.2 0.3" pos="0 3 0" euler="10 20 30"/>
    <site name="left" pos="0 0 2" size="0.01"/>
    <site name="right" pos="0.5 0.1 1.9" size="0.02 0.03 0.04" type="box" rgba="0 1 0 1" euler="40 50 60"/>
    <site name="low" pos="0.3 -0.2 1.2" size="0.02 0.03" type="capsule" material="red"/>
    <site name="hidden" pos="1 0 1" size="0.5" group="3"/>
    <site name="clear" pos="1 0 1" size="0.5" rgba="1 1 1 0"/>
    <body name="ball" pos="0.4 0.3 1.5"><freejoint/><geom size="0.05" material="red"/>
      <site name="ball" pos="0 0 0.1" size="0.02 0.03 0.01" type="ellipsoid"/></body>
  </worldbody>
  <tendon>
    <spatial name="string" limited="true" range="0 1.2" width="0.004"><site site="left"/><site site="ball"/></spatial>
    <spatial name="coloured" limited="true" range="0 0.9" rgba="0 0 1 1"><site site="right"/><site site="ball"/></spatial>
    <spatial name="springy" stiffness="1" springlength="0 1"><site site="low"/><site site="ball"/></spatial>
    <spatial name="actuated" limited="true" range="0 2"><site site="left"/><site site="ball"/></spatial>
    <spatial name="damped" limited="true" range="0 2" damping="1"><site site="left"/><site site="ball"/></spatial>
    <spatial name="pulleys" width="0.01" material="red">
      <site site="left"/><site site="low"/><site site="right"/><pulley divisor="2"/><site site="clear"/><site site="ball"/>
    </spatial>
    <spatial name="hidden" group="3"><site site="left"/><site site="ball"/></spatial>
    <spatial name="clear" rgba="1 1 1 0"><site site="left"/><site site="ball"/></spatial>
  </tendon>
  <actuator><motor tendon="actuated"/></actuator>
</mujoco>
"""
SLACK = ("string", "coloured", "springy")
BALLS = {"near": [0.4, 0.3, 1.5], "below": [-0.12, 0, 1.1], "far": [0, 1, 0], "touching": [0, 0, 1.9]}


def drawn_by_mujoco(model, ball):
    """State, and what MuJoCo would draw in it by its default options."""
    data, drawn = mujoco.MjData(model), mujoco.MjvScene(model, 1000)
    data.qpos[:3] = ball
    mujoco.mj_forward(model, data)
    every = mujoco.mjtCatBit.mjCAT_ALL
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, mujoco.MjvCamera(), every, drawn)
    return data, [drawn.geoms[i] for i in range(drawn.ngeom) if drawn.geoms[i].rgba[3] > 0]


def placed(model, data):
    found = scene.read_scene(model)
    geoms, places = poses.placed(found, poses.with_world(data.xpos[1:], data.xquat[1:]))
    return list(zip(geoms, np.asarray(places.pos), np.asarray(places.rot))), len(found.geoms)


def assert_same_shapes(ours, theirs):
    for (geom, pos, rot), other in zip(ours, theirs, strict=True):
        used = {scene.SPHERE: [0], scene.PLANE: [0, 1]}.get(geom.kind, [0, 1, 2])
        long = geom.kind in (scene.CAPSULE, scene.CYLINDER)
        size = [geom.size[0], geom.size[0], geom.size[1]] if long else geom.size
        assert geom.kind == other.type
        np.testing.assert_allclose(np.array(size, float)[used], other.size[used], atol=1e-6)
        np.testing.assert_allclose(pos, other.pos, atol=1e-6)
        np.testing.assert_allclose(np.array(geom.material.rgba, float), other.rgba, atol=0.03)  # a limit's colour
        if other.size[2] > 1e-6:  # else an end of a tendon is where the other is
            np.testing.assert_allclose(rot[:, 2], other.mat[:, 2], atol=1e-5)
        if not long:
            np.testing.assert_allclose(rot, other.mat, atol=1e-5)


def test_the_suites_tasks_are_the_shapes_that_mujoco_draws():
    """Hidden sites, clear boxes, targets on bodies of their own, cylinders and ellipsoids."""
    pytest.importorskip("mujoco_playground")
    for task in ("FingerSpin", "FishSwim"):
        model = load(task)[0]
        data, theirs = drawn_by_mujoco(model, model.qpos0[:3])
        assert_same_shapes(placed(model, data)[0], theirs)


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(MODEL)


@pytest.mark.parametrize("gravity", [True, False])
def test_sites_and_tendons_are_drawn_where_mujoco_draws_them(model, gravity):
    """Groups 0 to 2, nothing that is clear; without gravity every string is straight; red at its limit."""
    model.opt.disableflags = 0 if gravity else mujoco.mjtDisableBit.mjDSBL_GRAVITY
    for ball in BALLS.values():
        data, theirs = drawn_by_mujoco(model, ball)
        ours, solid = placed(model, data)
        names = [model.tendon(g.objid).name if g.objtype == mujoco.mjtObj.mjOBJ_TENDON else "" for g in theirs]
        straight = [name not in SLACK for name in names] if gravity else [True] * len(theirs)
        pieces = [i for i, (geom, _, _) in enumerate(ours) if i >= solid and np.ndim(geom.size[1]) == 0]
        assert len(pieces) == len(ours) - solid
        loose = 3 * poses.PIECES if gravity else 0
        assert_same_shapes(ours[:solid] + ours[solid + loose :], [g for g, s in zip(theirs, straight) if s])


def curve(pieces):
    """Points 2 mm apart along pieces (centre, direction, half-length)."""
    return np.concatenate([c + np.linspace(-h, h, 2 + int(1000 * h))[:, None] * along for c, along, h in pieces])


@pytest.mark.parametrize("ball", BALLS)
def test_strings_hang_as_mujocos(model, ball):
    """To 2 % of the length, in colour too: slack, nearly vertical, taut, with a gravity that is askew."""
    model.opt.disableflags = 0
    data, theirs = drawn_by_mujoco(model, BALLS[ball])
    ours, solid = placed(model, data)
    for number, name in enumerate(SLACK):
        index = model.tendon(name).id
        kept = [g for g in theirs if g.objtype == mujoco.mjtObj.mjOBJ_TENDON and g.objid == index]
        mine = ours[solid + number * poses.PIECES :][: poses.PIECES]
        expected = curve([(g.pos, g.mat[:, 2], g.size[2]) for g in kept])
        found = curve([(pos, rot[:, 2], np.asarray(geom.size[1])) for geom, pos, rot in mine])
        apart = np.linalg.norm(expected[:, None] - found[None], axis=-1)
        length = max(model.tendon_range[index, 1], model.tendon_lengthspring[index, 1])
        assert max(apart.min(0).max(), apart.min(1).max()) < 0.02 * length, name
        for geom, _, _ in mine:
            np.testing.assert_allclose(np.array(geom.material.rgba, float), kept[0].rgba, atol=0.03)
            assert geom.size[0] == pytest.approx(kept[0].size[0])
    red = float(ours[solid][0].material.rgba[0]) > 0.8
    assert red == (ball == "far")


# --------------------------------------------------------------------------------------------------------- frames

CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile


FRAMES = {"WalkerWalk": (11, 11)}  # mean difference in levels of 255, of pixels and of colours: a floor like a mirror
STARRY = ("BallInCup", "CartpoleSwingup", "FingerSpin", "WalkerWalk")  # sky in the uppermost rows


def draw(model, camera, pos, rot, size):
    """uint8 [n, size, size, 3] of n poses."""
    render = cast.make_renderer(model, height=size, width=size, camera=camera)
    one = jax.jit(lambda pos, rot: render(SimpleNamespace(pos=pos, rot=rot)))
    compiled = one.lower(pos[0], rot[0]).compile(compiler_options=CHEAP)
    return np.stack([compiled(*x) for x in zip(pos, rot)])


@pytest.mark.parametrize("name", SUITE)
def test_dm_controls_tasks_look_as_mujoco_draws_them(name):
    """Silhouettes along a random trajectory; and a frame, whose shadows and reflections are MuJoCo's own."""
    pytest.importorskip("mujoco_playground")
    with np.load(REFERENCE) as arrays:
        pos, rot, picture, silhouette = (arrays[f"{name}/{key}"] for key in ("pos", "rot", "picture", "silhouette"))
    model, camera = load(name)
    agreement = alike(draw(flat(model), camera, pos, rot, FINE)[..., 0] > 127, silhouette)
    assert (agreement > 0.95).all(), agreement
    frame = draw(model, camera, pos[-1:], rot[-1:], SIZE)[0].astype(float)
    each, mean = FRAMES.get(name, (5, 2))
    assert np.abs(frame - picture[0]).mean() < each and np.abs((frame - picture[0]).mean((0, 1))).max() < mean
    if name in STARRY:
        sky = [rows[:12] - rows[:12].mean(1, keepdims=True) for rows in (frame, picture[0])]
        assert np.corrcoef(sky[0].ravel(), sky[1].ravel())[0, 1] > 0.6  # MuJoCo blurs the stars more


def test_a_turning_camera_sees_the_skys_gradient():
    """Rows of one colour are the same sky whether the camera turns or not; another pose gives another."""
    rows = np.linspace(0, 1, 64, dtype=np.float32)[:, None, None] * np.ones((1, 64, 3), np.float32)
    faces = np.stack([rows, rows, 0 * rows, 0 * rows + 1, rows, rows])  # black above, white below
    x = np.linspace(-0.8, 0.8, 16, dtype=np.float32)
    d = (x[None, :], -x[:, None], np.float32(-1))
    seen = []
    for quat in ([0.8, 0.5, 0.1, 0.2], [0.6, 0.6, -0.4, -0.3], [0.2, 0.9, 0.3, 0.1]):
        axes = scene.quaternion_matrix(np.array(quat) / np.linalg.norm(quat))
        fixed, turning = behind(faces, d, axes, 0.1)[0], behind(faces, d, jnp.asarray(axes), 0.1)[0]
        assert np.abs(fixed - turning).mean() < 0.02
        seen.append(fixed)
    assert min(np.abs(seen[0] - other).mean() for other in seen[1:]) > 0.1
