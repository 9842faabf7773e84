"""A platform that is not there is one sentence, in every command and in Python."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHILD = """
import sys
from jaxdreamer import cli, doctor
from jaxdreamer.devices import DeviceError
from jaxdreamer.envs import gl
import jaxdreamer
doctor.SAMPLES, gl.CANDIDATES = {}, ()  # nothing but the machine is asked here
for words in ("train --preset tiny --logdir run", "train --env.backend pure --env pendulum --logdir run --seeds 2",
              "evaluate run", "check-env --env.backend pure --env pendulum", "doctor"):
    print(words.split()[0], cli.main(words.split()), flush=True)
    print("--", file=sys.stderr, flush=True)
try:
    jaxdreamer.train_agent(jaxdreamer.preset("tiny"), "run")
except DeviceError as error:
    print("DeviceError", str(error).count("\\n"))
"""


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_there_is_one_sentence_everywhere(platform, tmp_path):
    env = os.environ | {"JAX_PLATFORMS": platform, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, env=env, cwd=tmp_path)
    if "DeviceError" not in done.stdout and "JAX devices: none" not in done.stdout:
        pytest.skip(f"this machine has {platform}")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in ("train 2", "evaluate 2", "check-env 2", "doctor 0", "DeviceError 0")] == [
        "train 2", "train 2", "evaluate 2", "check-env 2", "doctor 0", "DeviceError 0"
    ]  # fmt: skip
    assert any(
        line.startswith(f"JAX devices: none; JAX_PLATFORMS={platform}: jax cannot use that here") for line in lines
    )
    parts = [part.strip() for part in done.stderr.split("--\n")]
    assert all(part.startswith(f"jaxdreamer: JAX_PLATFORMS={platform}: ") and "\n" not in part for part in parts[:4])
    assert not (tmp_path / "run").exists()
