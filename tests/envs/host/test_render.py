"""Drawing without a display: what is chosen and said, that pictures are right, and that nothing leaks or complains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import EnvError, WorkerVectorEnv, make_env, make_vector, wrap
from jaxdreamer.envs.host.drawing import gl, render
from jaxdreamer.envs.host.images import resize

mujoco = pytest.importorskip("mujoco")

ROOT = Path(__file__).parents[3]
BALL = (
    (
        "<mujoco><worldbody><light pos='0 0 3'/><geom type='plane' size='2 2 .1' rgba='.2 .4 .2 1'/><body pos='0 0 .5'>"
        "<joint type='slide' axis='1 0 0'/><geom size='.2' rgba='1 0 0 1'/></body></worldbody>"
        "<actuator><motor ctrllimited='true' ctrlrange='-1 1' joint='{}'/></actuator></mujoco>"
    )
    .replace("type='slide'", "name='x' type='slide'")
    .format("x")
)
TASKS = {"dmc": "walker-walk", "mujoco": BALL, "gym": "HalfCheetah-v5", "robotics": "FetchReach-v4"}


def script(code, **env):
    """Run code in a process of its own, without a display; returns what it prints."""
    clean = {
        key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "DISPLAY", "PYOPENGL_PLATFORM")
    }
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env={**clean, **env}, cwd=ROOT
    )


@pytest.mark.parametrize("backend", TASKS)
def test_a_fresh_process_without_a_display_draws_and_says_nothing(backend):
    """Closed in order, forgotten, or in the middle of an error: nothing is printed at exit."""
    code = (
        "import os, numpy as np\n"
        "from jaxdreamer.config import EnvConfig\n"
        "from jaxdreamer.envs import make_env\n"
        "assert 'MUJOCO_GL' not in os.environ\n"
        f"envs = [make_env(EnvConfig(backend={backend!r}, id={TASKS[backend]!r}, obs='pixels')) for _ in range(3)]\n"
        "frames = [env.reset(0).obs['image'] for env in envs]\n"
        "assert all(len(np.unique(frame)) > 10 and (frame == frames[0]).all() for frame in frames)\n"
        "envs[1].close(); envs[1].close()\n"
        "assert (envs[2].simulator.observe()['image'] == frames[0]).all()\n"
        "print(os.environ['MUJOCO_GL'])\n"
    )
    done = script(code)
    assert (done.stdout.strip() in gl.CANDIDATES, done.stderr, done.returncode) == (True, "", 0)


def test_a_task_that_draws_with_dm_controls_own_context_is_quiet_too():
    code = (
        "from jaxdreamer.config import EnvConfig\n"
        "from jaxdreamer.envs import make_env\n"
        "names = ('walker-walk', 'quadruped-escape')\n"
        "envs = [make_env(EnvConfig(backend='dmc', id=name, obs='pixels')) for name in names]\n"
        "for env in envs:\n    env.reset(0)\n    env.reset(1)\n"
    )
    done = script(code)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_nothing_works_or_is_switched_off_or_is_nonsense():
    code = (
        "from jaxdreamer.config import EnvConfig\n"
        "from jaxdreamer.envs import EnvError, make_env; from jaxdreamer.envs.host.drawing import gl\n"
        "{}\n"
        f"env = make_env(EnvConfig(backend='mujoco', id={BALL!r}, obs='both'))\n"
        "try:\n    env.reset(0)\nexcept EnvError as error:\n    print(error)\n"
        "env.close()\n"
    )
    fails = "gl.probe = lambda backend: gl.Probe(backend, '', 'no driver')"
    done = script(code.format(fails))
    assert "no OpenGL works here without a window (egl: no driver; osmesa: no driver)" in done.stdout
    assert "apt-get install libegl1" in done.stdout and done.stderr == ""
    assert "switched off by MUJOCO_GL=disabled" in script(code.format(""), MUJOCO_GL="disabled").stdout


def test_a_choice_that_is_none_says_so(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(EnvError, match="MUJOCO_GL=vulkan is none of egl, osmesa"):
        gl.make_context(8, 8)
    done = script(
        f"from jaxdreamer.envs.host.mujoco_env import load_model; load_model(xml_string={BALL!r})", MUJOCO_GL="vulkan"
    )
    assert "EnvError: importing mujoco failed" in done.stderr and "MUJOCO_GL: vulkan" in done.stderr


def test_states_need_no_drawing():
    code = (
        "import os, jaxdreamer.envs.host.drawing.gl as gl\n"
        "from jaxdreamer.config import EnvConfig\n"
        "from jaxdreamer.envs import make_env\n"
        "gl.probe = lambda backend: gl.Probe(backend, '', 'no driver')\n"
        "env = make_env(EnvConfig(backend='dmc', id='walker-walk'))\n"
        "print(env.reset(0).obs['height'].shape, os.environ.get('MUJOCO_GL'))\n"
    )
    done = script(code)
    assert (done.stdout, done.stderr) == ("(1,) None\n", "")


def test_an_explicit_choice_is_taken_without_asking(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(gl, "probe", lambda backend: pytest.fail("asked"))
    assert gl.prepare() == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(gl, "probe", lambda b: gl.Probe(b, "softpipe" * (b == "osmesa"), "no" * (b == "egl")))
    assert gl.prepare() == "osmesa" and os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.setattr(gl, "probe", lambda b: gl.Probe(b, "softpipe", ""))
    monkeypatch.delenv("MUJOCO_GL")
    assert gl.prepare() == "egl"


def test_a_probe_tells_what_it_found():
    assert gl.probe("egl").works
    lost = gl.probe("nonsense")
    assert not lost.works and "nonsense" in lost.error
    late = gl.probe("egl", seconds=0.01)
    assert not late.works and "did not answer within 0.01 s" in late.error


def test_quality():
    assert render.is_fast("auto", "llvmpipe (LLVM 15)") and not render.is_fast("auto", "NVIDIA H200/PCIe/SSE2")
    assert render.is_fast("fast", "NVIDIA H200") and not render.is_fast("full", "llvmpipe")
    assert "on a GPU by NVIDIA" in render.describe("NVIDIA", False)
    model = mujoco.MjModel.from_xml_string(BALL)
    before = (model.vis.quality.shadowsize, model.vis.quality.offsamples, model.vis.global_.offwidth)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    full, fast = render.Renderer(model, "full"), render.Renderer(model, "fast")
    assert (full.fast, fast.fast) == (False, True)
    assert before == (model.vis.quality.shadowsize, model.vis.quality.offsamples, model.vis.global_.offwidth)
    one, two = full.draw(data, (64, 64)), fast.draw(data, (64, 64))
    assert (one != two).any() and np.abs(one.astype(int) - two).mean() < 30
    np.testing.assert_array_equal(render.Renderer(model, "full").draw(data, (64, 64)), one)  # two in turn: the same
    with pytest.raises(EnvError, match="draws up to"):
        full.draw(data, (1000, 64))
    full.close(), fast.close()
    with pytest.raises(EnvError, match="closed"):
        full.draw(data, (64, 64))


@pytest.mark.parametrize("backend", ["gym", "robotics"])
def test_gymnasiums_pictures_are_its_own(backend):
    """At its own size and in full quality the frame is the library's, whatever other environments drew before."""
    env = make_env(EnvConfig(backend=backend, id=TASKS[backend], obs="pixels", options={"render_quality": "full"}))
    other = make_env(EnvConfig(backend="gym", id="Hopper-v5", obs="pixels", options={"render_quality": "full"}))
    small = env.reset(0).obs["image"]
    other.reset(0)
    frame = env.render()
    inner = env.simulator._env
    inner.unwrapped.mujoco_renderer.close()
    env.simulator._drawer.close()
    np.testing.assert_array_equal(frame, inner.render())
    assert frame.shape == (480, 480, 3) and small.shape == (64, 64, 3)
    assert np.abs(resize(frame, (64, 64)).astype(int) - small).mean() < 25
    env.close(), other.close()


def test_a_wrapper_that_draws_is_heard():
    import gymnasium

    class Red(gymnasium.Wrapper):
        def render(self):
            return np.full((10, 10, 3), [255, 0, 0], np.uint8)

    env = wrap(Red(gymnasium.make("Hopper-v5", render_mode="rgb_array")), EnvConfig(obs="pixels"))
    assert (env.reset(0).obs["image"] == [255, 0, 0]).all()
    env.close()


def test_a_camera_of_a_task_by_id():
    free, track = (
        make_env(EnvConfig(id="Ant-v5", obs="pixels", options={"camera": camera})) for camera in ("-1", "track")
    )
    assert (free.reset(0).obs["image"] != track.reset(0).obs["image"]).any()
    free.close(), track.close()
    with pytest.raises(ValueError, match="not drawn by MuJoCo"):
        make_env(EnvConfig(id="Pendulum-v1", options={"camera": "track"}))


@pytest.mark.parametrize(("backend", "cycles"), [("dmc", 10), ("mujoco", 40), ("gym", 10)])
def test_making_drawing_and_closing_does_not_grow(backend, cycles):
    """In a process of its own: the tests' own holds gigabytes, which come and go.

    Memory that was given back comes and goes by tens of megabytes, too; what leaks stays: the floor is what counts, and
    the floor of three readings was seen to differ by 33 MB where ten of them showed no growth.
    """
    code = f"""
import gc, psutil
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_env

def cycle():
    env = make_env(EnvConfig(backend={backend!r}, id={TASKS[backend]!r}, obs="pixels"))
    env.reset(0)
    env.close()

def resident():
    gc.collect()  # dm_control's environments are cyclic garbage
    return psutil.Process().memory_info().rss

readings = []
for _ in range(6):
    for _ in range({cycles}):
        cycle()
    readings.append(resident())
print(min(readings[3:]) - min(readings[:3]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 50e6


def test_four_workers_each_draw():
    config = EnvConfig(backend="dmc", id="walker-walk", obs="pixels", action_repeat=2)
    here = make_vector(config, 4, seed=1)
    there = make_vector(EnvConfig(**{**vars(config), "workers": 4}), 4, seed=1)
    try:
        assert isinstance(there, WorkerVectorEnv)
        for _ in range(3):
            one, two = (env.step(np.full((4, 6), 0.3)) for env in (here, there))
            np.testing.assert_array_equal(one.obs["image"], two.obs["image"])
            np.testing.assert_array_equal(one.reward, two.reward)
        assert len(there.notes) == 1 and there.notes == here.notes and "render_quality" in there.notes[0]
    finally:
        there.close()
        here.close()
