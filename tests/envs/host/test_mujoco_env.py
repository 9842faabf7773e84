"""MuJoCo: where a model comes from makes no difference, what cannot be loaded says why, and ids of every age work."""

from __future__ import annotations

import struct
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import make_env

mujoco = pytest.importorskip("mujoco")

from jaxdreamer.envs.host import mujoco_env  # noqa: E402
from jaxdreamer.envs.host.mujoco_env import MuJoCoEnv, MuJoCoImageEnv, MuJoCoOptions, make_mujoco_env_from_config  # noqa: E402

TETRAHEDRON = "v 0 0 0\nv .2 0 0\nv 0 .2 0\nv 0 0 .2\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
PARTS = """<mujocoinclude><asset><mesh name="wedge" file="wedge.obj"/></asset></mujocoinclude>"""
MODEL = """<mujoco model="cart">
  <include file="parts.xml"/>
  <option timestep="0.01"/>
  <worldbody>
    <light pos="0 0 3"/><geom type="plane" size="2 2 .1" rgba=".3 .5 .3 1"/>
    <camera name="side" pos="0 -2 .6" xyaxes="1 0 0 0 .2 1"/>
    <camera name="above" pos="0 0 3"/>
    <body pos="0 0 .4">
      <joint name="slide" type="slide" axis="1 0 0" range="-1 1" limited="true"/>
      <geom type="box" size=".2 .1 .1" rgba=".8 .2 .2 1"/>
      <body><joint name="pole" type="hinge" axis="0 1 0"/><geom type="mesh" mesh="wedge" rgba=".2 .2 .8 1"/></body>
    </body>
    <body pos="1 0 1"><freejoint/><geom size=".1"/></body>
  </worldbody>
  <actuator><motor joint="slide" ctrllimited="true" ctrlrange="-2 3"/><motor joint="pole"/></actuator>
  <sensor><jointpos joint="pole"/></sensor>
</mujoco>"""
ASSETS = {"parts.xml": PARTS.encode(), "wedge.obj": TETRAHEDRON.encode()}


@pytest.fixture
def folder(tmp_path):
    """An MJCF file with what it names, and an MJB of it."""
    for name, content in ASSETS.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cart.xml").write_text(MODEL)
    mujoco.mj_saveModel(mujoco.MjModel.from_xml_path(str(tmp_path / "cart.xml")), str(tmp_path / "cart.mjb"))
    return tmp_path


def trajectory(env, steps=100):
    """Observations and rewards of random actions after a noisy reset."""
    rng, rows = np.random.default_rng(0), [env.reset(3).obs]
    for _ in range(steps):
        entry = env.step(rng.uniform(-1, 1, env.spec.action.size))
        rows.append({**entry.obs, "reward": entry.reward})
    env.close()
    return rows


def test_file_string_and_binary_are_one_model(folder):
    options = {"backend": "mujoco", "obs": "both", "image_size": (24, 32), "action_repeat": 2}
    own = {"camera": "side", "reset_noise": 0.1, "frame_skip": 2, "reward_fn": "tests.envs.host.test_mujoco_env:speed"}
    options |= {"options": own}
    file = trajectory(make_env(EnvConfig(id=str(folder / "cart.xml"), **options)))
    binary = trajectory(make_env(EnvConfig(id=str(folder / "cart.mjb"), **options)))
    string = trajectory(make_mujoco_env_from_config(EnvConfig(id=MODEL, **options), assets=ASSETS))
    assert set(file[0]) == {"image", "qpos", "qvel", "sensordata"} and file[0]["image"].shape == (24, 32, 3)
    assert len(np.unique(file[0]["image"])) > 20 and file[50]["reward"] != 0
    for key in file[1]:
        np.testing.assert_array_equal([row[key] for row in file[1:]], [row[key] for row in binary[1:]], err_msg=key)
        np.testing.assert_array_equal([row[key] for row in file[1:]], [row[key] for row in string[1:]], err_msg=key)
    assert np.ptp([row["qpos"][0] for row in file]) > 0.01


def speed(model, data, action, info):
    return float(data.qvel[0])


def fallen(model, data, info):
    return info["qpos"][4] < 0.5  # the ball's height


def test_a_string_finds_its_files_in_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert make_env(EnvConfig(backend="mujoco", id=MODEL)).reset(0).is_first


def test_callbacks_decide_reward_and_end(folder):
    seen = []

    def reward(model, data, action, info):
        seen.append((model, data, action.copy(), info))
        return 2.5

    config = EnvConfig(
        backend="mujoco",
        id=str(folder / "cart.xml"),
        options=MuJoCoOptions(frame_skip=3, terminal_fn="tests.envs.host.test_mujoco_env:fallen"),
    )
    env = make_mujoco_env_from_config(config, reward_fn=reward)
    entry = env.reset(0)
    while not entry.is_last:
        entry = env.step(np.array([1.0, 0.5]))
        assert entry.reward == 2.5
    assert entry.is_terminal and 0.2 < entry.obs["qpos"][4] < 0.5
    model, data, action, info = seen[-1]
    assert isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)
    np.testing.assert_allclose(action, [3.0, 0.5])  # its own range, and the default one of an actuator without
    assert set(info) == {"time", "qpos", "qvel", "action"}
    assert info["time"] == pytest.approx(len(seen) * 3 * 0.01)
    assert info["qpos"].shape == (2 + 7,) and info["qvel"].shape == (2 + 6,)


def test_without_callbacks_there_is_no_reward_and_the_time_limit_truncates(folder):
    env = make_env(
        EnvConfig(backend="mujoco", id=str(folder / "cart.xml"), action_repeat=10, options={"frame_skip": 1})
    )
    entry, steps = env.reset(0), 0
    while not entry.is_last:
        entry, steps = env.step(np.zeros(2)), steps + 1
        assert entry.reward == 0
    assert not entry.is_terminal and steps == mujoco_env.DEFAULT_STEPS // 10
    assert env.frame_rate == pytest.approx(10)
    short = make_env(EnvConfig(backend="mujoco", id=str(folder / "cart.xml"), time_limit=1))
    short.reset(0)
    assert short.step(np.zeros(2)).is_last


def test_reset_noise_comes_from_the_seed_and_keeps_rotations_rotations(folder):
    env = MuJoCoEnv(folder / "cart.xml", reset_noise_scale=0.3)
    first, _ = env.reset(seed=1)
    again, _ = env.reset(seed=1)
    other, _ = env.reset(seed=2)
    np.testing.assert_array_equal(first["qpos"], again["qpos"])
    assert np.all(first["qpos"] != other["qpos"]) and np.all(first["qvel"] != other["qvel"])
    assert np.linalg.norm(first["qpos"][5:9]) == pytest.approx(1)
    still, _ = MuJoCoEnv(folder / "cart.xml").reset(seed=1)
    assert still["qvel"].any() == False  # noqa: E712


def test_control_ranges(folder):
    space = MuJoCoEnv(folder / "cart.xml", default_control_range=(-5, 7)).action_space
    assert space.low.tolist() == [-2, -5] and space.high.tolist() == [3, 7]
    env = make_env(EnvConfig(backend="mujoco", id=str(folder / "cart.xml"), action_bound=4))
    np.testing.assert_allclose(env.simulator.to_env(np.array([-1.0, 1.0])), [-2, 4])


def test_cameras_by_name_and_number(folder):
    def picture(camera):
        env = MuJoCoImageEnv(folder / "cart.xml", camera=camera, size=(20, 30))
        image = env.reset(seed=0)[0]["image"]
        assert env.observation_space.contains({"image": image})
        env.close()
        return image

    side, above = picture("side"), picture("above")
    np.testing.assert_array_equal(side, picture(0))
    np.testing.assert_array_equal(above, picture("1"))
    np.testing.assert_array_equal(picture(None), picture(-1))
    assert (side != above).mean() > 0.2 and (side != picture(-1)).mean() > 0.2
    with pytest.raises(ConfigError, match=r"no camera 'sied' \(did you mean side\?\); it has 0 'side', 1 'above'"):
        picture("sied")
    with pytest.raises(ConfigError, match="no camera '2'"):
        picture(2)


@pytest.mark.filterwarnings("ignore:.*Box observation space")
@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized space")
def test_a_gymnasium_checker_finds_nothing_wrong(folder):
    from gymnasium.utils.env_checker import check_env

    for kind in (MuJoCoEnv, MuJoCoImageEnv):
        env = kind(folder / "cart.xml", max_episode_steps=20)
        check_env(env, skip_render_check=True, skip_close_check=True)
        env.close()


def test_a_model_without_actuators_says_there_is_nothing_to_decide():
    ball = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    with pytest.raises(ConfigError, match="no dimensions; there is nothing to decide"):
        make_env(EnvConfig(backend="mujoco", id=ball))
    assert MuJoCoEnv(xml_string=ball).action_space.shape == (0,)
    with pytest.raises(ConfigError, match="no joints and no sensors"):
        MuJoCoEnv(xml_string="<mujoco/>")


def damaged(folder, change):
    content = bytearray((folder / "cart.mjb").read_bytes())
    path = folder / "damaged.mjb"
    path.write_bytes(bytes(change(content)))
    return path


def other_version(content, number):
    content[12:16] = struct.pack("<i", number)
    return content


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content[: len(content) // 2], "Truncated model file"),
        (lambda content: content[:-1], "Truncated model file"),
        (lambda content: content[:10], "does not begin as an MJB"),
        (lambda content: b"", "does not begin as an MJB"),
        (lambda content: b"<mujoco" + content[7:], "does not begin as an MJB"),
        (lambda content: other_version(content, 3_008_001), r"written by MuJoCo 3\.8\.1"),
        (lambda content: other_version(content, 327), "failed to load"),
    ],
)
def test_an_mjb_that_will_not_load_is_an_error_with_both_versions(folder, monkeypatch, capfd, change, says):
    monkeypatch.chdir(folder)
    path = damaged(folder, change)
    with pytest.raises(ConfigError, match=says) as caught:
        make_env(EnvConfig(backend="mujoco", id=str(path)))
    assert f"MuJoCo {mujoco.__version__} cannot load" in str(caught.value) and "mj_saveModel" in str(caught.value)
    assert capfd.readouterr() == ("", "") and not Path("MUJOCO_LOG.TXT").exists()  # MuJoCo would leave both


def test_what_is_no_model_says_what_it_is(folder):
    for text, says in [
        ("missing.xml", "no model file 'missing.xml'"),
        ("<mujoco><nonsense/></mujoco>", "cannot load the MJCF string.*nonsense"),
        (MODEL.replace("parts.xml", "gone.xml"), "gone.xml"),
        (str(folder / "wedge.obj"), "env.id"),
        ("Humanoidd-v5", "did you mean Humanoid-v5"),
    ]:
        with pytest.raises(ConfigError, match=says):
            make_env(EnvConfig(backend="mujoco", id=text))
    with pytest.raises(ConfigError, match="exactly one"):
        MuJoCoEnv(folder / "cart.xml", xml_string=MODEL)
    for text in (
        "speed",
        "tests.envs.host.test_mujoco_env:gone",
        "no.such.module:f",
        "tests.envs.host.test_mujoco_env:MODEL",
    ):
        with pytest.raises(ConfigError, match=r"env\.reward_fn"):
            make_env(EnvConfig(backend="mujoco", id=str(folder / "cart.xml"), options={"reward_fn": text}))
    with pytest.raises(ConfigError, match="are for models"):
        make_env(EnvConfig(backend="mujoco", id="Ant-v5", options={"reward_fn": "a:b"}))


def test_a_simulation_that_blows_up_is_cut_before_it_starts_again(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    env = make_env(EnvConfig(backend="mujoco", id=str(folder / "cart.xml")))
    env.reset(0)
    env.simulator._env.data.qvel[0] = 1e12
    entry = env.step(np.zeros(2))
    assert np.isnan(entry.reward) and entry.is_last and not entry.is_terminal
    assert capfd.readouterr() == ("", "") and not Path("MUJOCO_LOG.TXT").exists()
    assert env.reset(0).is_first and np.isfinite(env.step(np.zeros(2)).reward)


def test_without_mujoco_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxdreamer\[mujoco\]'$"):
        MuJoCoEnv(xml_string=MODEL)


IDS = sorted(name for name, spec in gymnasium.registry.items() if "gymnasium.envs.mujoco" in str(spec.entry_point))
DEAD = sorted(name for name in gymnasium.registry if name.endswith(("-v2", "-v3")) and f"{name[:-1]}4" in IDS)


def test_there_are_ids_to_walk():
    assert len(IDS) > 20 and len(DEAD) > 10 and "HalfCheetah-v2" in DEAD and "Humanoid-v4" in IDS


@pytest.mark.parametrize("name", [*IDS, *DEAD])
def test_every_id_of_gymnasium_makes_resets_and_steps(name, caplog):
    from jaxdreamer.envs.host import gymnasium_env

    gymnasium_env._told.clear()
    if name in ("Pusher-v2", "Pusher-v4"):  # their model is not the same in MuJoCo 3
        with pytest.raises(ConfigError, match=rf"{name} is not available.*mujoco<3.*use Pusher-v5"):
            make_env(EnvConfig(backend="mujoco", id=name))
        return
    env = make_env(EnvConfig(backend="mujoco", id=name))
    assert env.reset(0).is_first and np.isfinite(env.step(np.zeros(env.spec.action.size)).reward)
    env.close()
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    if name in DEAD:
        assert len(told) == 1 and f"{name} needs mujoco-py" in told[0] and f"making {name[:-1]}4" in told[0]
    else:
        assert told == []


def test_settings_of_a_task_by_id():
    env = make_env(
        EnvConfig(backend="mujoco", id="HalfCheetah-v5", time_limit=3, options={"frame_skip": 2, "reset_noise": 0.5})
    )
    assert env.simulator._env.unwrapped.frame_skip == 2
    calm = make_env(EnvConfig(backend="mujoco", id="HalfCheetah-v5"))
    spread = [np.abs(item.reset(0).obs["state"]).mean() for item in (env, calm)]
    assert spread[0] > 2 * spread[1]
    for _ in range(3):
        entry = env.step(np.zeros(6))
    assert entry.is_last and not entry.is_terminal
    with pytest.raises(ConfigError, match=r"env\.frame_skip: HalfCheetah-v4 does not let it be chosen"):
        make_env(EnvConfig(backend="mujoco", id="HalfCheetah-v4", options={"frame_skip": 2}))
