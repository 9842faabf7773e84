"""An interpreter with mlagents_envs for tests of the Unity backend, and players for it.

Its protobuf is older than what onnx and others want, so it gets an environment of its own, as the docs advise: made
once by pip in ``.venv-unity``, or named by ``JAXDREAMER_UNITY_PYTHON``. Where it cannot be made the tests fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from jaxdreamer.envs.unity.process import REQUIREMENTS

ROOT = Path(__file__).resolve().parents[3]
PLAYER = ROOT / "tests" / "unity_player.py"


def unity_python() -> str:
    """The interpreter, made if need be; safe where several test processes ask at once."""
    if given := os.environ.get("JAXDREAMER_UNITY_PYTHON"):
        return given
    folder = ROOT / ".venv-unity"
    python, mark = folder / "bin" / "python", folder / "requirements.txt"
    with open(ROOT / ".venv-unity.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != REQUIREMENTS:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *shlex.split(REQUIREMENTS)], check=True)
            mark.write_text(REQUIREMENTS)
    return str(python)


def make_player(path: Path, **scene: Any) -> Path:
    """An executable ``path.x86_64`` that plays the scene; what to give as env.unity_file_name is ``path``."""
    log = path.with_suffix(".jsonl")
    path.with_suffix(".json").write_text(json.dumps({"log": str(log), **scene}))
    log.touch()
    script = path.with_suffix(".x86_64")
    script.write_text(f'#!/bin/sh\nexec {unity_python()} {PLAYER} --scene {path.with_suffix(".json")} "$@"\n')
    script.chmod(0o755)
    return path


def log_of(path: Path) -> list[dict[str, Any]]:
    """What the player wrote down, a dictionary a line."""
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
