"""Unity ML-Agents players: every agent of the chosen behaviour is a lane.

What an agent is given and what it returns

    Sensors become observation keys by their names. Three axes with two spatial ones are an image: floats in [0, 1] become
    uint8 and are resized; everything else is a float32 vector. Behaviours with discrete branches add ``action_mask``,
    float32, 1 for each choice that is allowed (1 everywhere in the last entry of an episode, which decides nothing).
    Actions are the continuous ones as one part, then each branch as one discrete part. A choice that the mask forbids is
    never sent: the next allowed one of its branch takes its place, cyclically, so the effect of an action is a function
    of the action and of the mask, both of which the model sees.

Time

    All agents of a player live in one time. One call of :meth:`UnityVectorEnv.step` lets it run until every agent that was
    given an action has decided ``action_repeat`` times more, or ended; where agents decide at different rates, the faster
    ones repeat their action until the slower have decided, and rewards add up.

    The last entry of an episode and the first of the next are two entries, and time passes for the others between them. So
    where one agent begins anew while others are in mid-episode, its very first decision is answered by the neutral action
    (zeros, and the first allowed choices), and its lane begins with the second. Where all end together nothing is lost.
    A lane whose agent is gone yields resets, episodes of one entry, until an agent without a lane appears.

Ends

    At ``env.time_limit`` an episode is cut. Players begin anew for all their agents only: where all lanes of a player
    are due for a reset and some were cut, it does; else the agent goes on, and what follows is another episode.
    An ended step is terminal unless ``interrupted``. Where a player dies or hangs, another takes its place, and all its
    lanes continue with a reset that no end came before: the collecting loop closes the episodes.
"""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError, EnvConfig, Options
from jaxdreamer.config.settings import FLOAT32, SMALLEST, setting
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.images import to_rgb
from jaxdreamer.envs.host.vector import Lanes, stack
from jaxdreamer.envs.unity.player import PlayerLanes
from jaxdreamer.families import Backend
from jaxdreamer.types import Observation, Timestep

DECISIONS_PER_SECOND = 10.0  # of a Decision Requester's usual period; the protocol does not say
CALLS_TO_SEE_SOMETHING = 10

# There is one Unity Editor: who asks for it while these lanes play in it, as an evaluation does, borrows it.
_EDITOR: weakref.WeakSet[PlayerLanes] = weakref.WeakSet()


@dataclass(frozen=True)
class UnityOptions(Options):
    """Unity ML-Agents players."""

    unity_file_name: str = setting("", free=True, path=True, runs="start the player")
    """The player, without its suffix. Empty: wait for the Unity Editor's Play button."""
    unity_behavior_name: str = ""
    """Whose agents are the lanes, with or without ?team=. Empty: the player's only behaviour."""
    unity_worker_id: int = setting(0, 0, 65_535, free=True)
    """Added to the base port."""
    unity_base_port: int = setting(5005, 1, 65_535, free=True)
    """The first port to try; ports in use are passed over."""
    unity_no_graphics: bool = True
    """Run the player without drawing. Image sensors need false, and a display."""
    unity_time_scale: float = setting(20.0, SMALLEST, FLOAT32)
    """How many times faster than real time the player runs."""
    unity_quality_level: int = 1
    """The player's quality level."""
    unity_timeout_wait: int = setting(60, 1, 1_000_000, free=True)
    """Seconds a player has to connect, and to answer."""
    unity_additional_args: tuple[str, ...] = setting((), free=True, runs="start the player with the words")
    """Further words of the player's command line."""
    unity_log_folder: str = setting("", free=True, path=True, runs="write logs to")
    """Where logs of players are kept. Empty: a temporary folder, removed at the end."""
    unity_max_restarts: int = 5
    """How many times in a run a player that died is started again."""
    unity_python: str = setting("", free=True, path="command", runs="start the program")
    """The interpreter that has mlagents-envs. Empty: this one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (port := self.unity_base_port + self.unity_worker_id) > 65_535:
            raise ConfigError(f"env.unity_base_port + env.unity_worker_id must be at most 65535, found {port}")


def make_lanes(config: EnvConfig, count: int, seed: int) -> UnityVectorEnv:
    """Players as ``config`` says, ``count`` of them but no more than ``config.num_envs``, with all their agents."""
    return UnityVectorEnv(config, min(count, config.num_envs), seed)


class UnityVectorEnv(Lanes):
    """Players side by side, a :class:`~jaxdreamer.envs.base.VectorEnv`.

    Lanes are the agents of the first player, then of the second, and so on. Players have no way to be brought back to a
    moment: :meth:`restore` begins new episodes.
    """

    def __init__(self, config: EnvConfig, count: int = 1, seed: int = 0) -> None:
        """Starts ``count`` players at once; see :class:`~jaxdreamer.envs.unity.process.PlayerProcess` for its errors."""
        if not config.options.unity_file_name and count > 1:
            raise ConfigError(f"env.num_envs={count}: there is one Unity Editor; for several players build one")
        super().__init__(seed)
        self.config, self.notes = config, list[str]()
        self.players: list[PlayerLanes] = []
        lender = None if config.options.unity_file_name else next(iter(_EDITOR), None)
        if count == 1:  # in this thread, where Ctrl-C ends the wait for a player that does not connect
            self.players.append(PlayerLanes(config, seed, 0, lender))
        else:
            self._start_together(count)
        try:
            first = self.players[0].view
            for player in self.players[1:]:
                if player.view.layout != first.layout:
                    raise ConfigError(f"players must be alike; one has {first.layout}, another {player.view.layout}")
        except BaseException:
            self.close()
            raise
        if not config.options.unity_file_name and lender is None:
            _EDITOR.add(self.players[0])
        self.lanes = [lane for player in self.players for lane in player.lanes]
        self.spec, self.spaces = first.spec, first.describable_spaces
        self.frame_rate = DECISIONS_PER_SECOND / config.action_repeat
        self._view = first
        self._shown = next((key for key in first.images if first.spec.obs[key].shape[2] in (1, 3, 4)), None)
        self.can_render = self._shown is not None
        # Images of which only one colour has been seen so far, and which.
        self._blank: dict[str, int | None] = dict.fromkeys(first.images)
        self._calls = 0

    def _start_together(self, count: int) -> None:
        with ThreadPoolExecutor(count) as pool:
            started = [pool.submit(PlayerLanes, self.config, self.seed, index) for index in range(count)]
        self.players = [future.result() for future in started if not future.exception()]
        for future in started:
            if error := future.exception():
                self.close()
                raise error

    @property
    def restarts(self) -> int:  # type: ignore[override]
        """Players that were started again so far."""
        return sum(player.restarts for player in self.players)

    def receive(self) -> Timestep:
        """The entries of the actions that were sent."""
        actions = self._take_sent()
        if not np.isfinite(actions[~self.reset_mask]).all():
            raise EnvError(f"the agent's actions are not finite: {actions}; look for nan in the losses or parameters")
        start = 0
        for player in self.players:
            player.begin(actions[start : start + len(player.lanes)])
            start += len(player.lanes)
        while running := [player for player in self.players if player.running]:
            for player in running:  # first all, then all: players run side by side
                player.send()
            for player in running:
                player.receive()
        entries = [entry for player in self.players for entry in player.finish()]
        self.agent_steps += sum(not entry.is_first for entry in entries)
        timestep = stack(entries)
        self._check_images(timestep.obs)
        return timestep

    def reset_lane(self, lane: int) -> Timestep:
        """Begin a lane's next episode now, see :meth:`PlayerLanes.reset_lane`; its entry, without a lane axis."""
        for player in self.players:
            if lane < len(player.lanes):
                return player.reset_lane(lane)
            lane -= len(player.lanes)
        raise EnvError(f"there are {self.num_envs} lanes, the last of them is {self.num_envs - 1}")

    def render(self, lane: int = 0) -> np.ndarray:
        """What the lane's agent sees through its first camera, as uint8 [H, W, 3]."""
        if self._shown is None:
            raise EnvError("no sensor of this behaviour is a picture: there is nothing to draw")
        return to_rgb(self.lanes[lane].obs[self._shown])

    def restore(self, state: dict[str, Any], actions: Any) -> list[Timestep | None]:
        """Count on from :meth:`state`. Nothing can be played again: every lane's next entry is a reset, None says so."""
        if not len(state["lanes"]) == len(actions) == self.num_envs:
            raise EnvError(f"{self.num_envs} agents, but the run was stopped with {len(state['lanes'])}")
        self.seed, self.agent_steps = int(state["seed"]), int(state["agent_steps"])
        for lane in range(self.num_envs):
            self.abandon(lane)
        return [None] * self.num_envs

    def close(self) -> None:
        """End all players."""
        for player in self.players:
            player.close()
            _EDITOR.discard(player)

    def _check_images(self, obs: Observation) -> None:
        """EnvError where a camera has shown nothing but one colour."""
        self._calls += 1
        for key in list(self._blank):
            low, high = int(obs[key].min()), int(obs[key].max())
            if low != high or self._blank[key] not in (None, low):
                del self._blank[key]
            else:
                self._blank[key] = low
        if self._calls >= CALLS_TO_SEE_SOMETHING and self._blank:
            raise EnvError(
                f"image {', '.join(self._blank)} showed one colour only in the first {self._calls} steps: the player does "
                "not draw. It needs a display (xvfb-run) and env.unity_no_graphics=false; or leave the sensor out with "
                f"env.exclude={','.join(self._blank)}"
            )


def label(config: EnvConfig) -> str:
    """What a run's folder is called after."""
    return Path(config.options.unity_file_name or "unity-editor").stem


BACKEND = Backend(
    "unity_mlagents",
    make_lanes,
    kind="lanes",
    aliases=("unity", "mlagents"),
    options=UnityOptions,
    extra="unity",
    libraries=("mlagents-envs",),
    label=label,
)
