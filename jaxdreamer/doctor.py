"""What is installed here and works: devices, drawing, versions, environments; and what to install for the rest."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

from jaxdreamer import __version__
from jaxdreamer.devices import DeviceError, devices
from jaxdreamer.envs.host import versions
from jaxdreamer.envs.host.drawing import gl, render

# A small task of each backend; brax's has nothing to draw, but compiles at once.
SAMPLES = {
    "gym": "Pendulum-v1",
    "dmc": "walker-walk",
    "mujoco": "HalfCheetah-v5",
    "robotics": "FetchReach-v4",
    "brax": "fast",
}
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", *versions.FAMILY, "brax", "mlagents-envs")
_TRY = """
import json, sys
import numpy as np
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_env
name, task, *modes = sys.argv[1:]
for obs in modes:
    shapes, error = {}, ""
    try:
        env = make_env(EnvConfig(backend=name, id=task, obs=obs))
        env.reset(0)
        entry = env.step(np.zeros(env.spec.action.size, np.float32))
        shapes = {key: list(value.shape) for key, value in entry.obs.items()}
        env.close()
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    print("said " + json.dumps([shapes, error]), flush=True)
"""


def lines() -> list[str]:
    """The whole report."""
    return [*_machine(), "", *_drawing(), "", *_versions(), "", *_backends()]


def try_backend(name: str, *modes: str, seconds: float = 240.0) -> list[tuple[dict[str, list[int]], str]]:
    """Make, reset and step a small task in a child process, once for each mode of ``env.obs``.

    For each what it observed, shapes by key, and what went wrong; one of the two is empty.
    """
    command = [sys.executable, "-c", _TRY, name, SAMPLES[name], *modes]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}  # whether a backend works does not depend on the device
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=env)
    except subprocess.TimeoutExpired:
        return [({}, f"no answer within {seconds:g} s")] * len(modes)
    said = [tuple(json.loads(line[5:])) for line in done.stdout.splitlines() if line.startswith("said ")]
    last = done.stderr.strip().splitlines() or ["it said nothing"]
    return said + [({}, f"exit status {done.returncode}: {last[-1]}")] * (len(modes) - len(said))


def _machine() -> list[str]:
    try:
        found = ", ".join(f"{device.device_kind} ({device.platform})" for device in devices())
    except DeviceError as error:
        found = f"none; {error}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"jaxdreamer {__version__}, Python {platform.python_version()}, {platform.platform()}, {cores} cores",
        f"JAX devices: {found}",
    ]


def _drawing() -> list[str]:
    if gl.missing():
        return [
            f"drawing: not tried; {' '.join(str(gl.missing_mujoco()).splitlines())} (classic tasks are drawn without it)"
        ]
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
        modes = ("state",) if name == "brax" else ("state", "pixels")
        (state, error), *drawn = try_backend(name, *modes)
        if error:
            told += [f"  {name}: does not work", *(f"    {line}" for line in error.splitlines())]
            continue
        pixels = [f"no pixels: {why}" if why else f"pixels {'x'.join(map(str, obs['image']))}" for obs, why in drawn]
        told.append(f"  {name}: works ({'; '.join([f'{task}: ' + ', '.join(state), *pixels])})")
    unity = versions.installed("mlagents-envs")["mlagents-envs"]
    how = f"mlagents-envs {unity} is here; it takes a player to try" if unity else "pip install 'jaxdreamer[unity]'"
    return [*told, f"  unity_mlagents: {how}"]
