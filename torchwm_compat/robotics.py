"""torchwm's ``envs.robotics_env``: everything that the installed gymnasium-robotics registers."""

from __future__ import annotations

from jaxdreamer import EnvConfig, list_robotics, register_robotics
from torchwm_compat.envs import ImageEnv


class RoboticsEnv(ImageEnv):
    """A Gymnasium-Robotics task, or one of MuJoCo's old ids."""


def make_robotics_env(
    env: str, seed: int = 0, size: tuple[int, int] = (64, 64), render_mode: str = "rgb_array"
) -> RoboticsEnv:
    """The task ``env``, drawn as arrays whatever ``render_mode`` says."""
    return RoboticsEnv(EnvConfig(id=env, backend="robotics", image_size=(int(size[0]), int(size[1]))), seed)


def list_gymnasium_robotics_envs() -> list[str]:
    """The ids there are, asked of the installed package."""
    return list_robotics()


def register_gymnasium_robotics_envs() -> None:
    """Make Gymnasium know them."""
    register_robotics()


__all__ = [
    "RoboticsEnv",
    "list_gymnasium_robotics_envs",
    "make_robotics_env",
    "register_gymnasium_robotics_envs",
]
