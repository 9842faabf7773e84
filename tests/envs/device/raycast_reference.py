"""Make raycast_reference.npz: what MuJoCo's renderer draws of Brax's and dm_control's models, for where there is no OpenGL.

python -m tests.envs.device.raycast_reference [OUT] [NAME ...]: a few poses of each environment, MuJoCo's picture, and the
silhouette: the pixels whose middle shows a geom that is no plane, a site or a tendon.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

REFERENCE = Path(__file__).with_suffix(".npz")
BRAX = ("ant", "halfcheetah", "humanoid", "inverted_pendulum", "pusher", "reacher", "swimmer")
SUITE = ("BallInCup", "CartpoleSwingup", "FingerSpin", "FishSwim", "PendulumSwingup", "ReacherEasy", "WalkerWalk")
POSES = 3
SIZE = 64
FINE = 512  # the suite's silhouettes: a string is a pixel wide there


@functools.cache
def load(name):
    """The model of a Brax environment or of a task of Playground's suite, and the camera it is seen from."""
    if name[0].islower():
        from jaxdreamer.envs.device.brax_env import import_brax

        model = import_brax().get_environment(name).sys.mj_model
        following = [i for i in range(model.ncam) if model.cam_mode[i] != 0]
        return model, following[0] if following else -1
    from jaxdreamer.envs.device import playground_env

    model = playground_env.load(name).mj_model
    model.vis.global_.offwidth = model.vis.global_.offheight = FINE
    return model, 0


def poses(model, index, every=40):
    """MjData after some steps of random actions; targets that an environment would place are put somewhere in sight."""
    import mujoco
    import numpy as np

    rng = np.random.default_rng(index)
    data = mujoco.MjData(model)
    data.mocap_pos[:, :2] += rng.uniform(-0.15, 0.15, (model.nmocap, 2))
    for _ in range(index * every):
        data.ctrl[:] = rng.uniform(-1, 1, model.nu)
        mujoco.mj_step(model, data)
    mujoco.mj_forward(model, data)
    return data


def pictures(model, camera, states, size):
    """MuJoCo's pictures uint8 [n, size, size, 3]."""
    import mujoco
    import numpy as np

    found = []
    with mujoco.Renderer(model, size, size) as renderer:
        for data in states:
            renderer.update_scene(data, camera=camera)
            found.append(renderer.render().copy())
    return np.stack(found)


def silhouettes(model, camera, states, size):
    """MuJoCo's silhouettes bool [n, size, size]."""
    import mujoco
    import numpy as np

    found = []
    with mujoco.Renderer(model, size, size) as renderer:
        renderer.enable_segmentation_rendering()
        for data in states:
            renderer.update_scene(data, camera=camera)
            ids, kinds = np.moveaxis(renderer.render(), -1, 0)
            geom = kinds == mujoco.mjtObj.mjOBJ_GEOM
            plane = geom & (model.geom_type[np.where(geom, ids, 0)] == mujoco.mjtGeom.mjGEOM_PLANE)
            found.append((kinds >= 0) & ~plane)
    return np.stack(found)


def flat(model):
    """White bodies, black planes and sky, light from everywhere: a picture of this model is its silhouette."""
    import copy

    model = copy.copy(model)
    model.geom_matid[:] = model.site_matid[:] = model.tendon_matid[:] = -1
    for rgba in (model.geom_rgba, model.site_rgba, model.tendon_rgba):
        rgba[rgba[:, 3] > 0] = 1
    model.geom_rgba[model.geom_type == 0, :3] = 0  # planes
    model.light_active[:] = model.tex_data[:] = 0
    head = model.vis.headlight
    head.ambient[:], head.diffuse[:], head.specular[:] = 1, 0, 0
    return model


def alike(ours, theirs):
    """Intersection over union of each of n silhouettes [n, H, W]."""
    return (ours & theirs).sum((1, 2)) / (ours | theirs).sum((1, 2))


def render(name):
    """Positions, rotations, joint positions, pictures and silhouettes of one environment, stacked over poses."""
    import numpy as np

    model, camera = load(name)
    suite = name in SUITE
    states = [poses(model, index, 200 if suite else 40) for index in range(POSES)]
    found = {
        "picture": pictures(model, camera, states[-1:] if suite else states, SIZE),
        "silhouette": silhouettes(model, camera, states, FINE if suite else SIZE),
    }
    for key, values in (("pos", "xpos"), ("rot", "xquat"), ("qpos", "qpos")):
        found[key] = np.stack([getattr(data, values)[key != "qpos" :] for data in states]).astype(np.float32)
    return {f"{name}/{key}": values for key, values in found.items()}


def main() -> None:
    os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
    import numpy as np

    out = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE
    arrays = {}
    for name in sys.argv[2:] or BRAX + SUITE:
        arrays |= render(name)
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main()
