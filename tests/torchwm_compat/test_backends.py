"""The seed's examples, one for each backend, run as programs: trained, evaluated, saved, reloaded and resumed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.envs.unity.unity_venv import make_player, unity_python

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = """
from torchwm import DreamerAgent
from torchwm import DreamerConfig
cfg = DreamerConfig()
{settings}
cfg.total_steps = 60
# Small, so that a test takes seconds.
cfg.logdir, cfg.time_limit, cfg.seed_steps, cfg.collect_steps, cfg.update_steps = {logdir!r}, 20, 24, 12, 1
cfg.batch_size, cfg.train_seq_len, cfg.imagine_horizon, cfg.buffer_size, cfg.test_episodes = 2, 4, 3, 500, 1
cfg.deter_size, cfg.num_units, cfg.stoch_size, cfg.obs_embed_size, cfg.image_size = 16, 16, 4, 16, (16, 16)
agent = DreamerAgent(cfg)
agent.train()
rewards, videos, latents = agent.evaluate()
agent.dreamer.save(cfg.logdir + "/model.pt")
again = DreamerAgent.from_pretrained(cfg.logdir, logdir=cfg.logdir + "/again")
same = all((a == b).all() for a, b in zip(agent.dreamer.state_dicts()["actor"].values(),
                                          again.dreamer.state_dicts()["actor"].values()))
before = int(agent.dreamer.state.updates)
agent.train(96)
import json, jaxdreamer
config = jaxdreamer.load_run(cfg.logdir + "/jaxdreamer")[0]
print("RESULT", json.dumps([rewards.tolist(), videos.shape, latents.shape, same, before, int(agent.dreamer.state.updates)]))
"""
CART = """<mujoco><worldbody><camera name="side" pos="0 -3 1" xyaxes="1 0 0 0 0 1"/><light pos="0 0 3"/>
<body><joint name="slide" type="slide" axis="1 0 0"/><geom type="box" size=".2 .1 .1" rgba="1 0 0 1"/></body></worldbody>
<actuator><motor joint="slide" ctrlrange="-2 2" ctrllimited="true"/></actuator></mujoco>"""


def run(tmp_path, settings: str) -> tuple[list, Path]:
    pytest.importorskip("torch")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "cartpole.xml").write_text(CART)
    script = tmp_path / "script.py"
    script.write_text(EXAMPLE.format(settings=settings, logdir=str(tmp_path / "run")))
    done = subprocess.run(
        [sys.executable, "-m", "torchwm_compat", str(script)],
        capture_output=True, text=True, cwd=tmp_path, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(re.search("RESULT (.*)", done.stdout).group(1))
    return found, tmp_path / "run"


EXAMPLES = {
    "dmc": ("dm_control", 'cfg.env_backend = "dmc"\ncfg.env = "walker-walk"'),
    "humanoid": ("mujoco", 'cfg.env_backend = "mujoco"\ncfg.env = "Humanoid-v4"'),
    "native": (
        "mujoco",
        'cfg.env_backend = "mujoco"\ncfg.env = "models/cartpole.xml"\ncfg.mujoco_camera = "side"\ncfg.mujoco_frame_skip = 4',
    ),
    "robotics": ("gymnasium_robotics", 'cfg.env_backend = "robotics"\ncfg.env = "HalfCheetah-v2"'),
    "brax": ("brax", 'cfg.env_backend = "brax"\ncfg.env = "{task}"\ncfg.brax_backend = "generalized"'),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_evaluates_saves_reloads_and_resumes(tmp_path, name):
    """Brax with its smallest task here: ant compiles for minutes."""
    library, settings = EXAMPLES[name]
    pytest.importorskip(library)
    (rewards, videos, latents, same, before, after), folder = run(
        tmp_path, settings.replace("{task}", "inverted_pendulum")
    )
    assert len(rewards) == 1 and same and after > before > 0
    assert videos[0] == 1 and videos[2:] == [16, 16, 3] and latents[1:] == [1, 20]
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # Resets count towards the budget too, and some of these episodes are a few steps long.
    assert steps == sorted(steps) and 48 <= steps[-1] <= 110
    assert len(list((folder / "ckpts").glob("*_ckpt.pt"))) >= 2
    if name == "brax":  # on the device, from end to end
        assert json.loads((folder / "jaxdreamer" / "config.json").read_text())["run"]["loop"] == "auto"


@pytest.mark.slow
@pytest.mark.parametrize("image", ["png", "none"])
def test_the_unity_example_against_a_scripted_player(tmp_path, image):
    """Two agents. A camera is what the agent sees; without one it sees the vectors, and there are no videos."""
    agents = [{"length": 7}, {"length": 9, "interrupted": True}]
    make_player(tmp_path / "env", agents=agents, continuous=2, image=image)
    settings = (
        f'cfg.env_backend = "unity_mlagents"\ncfg.unity_file_name = {str(tmp_path / "env")!r}\n'
        f"cfg.unity_python = {unity_python()!r}\ncfg.unity_no_graphics = {image == 'none'}"
    )
    (rewards, videos, latents, same, before, after), folder = run(tmp_path, settings)
    assert len(rewards) == 1 and same and after > before > 0
    seen = json.loads((folder / "jaxdreamer" / "spec.json").read_text())["obs"]
    assert [item["kind"] for item in seen.values()] == (["vector"] if image == "none" else ["image"])
    assert latents[1:] == [1, 20] and (videos == [1, 0] if image == "none" else videos[2:] == [16, 16, 3])
