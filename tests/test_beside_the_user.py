"""Modules in the working folder are found by the installed command, whose path lacks that folder, and by its workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENV = """
import gymnasium, numpy as np

class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.at.copy(), {}

    def step(self, action):
        self.at[0] += action[0]
        return self.at.copy(), float(self.at[0]), False, abs(self.at[0]) > 3, {}

make = Walk
gymnasium.register("Walk-v0", entry_point=Walk)
"""
# As a console script is: its own folder is on the path, the working folder is not.
SCRIPT = """
import sys
from jaxdreamer import cli

print("check", cli.main(["check-env", "--make", "mine:make"]), cli.main(["check-env", "--env", "mine:Walk-v0"]), flush=True)
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_vector

model = '''<mujoco><worldbody><body><joint name="j"/><geom size="1"/></body></worldbody>
<actuator><motor joint="j"/></actuator></mujoco>'''
for options in ({"id": "mine:Walk-v0"}, {"backend": "mujoco", "id": model, "options": {"reward_fn": "tasks:reward"}}):
    envs = make_vector(EnvConfig(**options, workers=1), 1)
    for _ in range(2):
        reward = envs.step([[0.0] * envs.spec.action.size]).reward
    print("reward", float(reward[0]), flush=True)
    envs.close()
"""


def run(folder: Path, script: str) -> subprocess.CompletedProcess:
    (folder / "bin").mkdir()
    (folder / "bin" / "script").write_text(script)
    (folder / "here").mkdir()
    (folder / "here" / "mine.py").write_text(ENV)
    (folder / "here" / "tasks.py").write_text("def reward(model, data, action, info):\n    return 7.5\n")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    return subprocess.run(
        [sys.executable, folder / "bin" / "script"], cwd=folder / "here", capture_output=True, text=True, env=env
    )


def test_modules_of_the_working_folder_are_found(tmp_path):
    pytest.importorskip("mujoco")
    done = run(tmp_path, SCRIPT)
    said = done.stdout.splitlines()
    assert "reward 7.5" in said and sum(line.startswith("reward ") for line in said) == 2, done.stderr
    assert "check 0 0" in said


def test_what_lies_in_the_working_folder_replaces_no_installed_library(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "rich.py").write_text("raise SystemExit('the wrong rich')")
    (tmp_path / "script").write_text(
        "from jaxdreamer import cli\ncli.main(['check-env', '--env', 'rich:Task-v0'])\nimport rich\nprint(rich.__path__)"
    )
    done = subprocess.run([sys.executable, tmp_path / "script"], cwd=tmp_path / "here", capture_output=True, text=True)
    assert done.returncode == 0 and "site-packages" in done.stdout
