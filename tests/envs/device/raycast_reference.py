"""Make raycast_reference.npz: what MuJoCo's renderer draws of Brax's models, for where there is no OpenGL.

python -m tests.envs.device.raycast_reference [OUT] [NAME ...]: a few poses of each environment, MuJoCo's picture, and the
silhouette: the pixels whose middle shows a geom that is no plane.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REFERENCE = Path(__file__).with_suffix(".npz")
NAMES = ("ant", "halfcheetah", "humanoid", "inverted_pendulum", "pusher", "reacher", "swimmer")
POSES = 3
SIZE = 64


def poses(model, index):
    """MjData after some steps of random actions."""
    import mujoco
    import numpy as np

    rng = np.random.default_rng(index)
    data = mujoco.MjData(model)
    for _ in range(index * 40):
        data.ctrl[:] = rng.uniform(-1, 1, model.nu)
        mujoco.mj_step(model, data)
    mujoco.mj_forward(model, data)
    return data


def render(name):
    """Positions, rotations, joint positions, pictures and silhouettes of one environment, stacked over poses."""
    import mujoco
    import numpy as np

    from jaxdreamer.envs.device.brax_env import import_brax

    model = import_brax().get_environment(name).sys.mj_model
    following = [i for i in range(model.ncam) if model.cam_mode[i] != 0]
    camera = following[0] if following else -1
    found = {"pos": [], "rot": [], "qpos": [], "picture": [], "silhouette": []}
    with mujoco.Renderer(model, SIZE, SIZE) as renderer:
        for index in range(POSES):
            data = poses(model, index)
            renderer.update_scene(data, camera=camera)
            found["picture"].append(renderer.render().copy())
            renderer.enable_segmentation_rendering()
            renderer.update_scene(data, camera=camera)
            ids, kinds = np.moveaxis(renderer.render(), -1, 0)
            renderer.disable_segmentation_rendering()
            geom = kinds == mujoco.mjtObj.mjOBJ_GEOM
            plane = model.geom_type[np.where(geom, ids, 0)] == mujoco.mjtGeom.mjGEOM_PLANE
            found["silhouette"].append(geom & ~plane)
            for key, value in (("pos", data.xpos[1:]), ("rot", data.xquat[1:]), ("qpos", data.qpos)):
                found[key].append(value.astype(np.float32))
    return {f"{name}/{key}": np.stack(values) for key, values in found.items()}


def main() -> None:
    os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
    import numpy as np

    out = Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCE
    arrays = {}
    for name in sys.argv[2:] or NAMES:
        arrays |= render(name)
    np.savez_compressed(out, **arrays)


if __name__ == "__main__":
    main()
