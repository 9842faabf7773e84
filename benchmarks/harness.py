"""What the benchmarks share: where a number comes from, fair turns, summaries, and result files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")  # a trial has its own
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "mujoco", "dm-control")


def stamp() -> dict[str, Any]:
    """Where and how this runs: command, commit, versions, hardware. JSON-ready."""
    import jax
    import psutil

    return {
        "command": " ".join(["python", *sys.argv]),
        "git": {"commit": commit(), "dirty": bool(_git("status", "--porcelain"))},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "load_average": [round(x, 2) for x in os.getloadavg()],
            "devices": [device.device_kind for device in jax.devices()],
        },
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("XLA_", "JAX_", "MALLOC_", "OMP_"))},
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def of_pixels(config: Any) -> tuple[Any, Any]:
    """What the updates that are measured learn from: the spec of 64x64 RGB and six actions, and a batch of noise."""
    import numpy as np

    from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, Batch, EnvSpec

    spec = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ActionSpec((ActionPart("continuous", 6),)))
    lead, rng = (config.replay.batch_length, config.replay.batch_size), np.random.default_rng(0)
    flags = np.zeros(lead, bool)
    batch = Batch(
        obs={"image": rng.integers(0, 256, (*lead, 64, 64, 3), np.uint8)},
        action=rng.uniform(-1, 1, (*lead, 6)).astype(np.float32),
        reward=rng.normal(size=lead).astype(np.float32),
        is_first=flags,
        is_last=flags,
        is_terminal=flags,
    )
    return spec, batch


def interleave(candidates: dict[str, Callable[[], Any]], *, repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, the candidates in turn (A B A B ...), so that a busy machine is busy for all of them.

    A candidate must return only when its work is done: ``jax.block_until_ready`` belongs inside. The order turns round
    with every repeat.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for index in range(warmup + repeats):
        turn = list(candidates.items())
        for name, call in turn if index % 2 == 0 else reversed(turn):
            start = time.perf_counter()
            call()
            elapsed = time.perf_counter() - start
            if index >= warmup:
                seconds[name].append(elapsed)
    return seconds


def summary(values: Sequence[float]) -> dict[str, float | int]:
    """Median, smallest, largest and number."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def write(name: str, payload: dict[str, Any]) -> Path:
    """Keep a result as ``results/NAME.json``, sorted and indented; where it lies."""
    RESULTS.mkdir(exist_ok=True, parents=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(payload, indent=2, sort_keys=True) + "\n")
    return path


def commit() -> str | None:
    """The checkout's commit; None on a machine that was handed the files only."""
    return _git("rev-parse", "HEAD")


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # a machine that was handed the files only
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
