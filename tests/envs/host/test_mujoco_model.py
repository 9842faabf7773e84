"""MuJoCo models of one's own: keyframes, URDF, paths of every kind, and runs that go on from another folder."""

from __future__ import annotations

import io
import logging
import struct

import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import make_env
from jaxdreamer.envs.registry import located
from jaxdreamer.train.api import evaluate_agent, train_agent

mujoco = pytest.importorskip("mujoco")

from jaxdreamer.envs.host import mujoco_env  # noqa: E402
from jaxdreamer.envs.host.mujoco_env import MuJoCoEnv  # noqa: E402

KEYED = """<mujoco><worldbody>
  <body name="target" mocap="true"/>
  <body><joint name="hinge" axis="0 1 0"/><geom type="capsule" size=".05" fromto="0 0 0 0 0 .5"/></body>
</worldbody>
<actuator><general joint="hinge" dyntype="integrator" gainprm="1"/></actuator>
<keyframe>
  <key name="home" time="2" qpos="0.5" qvel="-1" act="0.3" ctrl="0.2" mpos="1 2 3"/>
  <key qpos="1.5"/>
  <key name="0" qpos="2.5"/>
</keyframe></mujoco>"""

LINK = """<link name="{}"><inertial><mass value="1"/>
  <inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>{}</link>"""
SHAPE = '<collision><geometry><mesh filename="{}"/></geometry></collision>'
JOINT = """<joint name="hinge" type="revolute"><parent link="base"/><child link="lower"/><axis xyz="0 1 0"/>
  <limit lower="-1" upper="1" effort="10" velocity="5"/></joint>"""


def urdf(mesh: str | None = None) -> str:
    shape = "" if mesh is None else SHAPE.format(mesh)
    links = LINK.format("base", "") + LINK.format("lower", shape)
    return f'<?xml version="1.0"?>\n<!-- <mujoco> -->\n<robot name="arm">{links}{JOINT}</robot>'


def stl() -> bytes:
    corners = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]
    body = b"".join(bytes(12) + corners[list(face)].tobytes() + bytes(2) for face in faces)
    return bytes(80) + struct.pack("<I", len(faces)) + body


ACTUATED = """<mujoco><asset><model name="robot" file="arm.urdf"/></asset>
<worldbody><attach model="robot" body="lower" prefix=""/></worldbody>
<actuator><motor joint="hinge" ctrlrange="-1 1"/></actuator></mujoco>"""


# ---- keyframes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keyframe", "angle"), [("", 0.0), ("home", 0.5), ("1", 1.5), ("0", 2.5), ("2", 2.5)])
def test_an_episode_begins_from_the_keyframe(keyframe, angle):
    """A name goes before a number."""
    env = make_env(EnvConfig(backend="mujoco", id=KEYED, options={"keyframe": keyframe}))
    for _ in range(2):
        assert env.reset(0).obs["qpos"] == [angle]
        env.step(np.zeros(1))
    env.close()


def test_a_keyframe_is_more_than_positions_and_noise_comes_on_top():
    env = MuJoCoEnv(xml_string=KEYED, keyframe="home")
    _, info = env.reset(seed=0)
    assert info["time"] == 2 and info["qvel"] == [-1] and env.data.act == [0.3] and env.data.ctrl == [0.2]
    np.testing.assert_array_equal(env.data.mocap_pos, [[1, 2, 3]])
    noisy = MuJoCoEnv(xml_string=KEYED, keyframe=0 + 1, reset_noise_scale=0.01)
    angle = noisy.reset(seed=0)[0]["qpos"][0]
    assert angle != 1.5 and abs(angle - 1.5) < 0.1


@pytest.mark.parametrize("keyframe", ["hom", "-1", "3", "1.0", "first"])
def test_a_keyframe_that_is_not_there_is_told_with_those_that_are(keyframe):
    says = rf"env\.keyframe: the model has no keyframe '{keyframe}'.*it has 'home', 1, '0' \(or 0 to 2\)"
    with pytest.raises(ConfigError, match=says):
        make_env(EnvConfig(backend="mujoco", id=KEYED, options={"keyframe": keyframe}))
    with pytest.raises(ConfigError, match="it has none"):
        MuJoCoEnv(xml_string=KEYED[: KEYED.index("<keyframe>")] + "</mujoco>", keyframe="home")
    with pytest.raises(
        ConfigError, match=r"are for models of your own, and 'Ant-v5' is a task's id: leave out env\.keyframe"
    ):
        make_env(EnvConfig(backend="mujoco", id="Ant-v5", options={"keyframe": keyframe}))


def test_keyframes_that_are_not_used_are_told_once(caplog, monkeypatch):
    monkeypatch.setattr(mujoco_env, "_told", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            make_env(EnvConfig(backend="mujoco", id=KEYED)).close()
        make_env(EnvConfig(backend="mujoco", id=KEYED, options={"keyframe": "home"})).close()
    assert [record.getMessage() for record in caplog.records] == [
        "the model has keyframes 'home', 1, '0'; episodes begin at its default state: set env.keyframe=home to begin there"
    ]


# ---- URDF ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arm.urdf", "ARM.URDF", "my arm [1]=a.urdf", "arm.xml"])
def test_a_urdf_says_that_it_has_no_actuators_and_the_mjcf_that_gives_it_some(tmp_path, name):
    path = tmp_path / name
    path.write_text(urdf())
    with pytest.raises(ConfigError, match="a URDF has no actuators") as error:
        make_env(EnvConfig(backend="mujoco", id=str(path)))
    advice = str(error.value)[str(error.value).index("<mujoco>") :]
    (tmp_path / "arm.urdf").write_text(urdf())
    (tmp_path / "actuated.xml").write_text(advice.replace(f'file="{name}"', 'file="arm.urdf"'))
    env = make_env(EnvConfig(backend="mujoco", id=str(tmp_path / "actuated.xml")))
    assert env.spec.action.size == 1 and set(env.reset(0).obs) == {"qpos", "qvel"}
    env.close()
    with pytest.raises(ConfigError, match=r'a URDF has no actuators.*file="robot.urdf".*joint="hinge"'):
        make_env(EnvConfig(backend="mujoco", id=urdf()))


def test_meshes_of_a_urdf_are_found_beside_it_or_the_way_to_them_is_told(tmp_path):
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "part.stl").write_bytes(stl())
    path = tmp_path / "arm.urdf"
    for mesh, says in [
        ("meshes/part.stl", "has no actuators"),  # so it was loaded
        ("meshes/gone.stl", "gone.stl"),
        ("package://arm/meshes/part.stl", "MuJoCo knows no ROS packages.*strippath"),
    ]:
        path.write_text(urdf(mesh))
        with pytest.raises(ConfigError, match=says) as error:
            make_env(EnvConfig(backend="mujoco", id=str(path)))
    compiler = str(error.value).partition("and <mujoco>")[2].partition("</mujoco>")[0]
    path.write_text(path.read_text().replace('name="arm">', f'name="arm"><mujoco>{compiler}</mujoco>'))
    with pytest.raises(ConfigError, match="has no actuators"):
        make_env(EnvConfig(backend="mujoco", id=str(path)))


# ---- paths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "page.xml",
            "<html><body/></html>",
            r"begins with <mujoco> \(MJCF\) or <robot> \(URDF\); its first element is <html>",
        ),
        ("empty.urdf", "", "it holds no XML element"),
        ("notes.mjcf", "just words", "it holds no XML element"),
        ("folder.xml", None, "is a folder, no model's file"),
        ("folder", None, "is a folder, and no model by its name: a model's file ends in .xml, .mjcf, .urdf, .mjb"),
        ("arm.urdf.xacro", "<robot/>", "is a file, and no model by its name"),
    ],
)
def test_what_is_no_model_is_told_by_what_it_is(tmp_path, name, text, says):
    path = tmp_path / name
    path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        make_env(EnvConfig(backend="mujoco", id=str(path)))


def test_a_model_of_another_backend_is_told_whose_it_is():
    with pytest.raises(ConfigError, match=r"'cart\.xml' is a MuJoCo model: set env\.backend=mujoco"):
        make_env(EnvConfig(id="cart.xml"))


def test_paths_of_settings_are_made_absolute_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    for given, found in [
        ({"backend": "mjcf", "id": "a b/[1]=c.URDF"}, {"id": f"{tmp_path}/a b/[1]=c.URDF"}),
        ({"backend": "mujoco", "id": "~/cart.xml"}, {"id": "/home/ann/cart.xml"}),
        ({"backend": "mujoco", "id": KEYED}, {}),
        ({"backend": "mujoco", "id": "Ant-v5"}, {}),
        ({"backend": "gym", "id": "ALE/Pong-v5"}, {}),
        (
            {"backend": "unity", "unity_file_name": "builds/Ball", "unity_python": "venv/bin/python"},
            {"unity_file_name": f"{tmp_path}/builds/Ball", "unity_python": f"{tmp_path}/venv/bin/python"},
        ),
        ({"backend": "unity", "unity_python": "python3.10"}, {}),
        ({"python": "venv/bin/python"}, {"python": f"{tmp_path}/venv/bin/python"}),
        ({"python": "python3.8"}, {}),
    ]:
        config = configs.replace_env(EnvConfig(), given)
        assert located(config) == configs.replace_env(config, found)


def test_a_run_on_a_model_goes_on_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "arm.urdf").write_text(urdf())
    (tmp_path / "models" / "my arm.xml").write_text(ACTUATED)
    words = ["backend=mujoco", "env=models/my arm.xml", "frames=30", "prefill=20", "time_limit=10", "eval_episodes=1"]
    words += ["capacity=100", "pretrain=1", "updates=1", "train_every=10", "video=false", "action_repeat=1"]
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    result = train_agent(configs.preset("dreamer_v1,tiny", *words), run, console=Console(file=io.StringIO()))
    assert configs.load(run / "config.json").env.id == str(tmp_path / "models" / "my arm.xml")
    monkeypatch.chdir("/")
    assert evaluate_agent(run).returns == result.evaluation.returns
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"no model file .*models/my arm\.xml.*set env\.id in the run's config\.json"):
        evaluate_agent(run)
