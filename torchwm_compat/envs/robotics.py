"""torchwm's ``envs.robotics_env``: everything that the installed gymnasium-robotics registers."""

from __future__ import annotations

import jaxdreamer
from torchwm_compat.envs.image_env import ImageEnv, env_config


class RoboticsEnv(ImageEnv):
    """A Gymnasium-Robotics task, or one of MuJoCo's old ids."""


def make_robotics_env(
    env: str, seed: int = 0, size: tuple[int, int] = (64, 64), render_mode: str = "rgb_array"
) -> RoboticsEnv:
    """The task ``env``, drawn as arrays whatever ``render_mode`` says."""
    return RoboticsEnv(env_config(id=env, backend="robotics", image_size=size), seed)


def list_gymnasium_robotics_envs() -> list[str]:
    """The ids that the installed package registers."""
    return jaxdreamer.robotics_tasks()


def register_gymnasium_robotics_envs() -> None:
    """Make Gymnasium know them."""
    jaxdreamer.register_robotics()
