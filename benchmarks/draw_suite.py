"""MuJoCo Playground's suite as the ray-caster and as MuJoCo's renderer draw it: how far silhouettes agree, and a picture.

python benchmarks/draw_suite.py [--size 64] [--states 4] [--tasks WalkerWalk ...]

Writes results/draw_suite.json and results/draw_suite.png: the ray-caster's frames above, MuJoCo's below. Silhouettes are of
all that is drawn but planes and sky, in states along a trajectory of random actions.
"""

from __future__ import annotations

import argparse
import copy
import os
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import mujoco
import numpy as np
from bench_raycast import compiled
from harness import RESULTS, stamp, write
from PIL import Image, ImageDraw

from jaxdreamer.envs.device import playground_env

CAMERA = 0  # the suite's
PICTURED = ("AcrobotSwingup", "BallInCup", "CartpoleSwingup", "CheetahRun", "FingerTurnEasy")
PICTURED += ("FishSwim", "HopperHop", "HumanoidWalk", "ReacherEasy", "WalkerWalk")


def states(model: Any, count: int, seed: int = 0) -> list[Any]:
    """MjData along random actions, the targets somewhere in sight."""
    rng, data, found = np.random.default_rng(seed), mujoco.MjData(model), []
    data.mocap_pos[:, :2] += rng.uniform(-0.15, 0.15, (model.nmocap, 2))
    for _ in range(count):
        for _ in range(60):
            data.ctrl[:] = rng.uniform(-1, 1, model.nu)
            mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        found.append(copy.copy(data))
    return found


def flat(model: Any) -> Any:
    """White bodies, black planes and sky, light from everywhere: a picture of it is the silhouette."""
    model = copy.copy(model)
    model.geom_matid[:] = model.site_matid[:] = model.tendon_matid[:] = -1
    for rgba in (model.geom_rgba, model.site_rgba, model.tendon_rgba):
        rgba[rgba[:, 3] > 0] = 1
    model.geom_rgba[model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE, :3] = 0
    model.light_active[:] = 0
    head = model.vis.headlight
    head.ambient[:], head.diffuse[:], head.specular[:] = 1, 0, 0
    model.tex_data[:] = 0
    return model


def theirs(model: Any, found: list[Any], size: int, *, segment: bool) -> np.ndarray:
    frames = []
    with mujoco.Renderer(model, size, size) as renderer:
        if segment:
            renderer.enable_segmentation_rendering()
        for data in found:
            renderer.update_scene(data, camera=CAMERA)
            frames.append(renderer.render().copy())
    if not segment:
        return np.stack(frames)
    ids, kinds = np.moveaxis(np.stack(frames), -1, 0)
    geom = kinds == mujoco.mjtObj.mjOBJ_GEOM
    return (kinds >= 0) & ~(geom & (model.geom_type[np.where(geom, ids, 0)] == mujoco.mjtGeom.mjGEOM_PLANE))


def ours(model: Any, found: list[Any], size: int) -> np.ndarray:
    pos, rot = (np.stack([getattr(data, name)[1:] for data in found]) for name in ("xpos", "xquat"))
    return compiled(model, pos, rot, size, camera=CAMERA)[0]()
