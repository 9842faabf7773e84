"""Run folders as training leaves them, written by hand: the format is what these tests are about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer import config as configs
from jaxdreamer.record import checkpoint, sessions
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.video import save_image, save_video
from jaxdreamer.saving import write_json

BEGAN = 1_700_000_000.0
SPEC = {
    "obs": {"image": {"shape": [8, 10, 3], "dtype": "uint8", "kind": "image"}},
    "action": {"parts": [{"kind": "continuous", "size": 1}]},
}


def write_run(path: Path, *words: str, returns: Any = (1.0, 3.0, 2.0), finished: bool = True, **about: Any) -> RunDir:
    """A run evaluated every 100 frames, each 10 s after the last; ``about`` is what its session says beside its versions."""
    config = configs.preset("dreamer_v1,tiny", *words)
    run = RunDir(path).create()
    write_json(run.config, configs.to_dict(config))
    write_json(run.spec, SPEC)
    clock = iter(np.arange(1, 1000) * 5.0 + BEGAN)
    with MetricsLog(run.metrics, clock=lambda: float(next(clock))) as log:
        for index, value in enumerate(returns):
            at = {"agent_steps": 100 * (index + 1), "env_frames": 100 * (index + 1), "updates": 10 * (index + 1)}
            shares = {"time/share_update": 0.5, "time/share_environment": 0.2 + 0.1 * index, "time/frames_per_second": 20.0}
            log.write({"loss/model": 5.0 / (index + 1), "train/return": value - 1, **shares}, **at)
            log.write({"eval/return": value, "open_loop/image": 0.1}, **at)
    versions = {"jax": "0.10.2", "python": "3.11.4", **about.pop("versions", {})}
    said = {
        "device": "cpu",
        "platform": "cpu",
        "processor": "a processor",
        "cores": 2,
        "parameters": 1234,
        "loop": "host",
    }
    sessions.append(run.sessions, {"time": BEGAN, "frames": 0, **said, "versions": versions, **about})
    step = 100 * len(returns)
    host = {"config": configs.to_dict(config), "finished_at": step if finished else None}
    checkpoint.save(run.checkpoints, step, {"train": np.zeros(1)}, host)
    run.mark_saved()
    return run


def draw(run: RunDir) -> RunDir:
    """A film, and a picture of two open-loop sequences of six entries, of which the model saw two."""
    rng = np.random.default_rng(0)
    save_video(run.videos / "policy-000000000300.gif", rng.integers(0, 255, (3, 8, 10, 3), dtype=np.uint8))
    picture = rng.integers(0, 255, (2 * (3 * 8 + 2), 6 * 10 + 2, 3), dtype=np.uint8)
    save_image(run.videos / "open_loop-image-000000000300.png", picture)
    return run


def lock(run: RunDir, **holder: Any) -> None:
    """What a process that did not end properly leaves, or one that is at work."""
    (run.path / "lock").write_text(json.dumps(holder))
