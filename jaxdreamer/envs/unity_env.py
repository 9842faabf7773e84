"""Unity ML-Agents players: every agent of the chosen behaviour is a lane.

What an agent is given and what it returns

    Sensors become observation keys by their names. Three axes with two spatial ones are an image: floats in [0, 1] become
    uint8 and are resized; everything else is a float32 vector. Behaviours with discrete branches add ``action_mask``,
    float32, 1 for each choice that is allowed (1 everywhere in the last entry of an episode, which decides nothing).
    Actions are the continuous ones as one part, then each branch as one discrete part. A choice that the mask forbids is
    never sent: the next allowed one of its branch takes its place, cyclically, so the effect of an action is a function
    of the action and of the mask, both of which the model sees.

Time

    All agents of a player live in one time. One call of :meth:`UnityLanes.step` lets it run until every agent that was
    given an action has decided ``action_repeat`` times more, or ended; where agents decide at different rates, the faster
    ones keep their action until the slower are there, and rewards add up.

    The last entry of an episode and the first of the next are two entries, and between them the others' time goes on. So
    where one agent begins anew while others are in mid-episode, its very first decision is answered by the neutral action
    (zeros, and the first allowed choices), and its lane begins with the second. Where all end together nothing is lost.
    A lane whose agent is gone yields resets, episodes of one entry, until an agent without a lane appears.

Ends

    An ended step is terminal unless ``interrupted``. Where a player dies or hangs, another takes its place, and all its
    lanes continue with a reset that no end came before: the collecting loop closes the episodes.
"""

from __future__ import annotations

import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.images import to_rgb
from jaxdreamer.envs.unity_process import PlayerLost, PlayerProcess
from jaxdreamer.envs.unity_view import View, allow
from jaxdreamer.envs.vector import episode_seed, stack
from jaxdreamer.types import Observation, Timestep

logger = logging.getLogger(__name__)

DECISIONS_PER_SECOND = 10.0  # of a Decision Requester's usual period; the protocol does not tell
CALLS_TO_SEE_SOMETHING = 10
MAX_EXCHANGES = 10_000  # in one call, before an agent that does not decide is given up

Key = tuple[int, int]  # team's number and agent's id

# There is one Unity Editor: who asks for it while these lanes play in it, as an evaluation does, borrows it.
_EDITOR: weakref.WeakSet[PlayerLanes] = weakref.WeakSet()


def make_lanes(config: EnvConfig, count: int, seed: int) -> UnityLanes:
    """Players as ``config`` says, ``count`` of them but no more than ``config.num_envs``, with all their agents."""
    return UnityLanes(config, min(count, config.num_envs), seed)


@dataclass
class _Lane:
    agent: Key | None = None
    needs_reset: bool = True
    obs: Observation = field(default_factory=dict)
    # Of the entry that is being made:
    action: tuple[np.ndarray, np.ndarray] | None = None  # None: its agent is not acting in this call
    sent: bool = False
    seen: tuple[dict[str, np.ndarray], int] | None = None  # the steps and the row where the agent was last seen
    reward: float = 0.0
    decisions: int = 0
    last: bool = False
    terminal: bool = False


class PlayerLanes:
    """The lanes of one player, and the player itself, which is replaced where it is lost.

    An entry is made by :meth:`begin`, then :meth:`send` and :meth:`receive` while :meth:`running`, then :meth:`finish`.
    """

    def __init__(self, config: EnvConfig, seed: int, index: int, lender: PlayerLanes | None = None) -> None:
        """Starts the player, or borrows a lender's; as many lanes as agents ask for their first decision."""
        self._config, self._seed, self._index, self._lender = config, seed, index, lender
        self.restarts = 0
        self._returned = False
        self._process = self._start() if lender is None else lender.lend()
        try:
            self.view = View(self._process.layout, config)
        except BaseException:
            self.close()
            raise
        self._steps = self._process.first
        self._there = dict.fromkeys(self._keys())  # agents in the order they came, which is how they get lanes
        self.lanes = [_Lane() for _ in self._steps["id"]]
        self._exchanges = 0
        self._fresh = True  # nothing has been played yet
        self._told: set[str] = set()

    def _start(self) -> PlayerProcess:
        return PlayerProcess(self._config, episode_seed(self._seed, self._index, self.restarts), self._index)

    def begin(self, actions: np.ndarray) -> None:
        """Give the agents of lanes in mid-episode their actions [lanes, A]."""
        self._exchanges = 0
        for lane, action in zip(self.lanes, actions):
            lane.action = None if lane.needs_reset else self.view.to_unity(action)
            lane.sent, lane.seen, lane.reward, lane.decisions = False, None, 0.0, 0
            lane.last = lane.terminal = False

    @property
    def running(self) -> bool:
        """Whether time must go on before every lane has an entry."""
        acting = [lane for lane in self.lanes if lane.action is not None]
        if acting:
            return not all(lane.last or lane.decisions >= self._config.action_repeat for lane in acting)
        return not len(self._steps["id"])  # all lanes begin anew: as soon as anybody is there

    def send(self) -> None:
        """Let time go on, with an action for everybody who waits for one."""
        acting = {lane.agent: lane for lane in self.lanes if lane.action is not None}
        layout, ids = self.view.layout, self._keys()
        continuous = np.zeros((len(ids), layout.continuous), np.float32)
        discrete = np.zeros((len(ids), len(layout.branches)), np.int32)
        for row, key in enumerate(ids):
            lane = acting.get(key)
            if lane is not None and lane.action is not None:
                continuous[row], discrete[row] = lane.action
                lane.sent = True
            discrete[row] = allow(discrete[row], self._steps["allowed"][row], layout.branches)
        try:
            self._process.send_actions(continuous, discrete)
        except PlayerLost as error:
            self._replace(error)
            return
        self._fresh = False

    def receive(self) -> None:
        """Take in what happened."""
        if self._fresh:
            return  # the player was lost when it was sent to, and another is there
        try:
            self._steps = self._process.receive_steps()
        except PlayerLost as error:
            self._replace(error)
            return
        self._exchanges += 1
        steps, owners = self._steps, {lane.agent: lane for lane in self.lanes if lane.agent is not None}
        for row, (team, number) in enumerate(steps["ended_id"]):
            self._there.pop((int(team), int(number)), None)
            lane = owners.get((int(team), int(number)))
            if lane is None:
                continue  # an agent without a lane, or a beginning that nobody has seen
            lane.agent = None
            if lane.action is not None:
                lane.seen, lane.last, lane.terminal = (steps, row), True, not steps["interrupted"][row]
                lane.reward += float(steps["ended_reward"][row] + steps["ended_group_reward"][row])
        for row, key in enumerate(self._keys()):
            self._there.setdefault(key)
            lane = owners.get(key)
            if lane is not None and lane.agent == key and lane.action is not None:  # or it ended just now
                lane.seen = (steps, row)
                lane.reward += float(steps["reward"][row] + steps["group_reward"][row])
                lane.decisions += lane.sent  # one that asks out of turn has not acted yet
        if self._exchanges > MAX_EXCHANGES:
            raise EnvError(
                f"Unity player {self._process.name}: in {MAX_EXCHANGES} exchanges not every agent asked for a decision "
                "or ended; look at their Decision Requesters"
            )

    def finish(self) -> list[Timestep]:
        """The entry of every lane."""
        rows, owned = {key: row for row, key in enumerate(self._keys())}, {lane.agent for lane in self.lanes}
        free = [key for key in self._there if key in rows and key not in owned]
        entries = []
        for number, lane in enumerate(self.lanes):
            if lane.action is not None and lane.seen is not None:
                lane.obs = self.view.observe(*lane.seen, ended=lane.last)
            else:
                # Its own agent where the episode was abandoned, else whoever has no lane yet, else nobody.
                if lane.agent not in rows:
                    lane.agent = free.pop(0) if free else None
                if lane.agent is not None:
                    lane.obs = self.view.observe(self._steps, rows[lane.agent], ended=False)
                else:
                    self._tell_once(f"lane {number} has no agent: it repeats its last observation until one appears")
            first = lane.action is None
            lane.needs_reset = lane.last or lane.agent is None
            obs = {key: value.copy() for key, value in lane.obs.items()}
            entries.append(Timestep(obs, np.float32(0 if first else lane.reward), first, lane.last, lane.terminal))
        if free and not any(lane.needs_reset for lane in self.lanes):
            self._tell_once(f"{len(free)} more agents than the {len(self.lanes)} lanes: they take neutral actions")
        return entries

    def lend(self) -> PlayerProcess:
        """The player with all episodes begun anew; these lanes wait until :meth:`take_back`."""
        self._process.reset()
        return self._process

    def take_back(self, process: PlayerProcess) -> None:
        """Go on with a player that was lent, or with the one that replaced it: every lane begins anew."""
        self._process = process
        try:
            process.reset()
        except PlayerLost as error:
            self._replace(error)
        else:
            self._settle()

    def close(self) -> None:
        """End the player, or give it back."""
        if self._lender is None:
            self._process.close()
        elif not self._returned:
            self._returned = True
            self._lender.take_back(self._process)

    def _keys(self) -> list[Key]:
        return [(int(team), int(number)) for team, number in self._steps["id"]]

    def _replace(self, error: PlayerLost) -> None:
        """Another player in place of a lost one; EnvError once that has happened too often."""
        self._process.close()
        limit = self._config.unity_max_restarts
        while self.restarts < limit:
            self.restarts += 1
            logger.warning("%s\nstarting it again (%d of at most %d times)", error, self.restarts, limit)
            try:
                self._process = self._start()
            except EnvError as failed:
                error = PlayerLost(str(failed))
                continue
            break
        else:
            raise EnvError(
                f"{error}\nit was started again {self.restarts} times, env.unity_max_restarts allows no more"
            )
        if self._process.layout != self.view.layout:
            raise EnvError(f"the restarted player has {self._process.layout}, before it was {self.view.layout}")
        self._settle()

    def _settle(self) -> None:
        """All episodes have begun anew: no lane has an agent, and those that were under way broke off."""
        self._steps, self._fresh = self._process.first, True
        self._there = dict.fromkeys(self._keys())
        for lane in self.lanes:
            lane.agent, lane.action, lane.last, lane.needs_reset = None, None, False, True

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning("Unity player %s: %s", self._process.name, message)


class UnityLanes:
    """Players side by side, with the interface of :class:`~jaxdreamer.envs.vector.VectorEnv`.

    Lanes are the agents of the first player, then of the second, and so on. Players have no way to be brought back to a
    moment: :meth:`restore` begins new episodes.
    """

    def __init__(self, config: EnvConfig, count: int = 1, seed: int = 0) -> None:
        """Starts ``count`` players at once; see :class:`~jaxdreamer.envs.unity_process.PlayerProcess` for its errors."""
        if config.time_limit:
            raise ConfigError(
                "env.time_limit: a Unity agent begins anew only when its player lets it; set Max Step in the agent, and "
                "env.time_limit=0"
            )
        if not config.unity_file_name and count > 1:
            raise ConfigError(f"env.num_envs={count}: there is one Unity Editor; for several players build one")
        self.config, self.seed = config, seed
        self.agent_steps = 0
        """Agent steps of all lanes together; resets do not count."""
        self.players: list[PlayerLanes] = []
        lender = None if config.unity_file_name else next(iter(_EDITOR), None)
        with ThreadPoolExecutor(count) as pool:
            started = [pool.submit(PlayerLanes, config, seed, index, lender) for index in range(count)]
        errors = [error for future in started if (error := future.exception())]
        self.players = [future.result() for future in started if not future.exception()]
        try:
            for error in errors:
                raise error
            first = self.players[0].view
            for player in self.players[1:]:
                if player.view.layout != first.layout:
                    raise ConfigError(f"players must be alike; one has {first.layout}, another {player.view.layout}")
        except BaseException:
            self.close()
            raise
        if not config.unity_file_name and lender is None:
            _EDITOR.add(self.players[0])
        self.spec, self.spaces = first.spec, first.describable_spaces
        self.frame_rate = DECISIONS_PER_SECOND / config.action_repeat
        self._view = first
        self._shown = next((key for key in first.images if first.spec.obs[key].shape[2] in (1, 3, 4)), None)
        self.can_render = self._shown is not None
        # Images of which only one colour has been seen so far, and which.
        self._blank: dict[str, int | None] = dict.fromkeys(first.images)
        self._calls = 0

    @property
    def lanes(self) -> list[_Lane]:
        """Of all players."""
        return [lane for player in self.players for lane in player.lanes]

    @property
    def num_envs(self) -> int:
        """N, the number of lanes: agents of all players."""
        return len(self.lanes)

    @property
    def reset_mask(self) -> np.ndarray:
        """Bool [N]: which lanes the next call of :meth:`step` will reset; a lost player's are added to them."""
        return np.array([lane.needs_reset for lane in self.lanes])

    def step(self, actions: np.ndarray) -> Timestep:
        """One entry of every lane for ``actions`` float32 [N, A]; the first call resets all lanes."""
        actions = np.asarray(actions, np.float32)
        expected = (self.num_envs, self.spec.action.size)
        if actions.shape != expected:
            raise EnvError(f"expected actions of shape {expected}, found {actions.shape}")
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
        """Begin an episode where the lane's agent is now; its entry, without a lane axis."""
        state = self.lanes[lane]
        state.needs_reset = state.agent is None
        return Timestep({k: v.copy() for k, v in state.obs.items()}, np.float32(0), True, False, False)

    def render(self, lane: int = 0) -> np.ndarray:
        """What the lane's agent sees through its first camera, as uint8 [H, W, 3]."""
        if self._shown is None:
            raise EnvError("no sensor of this behaviour is a picture: there is nothing to draw")
        return to_rgb(self.lanes[lane].obs[self._shown])

    def state(self) -> dict[str, Any]:
        """JSON-ready: the seed, the steps counted and the number of lanes, for :meth:`restore`."""
        return {"seed": self.seed, "agent_steps": self.agent_steps, "lanes": [{} for _ in self.lanes]}

    def restore(self, state: dict[str, Any], actions: Any) -> list[Timestep | None]:
        """Count on from :meth:`state`. Nothing can be played again: every lane's next entry is a reset, None says so."""
        if not len(state["lanes"]) == len(actions) == self.num_envs:
            raise EnvError(f"{self.num_envs} agents, but the run was stopped with {len(state['lanes'])}")
        self.seed, self.agent_steps = int(state["seed"]), int(state["agent_steps"])
        for lane in range(self.num_envs):
            self.abandon(lane)
        return [None] * self.num_envs

    def abandon(self, lane: int) -> None:
        """Leave a lane's episode where it is: its next entry is a reset."""
        self.lanes[lane].needs_reset = True

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
