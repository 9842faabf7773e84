"""A platform that is not there is one sentence, in every command and in Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxdreamer.devices import how_often, keep_compiled

CHILD = """
import sys
from jaxdreamer import cli, families
from jaxdreamer.devices import DeviceError
from jaxdreamer.envs.host.drawing import gl
import jaxdreamer
families.records, gl.CANDIDATES = dict, ()  # nothing but the machine is asked here
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


@pytest.mark.parametrize("home", ["closed", "unknown", "open"])
def test_programs_are_compiled_without_a_home_too_and_a_line_says_that_they_are_not_kept(
    home, tmp_path, monkeypatch, caplog
):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "closed").write_text("a file, below which no folder can be made, whoever asks")
    monkeypatch.setenv("HOME", str(tmp_path / home))
    if home == "unknown":
        monkeypatch.setattr(Path, "home", unknown)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_compiled()
        assert how_often() == ("unless it is cached" if home == "open" else "for this run")
        assert jax.config.values["jax_compilation_cache_dir"] == (
            str(tmp_path / "open/.cache/jaxdreamer/xla") if home == "open" else None
        )
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert ("compiled programs are not kept for the next run (" in caplog.text) == (home != "open")
