"""What is installed here and works: devices, drawing, versions, environments; and what to install for the rest."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections import Counter

import cloudpickle

from jaxdreamer import __version__, families
from jaxdreamer.devices import DeviceError, devices
from jaxdreamer.envs.host import libraries
from jaxdreamer.envs.host.drawing import gl, render
from jaxdreamer.errors import MissingExtra
from jaxdreamer.families import Backend

_TRY = """
import json, pickle, sys
import numpy as np
from jaxdreamer import families
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_env
families.register(record := pickle.load(sys.stdin.buffer))
for obs in sys.argv[1:]:
    shapes, error = {}, ""
    try:
        env = make_env(EnvConfig(backend=record.name, id=record.sample, obs=obs))
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


def try_backend(record: Backend, *modes: str, seconds: float = 240.0) -> list[tuple[dict[str, list[int]], str]]:
    """Make, reset and step a small task in a child process, once for each mode of ``env.obs``.

    For each what it observed, shapes by key, and what went wrong; one of the two is empty.
    """
    command = [sys.executable, "-c", _TRY, *modes]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}  # whether a backend works does not depend on the device
    try:
        # The child is handed the record: it knows nothing of what this program registered.
        done = subprocess.run(command, input=cloudpickle.dumps(record), capture_output=True, timeout=seconds, env=env)
    except subprocess.TimeoutExpired:
        return [({}, f"no answer within {seconds:g} s")] * len(modes)
    said = [tuple(json.loads(line[5:])) for line in done.stdout.decode().splitlines() if line.startswith("said ")]
    last = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    return said + [({}, f"exit status {done.returncode}: {last[-1]}")] * (len(modes) - len(said))


def _machine() -> list[str]:
    try:
        kinds = Counter(f"{device.device_kind} ({device.platform})" for device in devices())
        found = ", ".join(kind if count == 1 else f"{count} x {kind}" for kind, count in kinds.items())
        if (count := kinds.total()) > 1:
            found += f"; a run uses one, or all of them with --devices {count}"
    except DeviceError as error:
        found = f"none; {error}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"jaxdreamer {__version__}, Python {platform.python_version()}, {platform.platform()}, {cores} cores",
        f"JAX devices: {found}",
    ]


def _drawing() -> list[str]:
    if error := gl.missing():
        return [f"drawing: not tried; {': '.join(str(error).splitlines())} (classic tasks are drawn without it)"]
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
    own = [name for record in families.records().values() for name in record.libraries]
    found = libraries.installed("jax", "jaxlib", "flax", "optax", "numpy", *own)
    return ["versions: " + ", ".join(f"{name} {number or '(missing)'}" for name, number in found.items())]


def _backends() -> list[str]:
    lines = ["environments, each tried in a separate process:"]
    every = families.records().values()
    for record in [
        dataclasses.replace(item, sample=task) for item in every for task in (item.sample, *item.more_samples)
    ]:
        if not record.sample:
            found = libraries.installed(*record.libraries)
            if found and all(found.values()):
                here = ", ".join(f"{name} {number}" for name, number in found.items())
                lines.append(f"  {record.name}: {here} is here; there is no small task to try")
            elif found:
                lines.append(f"  {record.name}: pip install 'jaxdreamer[{record.extra}]'")
            continue
        # What is drawn on the device depends on no driver.
        (state, error), *drawn = try_backend(record, "state", *(["pixels"] if record.kind == "host" else []))
        name = f"{record.name} {record.sample}" if record.sample in record.more_samples else record.name
        if error.startswith(MissingExtra.__name__):
            lines.append(f"  {name}: {error.splitlines()[-1]}")
            continue
        if error:
            lines += [f"  {name}: does not work", *(f"    {line}" for line in error.splitlines())]
            continue
        pixels = [f"no pixels: {why}" if why else f"pixels {'x'.join(map(str, obs['image']))}" for obs, why in drawn]
        lines.append(f"  {record.name}: works ({'; '.join([f'{record.sample}: ' + ', '.join(state), *pixels])})")
    return lines
