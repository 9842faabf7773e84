"""Atari's games (ALE) by the standard protocol, which gymnasium's own ``AtariPreprocessing`` carries out.

An agent step is ``env.action_repeat`` frames of the console; the agent sees the brighter of the last two, pixel by pixel, at
``env.image_size``. Episodes begin with a random number of frames without an action. ALE itself never skips frames here, so
none is repeated twice. The game's picture is its observation: ``env.obs=pixels`` is that, too.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jaxdreamer.config import ConfigError, EnvConfig, Options
from jaxdreamer.config.environment import changed
from jaxdreamer.config.settings import setting
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.instance import wrap
from jaxdreamer.envs.host.libraries import missing_extras

FRAMES_PER_SECOND = 60
"""Of the console."""


@dataclass(frozen=True)
class AtariOptions(Options):
    """How Atari's games are played."""

    repeat_action_probability: float | None = setting(None, 0, 1)
    """Atari: chance that the console takes its last action instead (sticky actions). None: the id's own."""
    noop_max: int = setting(30, 0, 100_000)
    """Atari: most frames without an action that an episode begins with; their number, from 1 on, is drawn. 0: none."""
    grayscale: bool = True
    """Atari: gray pictures, one channel, instead of colour."""
    terminal_on_life_loss: bool = False
    """Atari: the loss of a life ends the episode, as terminal; the next one is a new game."""
    full_action_space: bool = False
    """Atari: all 18 actions of the joystick, instead of those that do something in the game."""


def is_game(spec: Any) -> bool:
    """Whether gymnasium's spec of an id is that of a game."""
    return str(spec.entry_point).startswith("ale_py")


def arguments(config: EnvConfig) -> dict[str, Any]:
    """What gymnasium makes a game with. A time limit of ours replaces ALE's, which counts the first frames too."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # or every game begins with a greeting on stderr
    own: AtariOptions = config.options
    made: dict[str, Any] = {"frameskip": 1, "full_action_space": own.full_action_space}
    made["obs_type"] = "grayscale" if own.grayscale else "rgb"  # made and thrown away for every frame: gray is cheaper
    if own.repeat_action_probability is not None:
        made["repeat_action_probability"] = own.repeat_action_probability
    return made | ({"max_num_frames_per_episode": None} if config.time_limit else {})


def preprocessed(env: Any, config: EnvConfig) -> AgentEnv:
    """The game by the protocol: ``image`` uint8 [H, W, 1], or [H, W, 3] in colour. MissingExtra without OpenCV."""
    from gymnasium.wrappers import AtariPreprocessing

    own: AtariOptions = config.options
    height, width = config.image_size
    with missing_extras(config.id):
        game = AtariPreprocessing(
            env,
            noop_max=own.noop_max,
            frame_skip=config.action_repeat,
            screen_size=(width, height),
            terminal_on_life_loss=own.terminal_on_life_loss,
            grayscale_obs=own.grayscale,
            grayscale_newaxis=True,
        )
    game.metadata = {**env.metadata, "render_fps": FRAMES_PER_SECOND / config.action_repeat}
    seen = "auto" if config.obs == "pixels" else config.obs
    return wrap(game, dataclasses.replace(config, action_repeat=1, obs=seen))


def refuse_options(config: EnvConfig) -> None:
    """ConfigError where a task that is no game is given options of games."""
    own = {item.name for item in dataclasses.fields(AtariOptions)}
    if given := own & set(changed(config.options)):
        raise ConfigError(
            f"env.{sorted(given)[0]} is a setting of Atari's games, whose ids begin with ALE/; found env.id={config.id}"
        )
