"""MuJoCo Playground's suite as the ray-caster and as MuJoCo's renderer draw it: how far silhouettes agree, and a picture.

python benchmarks/draw_suite.py [TASK ...]

Writes results/draw_suite.json, the intersection over union of each task's silhouettes (all but planes and sky) in states
along random actions, and results/draw_suite.png: the ray-caster's frames above, MuJoCo's below.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
sys.path.insert(0, str(Path(__file__).parents[1]))  # what MuJoCo draws is asked as in the tests

import jax
import mujoco
import numpy as np
from harness import RESULTS, stamp, write
from PIL import Image, ImageDraw

from jaxdreamer.envs.device import playground_env
from jaxdreamer.envs.device.raycast.cast import make_renderer
from tests.envs.device.raycast_reference import alike, flat, load, pictures, poses, silhouettes

PICTURED = ("AcrobotSwingup", "BallInCup", "CartpoleSwingup", "CheetahRun", "FingerSpin")
PICTURED += ("FishSwim", "HopperHop", "HumanoidWalk", "ReacherEasy", "WalkerWalk")
FRAME, FINE = 128, 512  # pixels a side, of the picture's frames and of silhouettes: a string is two of them wide
STATES, EVERY = 4, 100  # the first at rest, then so many physics steps more
CHEAP = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile; frames are few


def draw(model: Any, camera: int, states: list[Any], size: int) -> np.ndarray:
    """The ray-caster's pictures uint8 [n, size, size, 3]."""
    render = make_renderer(model, height=size, width=size, camera=camera)
    one = jax.jit(lambda pos, rot: render(SimpleNamespace(pos=pos, rot=rot)))
    where = [(np.float32(data.xpos[1:]), np.float32(data.xquat[1:])) for data in states]
    compiled = one.lower(*where[0]).compile(compiler_options=CHEAP)
    return np.stack([compiled(*x) for x in where])


def measure(model: Any, camera: int) -> dict[str, float]:
    states = [poses(model, index, EVERY) for index in range(STATES)]
    ours = draw(flat(model), camera, states, FINE)[..., 0] > 127
    agreement = alike(ours, silhouettes(model, camera, states, FINE))
    return {"min": round(float(agreement.min()), 4), "mean": round(float(agreement.mean()), 4)}


def picture() -> None:
    """Two rows of tasks: each its name, our frame, and below it MuJoCo's."""
    tiles = []
    for task in PICTURED:
        model, camera = load(task)
        states = [poses(model, 1, 150)]
        ours, theirs = draw(model, camera, states, FRAME)[0], pictures(model, camera, states, FRAME)[0]
        title = Image.new("RGB", (FRAME, 14))
        ImageDraw.Draw(title).text((3, 1), task, fill="white")
        tiles.append(np.concatenate([np.asarray(title), ours, theirs]))
    half = len(tiles) // 2
    image = np.concatenate([np.concatenate(row, 1) for row in (tiles[:half], tiles[half:])])
    Image.fromarray(image).save(RESULTS / "draw_suite.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", help="these, and no picture; else all")
    args = parser.parse_args()
    seen: dict[bytes, dict[str, float]] = {}  # tasks of one model are one measurement
    found, where = {}, stamp()
    for task in args.tasks or playground_env.import_playground().dm_control_suite.ALL_ENVS:
        model, camera = load(task)
        content = np.empty(mujoco.mj_sizeModel(model), np.uint8)
        mujoco.mj_saveModel(model, None, content)
        if content.tobytes() not in seen:
            seen[content.tobytes()] = measure(model, camera)
        found[task] = seen[content.tobytes()]
        print(f"{task:24} {found[task]['min']:.3f} at least, {found[task]['mean']:.3f} on average", flush=True)
    if not args.tasks:
        picture()
        facts = {"stamp": where, "size": FINE, "states": STATES, "intersection_over_union": found}
        print(write("draw_suite", facts))


if __name__ == "__main__":
    main()
