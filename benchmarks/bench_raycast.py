"""Frames a second at 64x64: the ray-caster inside a compiled program against MuJoCo's renderer, and a picture of both.

python benchmarks/bench_raycast.py [--repeats 7] [--skip-mujoco]

MuJoCo draws with EGL in its default quality, and with its effects off (shadows, reflections, multisampling). Both draw
the same states, uint8 on the host at the end. The picture, results/raycast.png: MuJoCo's left, the ray-caster's right.
"""

from __future__ import annotations

import argparse
import os
import time
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import jax
import jax.numpy as jnp
import numpy as np
from harness import RESULTS, interleave, stamp, summary, write
from PIL import Image

from jaxdreamer.envs.device.brax_env import import_brax
from jaxdreamer.envs.device.raycast.cast import make_renderer

NAMES = ("humanoid", "ant", "halfcheetah", "inverted_pendulum")
PICTURED = ("ant", "humanoid", "halfcheetah", "hopper", "walker2d", "swimmer", "inverted_pendulum", "pusher", "reacher")
SIZE, LANES = 64, (1, 16, 64)


def states(model, count):
    """Joint positions, and poses of all bodies but the world, of ``count`` states of random actions."""
    import mujoco

    rng, data = np.random.default_rng(0), mujoco.MjData(model)
    found = []
    for _ in range(count):
        for _ in range(5):
            data.ctrl[:] = rng.uniform(-1, 1, model.nu)
            mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
        found.append((data.qpos.copy(), data.xpos[1:].copy(), data.xquat[1:].copy()))
    return [np.stack(column) for column in zip(*found)]


def following(model) -> int:
    return next((i for i in range(model.ncam) if model.cam_mode[i] != 0), 0 if model.ncam else -1)


def mujoco_renderer(model, *, effects: bool, size=SIZE):
    """qpos -> picture; the model's own quality where there are effects."""
    import mujoco

    data, samples = mujoco.MjData(model), (int(model.vis.quality.shadowsize), int(model.vis.quality.offsamples))
    if not effects:
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
    renderer = mujoco.Renderer(model, size, size)
    model.vis.quality.shadowsize, model.vis.quality.offsamples = samples

    def draw(qpos):
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        renderer.update_scene(data, camera=following(model))
        if not effects:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = 0
        return renderer.render()

    return draw


def compiled(system, pos, rot, size=SIZE):
    """(call, seconds of compiling) of all the states at once."""
    render = make_renderer(system, height=size, width=size)
    pos, rot = jnp.asarray(pos, jnp.float32), jnp.asarray(rot, jnp.float32)
    many = jax.jit(jax.vmap(lambda pos, rot: render(SimpleNamespace(pos=pos, rot=rot))))
    start = time.perf_counter()
    program = many.lower(pos, rot).compile()
    elapsed = time.perf_counter() - start
    return lambda: np.asarray(program(pos, rot)), elapsed


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    system = import_brax().get_environment(name).sys
    qpos, pos, rot = states(system.mj_model, max(LANES))
    candidates, frames, facts = {}, {}, {}
    for lanes in LANES:
        key = f"raycast_{lanes}"
        candidates[key], seconds = compiled(system, pos[:lanes], rot[:lanes])
        frames[key], facts[key] = lanes, {"compile_seconds": seconds}
    if not args.skip_mujoco:
        for key, effects in (("mujoco", True), ("mujoco_effects_off", False)):
            draw = mujoco_renderer(system.mj_model, effects=effects)
            candidates[key], frames[key] = (lambda draw=draw: [draw(q) for q in qpos[:8]]), 8
    seconds = interleave(candidates, repeats=args.repeats)
    rates = {
        key: {"frames_per_second": summary([frames[key] / s for s in values]), "frames_per_call": frames[key]}
        | facts.get(key, {})
        for key, values in seconds.items()
    }
    for key, found in rates.items():
        print(f"{name:20} {key:20} {found['frames_per_second']['median']:9.0f} frames/s", flush=True)
    return rates


def picture() -> None:
    """Rows of environments: MuJoCo's frame and ours, at 64x64 enlarged by 4."""
    rows = []
    for name in PICTURED:
        system = import_brax().get_environment(name).sys
        qpos, pos, rot = states(system.mj_model, 12)
        theirs = mujoco_renderer(system.mj_model, effects=True)(qpos[-1])
        ours = compiled(system, pos[-1:], rot[-1:])[0]()[0]
        rows.append(np.concatenate([theirs, ours], 1))
    image = Image.fromarray(np.concatenate(rows))
    image.resize((image.width * 4, image.height * 4), Image.Resampling.NEAREST).save(
        RESULTS / "raycast.png", optimize=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--skip-mujoco", action="store_true", help="where there is no OpenGL")
    parser.add_argument("--out", default="bench_raycast", help="name of the result")
    args = parser.parse_args()
    rates = {name: measure(name, args) for name in NAMES}
    print(write(args.out, {"stamp": stamp(), "size": SIZE, "rates": rates}))
    if not args.skip_mujoco:
        picture()


if __name__ == "__main__":
    main()
