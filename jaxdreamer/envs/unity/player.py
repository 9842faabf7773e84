"""One Unity player's agents as lanes: who acts, what time must pass, and another player where one is lost.

The rules are those of :mod:`~jaxdreamer.envs.unity.lanes`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.vector import episode_seed
from jaxdreamer.envs.unity.process import PlayerLost, PlayerProcess
from jaxdreamer.envs.unity.view import View, allow
from jaxdreamer.types import Observation, Timestep

logger = logging.getLogger(__name__)

MAX_EXCHANGES = 10_000  # in one call, before an agent that does not decide is given up

Key = tuple[int, int]  # team's number and agent's id


@dataclass
class Lane:
    """One agent after another, and the entry that is being made."""

    agent: Key | None = None
    needs_reset: bool = True
    obs: Observation = field(default_factory=dict)
    # Of the entry that is being made:
    action: tuple[np.ndarray, np.ndarray] | None = None  # None: its agent is not acting in this call
    sent: bool = False
    seen: tuple[dict[str, np.ndarray], int] | None = None  # the steps and the row where the agent was last seen
    steps: int = 0  # of its episode
    reward: float = 0.0
    decisions: int = 0
    last: bool = False
    terminal: bool = False

    def state(self) -> dict[str, int]:
        """Nothing: a player cannot be brought back to a moment."""
        return {}


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
        self.lanes = [Lane() for _ in self._steps["id"]]
        self._exchanges = 0
        self._fresh = True  # nothing has been played yet
        self._told: set[str] = set()

    def _start(self) -> PlayerProcess:
        return PlayerProcess(self._config, episode_seed(self._seed, self._index, self.restarts), self._index)

    def begin(self, actions: np.ndarray) -> None:
        """Give the agents of lanes in mid-episode their actions [lanes, A]."""
        self._exchanges = 0
        waiting = all(lane.needs_reset for lane in self.lanes)
        if waiting and any(lane.agent is not None for lane in self.lanes):
            self._begin_anew()  # no lane is in mid-episode, but one was left unfinished
        for lane, action in zip(self.lanes, actions):
            lane.action = None if lane.needs_reset else self.view.to_unity(action)
            lane.sent, lane.seen, lane.reward, lane.decisions = False, None, 0.0, 0
            lane.last = lane.terminal = False

    @property
    def running(self) -> bool:
        """Whether time must pass before every lane has an entry."""
        acting = [lane for lane in self.lanes if lane.action is not None]
        if acting:
            return not all(lane.last or lane.decisions >= self._config.action_repeat for lane in acting)
        return not len(self._steps["id"])  # all lanes begin anew: as soon as anybody is there

    def send(self) -> None:
        """Let time pass, with an action for every agent that waits for one."""
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
        """Read the steps, and credit them to the lanes."""
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
            if lane.action is None:
                lane.needs_reset = True
            else:
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
        entries = [self._entry(lane) if lane.action is not None else self._first(lane) for lane in self.lanes]
        free = len(self._free())
        if free and not any(lane.needs_reset for lane in self.lanes):
            self._tell_once(f"{free} more agents than the {len(self.lanes)} lanes: they take neutral actions")
        return entries

    def _entry(self, lane: Lane) -> Timestep:
        assert lane.seen is not None
        lane.obs = self.view.observe(*lane.seen, ended=lane.last)
        lane.steps += 1
        # At the time limit the agent keeps its lane and goes on, in what is then another episode.
        lane.needs_reset = lane.last or lane.steps == self._config.time_limit
        return Timestep(_copies(lane.obs), np.float32(lane.reward), False, lane.needs_reset, lane.terminal)

    def _first(self, lane: Lane) -> Timestep:
        """A reset, of the lane's own agent where it still has one, else of one without a lane, else of nobody."""
        keys, free = self._keys(), self._free()
        if lane.agent not in keys:
            lane.agent = free[0] if free else None
        if lane.agent is not None:
            lane.obs = self.view.observe(self._steps, keys.index(lane.agent), ended=False)
        else:
            self._tell_once("an agent is gone: its lane repeats its last observation until another appears")
        lane.steps, lane.needs_reset = 0, lane.agent is None
        return Timestep(_copies(lane.obs), np.float32(0), True, False, False)

    def _free(self) -> list[Key]:
        """Agents that wait for a decision and have no lane, in the order in which they came."""
        keys, owned = set(self._keys()), {lane.agent for lane in self.lanes}
        return [key for key in self._there if key in keys and key not in owned]

    def reset_lane(self, number: int) -> Timestep:
        """A lane's next episode, begun now. Where it has the player for itself the player begins anew, else the agent
        goes on; where the agent is gone, time passes with neutral actions for all until another is there.
        """
        lane = self.lanes[number]
        if len(self.lanes) == 1 and lane.agent is not None:
            self._begin_anew()
        for other in self.lanes:
            other.action = None
        self._exchanges = 0
        while lane.agent not in self._keys() and not self._free():
            self.send()
            self.receive()
        return self._first(lane)

    def lend(self) -> PlayerProcess:
        """The player with all episodes begun anew; these lanes wait until :meth:`take_back`."""
        self._process.reset()
        return self._process

    def take_back(self, process: PlayerProcess) -> None:
        """Continue with a player that was lent, or with its replacement: every lane begins a new episode."""
        self._process = process
        self._begin_anew()

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
        limit = self._config.options.unity_max_restarts
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

    def _begin_anew(self) -> None:
        try:
            self._process.reset()
        except PlayerLost as error:
            self._replace(error)
        else:
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


def _copies(obs: Observation) -> Observation:
    return {key: value.copy() for key, value in obs.items()}
