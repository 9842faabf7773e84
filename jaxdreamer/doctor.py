"""What is installed here and works: devices, drawing, versions, environments; and what to install for the rest."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

from jaxdreamer import __version__
from jaxdreamer.envs import gl, render, versions

# A small task of each backend; brax's has nothing to draw, but compiles at once.
SAMPLES = {
    "gym": "Pendulum-v1",
    "dmc": "walker-walk",
    "mujoco": "HalfCheetah-v5",
    "robotics": "FetchReach-v4",
    "brax": "fast",
}
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", *versions.FAMILY, "brax", "mlagents-envs")
_TRY = """
import json, sys
import numpy as np
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_env
said = {"error": ""}
try:
    env = make_env(EnvConfig(backend=sys.argv[1], id=sys.argv[2], obs=sys.argv[3]))
    entry = env.step(np.zeros(env.spec.action.size, np.float32)) if env.reset(0).is_first else None
    said["observations"] = {key: list(value.shape) for key, value in entry.obs.items()}
    env.close()
except Exception as error:
    said["error"] = f"{type(error).__name__}: {error}"
print("said " + json.dumps(said))
"""


def lines() -> list[str]:
    """The whole report."""
    return [*_machine(), "", *_drawing(), "", *_versions(), "", *_backends()]


def try_backend(name: str, obs: str = "state", seconds: float = 240.0) -> tuple[dict[str, Any], str]:
    """Make, reset and step a small task in a child process: what it observed, and what went wrong, one of them empty."""
    command = [sys.executable, "-c", _TRY, name, SAMPLES[name], obs]
    env = {"JAX_PLATFORMS": "cpu", **os.environ}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env)
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {seconds:g} s"
    said = [line[5:] for line in done.stdout.splitlines() if line.startswith("said ")]
    if not said:
        last = done.stderr.strip().splitlines() or ["it said nothing"]
        return {}, f"exit status {done.returncode}: {last[-1]}"
    found = json.loads(said[-1])
    return found.get("observations", {}), found["error"]


def _machine() -> list[str]:
    import jax

    devices = ", ".join(f"{device.device_kind} ({device.platform})" for device in jax.devices())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"jaxdreamer {__version__}, Python {platform.python_version()}, {platform.platform()}, {cores} cores",
        f"JAX devices: {devices}",
    ]


def _drawing() -> list[str]:
    asked = os.environ.get("MUJOCO_GL", "")
    found = [gl.probe(backend) for backend in gl.CANDIDATES]
    said = [f"  {item.backend}: {item.renderer or item.error}" for item in found]
    working = [item for item in found if item.works]
    chosen = next((item for item in working if item.backend == asked.lower()), None) if asked else None
    if asked and chosen is None:
        return [f"drawing: MUJOCO_GL={asked} is set, which does not work or was not tried", *said]
    chosen = chosen or next(iter(working), None)
    if chosen is None:
        return ["drawing: nothing works here without a window", *said, f"  {gl.INSTALL}"]
    why = f"MUJOCO_GL={asked} is set" if asked else "the first that works"
    fast = render.is_fast("auto", chosen.renderer)
    return [f"drawing: {chosen.backend}, {why}; {render.describe(chosen.renderer, fast)}", *said]


def _versions() -> list[str]:
    found = versions.installed(*LIBRARIES)
    return ["versions: " + ", ".join(f"{name} {number or '(missing)'}" for name, number in found.items())]


def _backends() -> list[str]:
    told = ["environments, each tried in a process of its own:"]
    for name, task in SAMPLES.items():
        state, error = try_backend(name)
        if error:
            told += [f"  {name}: does not work", *(f"    {line}" for line in error.splitlines())]
            continue
        told.append(f"  {name}: works ({task}: {', '.join(state)}{'' if name == 'brax' else '; ' + _pixels(name)})")
    unity = versions.installed("mlagents-envs")["mlagents-envs"]
    how = f"mlagents-envs {unity} is here; it takes a player to try" if unity else "pip install 'jaxdreamer[unity]'"
    return [*told, f"  unity_mlagents: {how}"]


def _pixels(name: str) -> str:
    pixels, error = try_backend(name, "pixels")
    return f"no pixels: {error}" if error else f"pixels {'x'.join(map(str, pixels['image']))}"
