"""Several environments side by side: resets are entries of their own, and episodes can be played again."""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError
from jaxdreamer.envs.base import Env, EnvError
from jaxdreamer.envs.host.agent_env import AgentEnv
from jaxdreamer.envs.host.instance import as_env, check_apart
from jaxdreamer.types import EnvSpec, Timestep

logger = logging.getLogger(__name__)


def episode_seed(seed: int, lane: int, episode: int) -> int:
    """The seed, 31 bits, of one lane's episode: a pure function, so any episode can be played again."""
    return int(np.random.SeedSequence((seed, lane, episode)).generate_state(1)[0] >> 1)  # some tasks want an int32


class Place:
    """Where a lane is: in which episode, how far into it, and whether a reset is due."""

    def __init__(self, seed: int, index: int) -> None:
        """``index`` is the lane's number among all lanes."""
        self.seed, self.index = seed, index
        self.episode = -1  # number of the current episode; -1 before the first
        self.steps = 0  # agent steps done in it
        self.needs_reset = True

    @property
    def next_seed(self) -> int:
        """Of the episode that the next reset begins."""
        return episode_seed(self.seed, self.index, self.episode + 1)

    def arrive(self, is_first: bool, is_last: bool) -> None:
        """Count an entry."""
        if is_first:
            self.episode, self.steps = self.episode + 1, 0
        else:
            self.steps += 1
        self.needs_reset = bool(is_last)

    def state(self) -> dict[str, Any]:
        """JSON-ready: where the lane is."""
        return {"episode": self.episode, "steps": self.steps, "needs_reset": self.needs_reset}

    def replayed_seed(self, state: dict[str, Any], actions: np.ndarray) -> int | None:
        """The seed to play the saved episode again from; None where none had begun. EnvError for missing actions."""
        self.episode, self.steps, self.needs_reset = int(state["episode"]), 0, True
        if self.episode < 0:
            return None
        if len(actions) != state["steps"]:
            raise EnvError(
                f"lane {self.index} had done {state['steps']} steps in its episode, found {len(actions)} actions; "
                "give all actions since the reset, without the reset entry's own"
            )
        return episode_seed(self.seed, self.index, self.episode)


class Lane(Place):
    """A place with its environment, which is advanced by exactly one entry at a time, resets included."""

    def __init__(self, env: Env, seed: int, index: int) -> None:
        """``index`` is the lane's number among all lanes."""
        super().__init__(seed, index)
        self.env = env
        self.said: dict[str, float] = {}  # of the episode that ended with the newest entry

    def advance(self, action: np.ndarray) -> Timestep:
        """The lane's next entry: a reset where one is due, which ignores ``action`` [A], else a step."""
        try:
            timestep = self.env.reset(self.next_seed) if self.needs_reset else self.env.step(action)
            self.said = said_at_end(self.env, timestep)
        except Exception as error:
            error.add_note(f"in lane {self.index}, episode {self.episode}, agent step {self.steps}")
            raise
        self.arrive(timestep.is_first, timestep.is_last)
        return timestep

    def restore(self, state: dict[str, Any], actions: np.ndarray) -> Timestep | None:
        """Play the saved episode again from its seed and the agent's ``actions`` [n, A]; returns its latest entry.

        None where no episode had begun. Where the task is not deterministic the entry differs from the saved one.
        """
        seed = self.replayed_seed(state, actions)
        if seed is None:
            return None
        timestep, self.steps = play_again(self.env, seed, actions)
        self.needs_reset = bool(timestep.is_last)
        return timestep


def said_at_end(env: Env, timestep: Timestep) -> dict[str, float]:
    """What an environment says of the episode that ends with this entry, by name; nothing where none ends."""
    return getattr(env, "episode_metrics", {}) if timestep.is_last else {}


def play_again(env: Env, seed: int, actions: np.ndarray) -> tuple[Timestep, int]:
    """An episode's latest entry, and the steps done, from its seed and the agent's ``actions`` [n, A]."""
    if isinstance(env, AgentEnv):
        return env.replay(seed, actions), len(actions)  # draws one frame, where drawing is most of a step's cost
    timestep, steps = env.reset(seed), 0
    for action in actions:
        timestep, steps = env.step(action.copy()), steps + 1  # it may do with it what it likes
        if timestep.is_last:
            break
    return timestep, steps


class Lanes(abc.ABC):
    """What all kinds of lanes have in common: where each is, and that calls come in order."""

    lanes: Sequence[Any]  # of Place, or of what has its needs_reset and state
    spec: EnvSpec
    spaces: dict[str, Any] | None
    frame_rate: float
    can_render: bool
    overlaps = False
    restarts: int | None = None
    said: Mapping[int, dict[str, float]] = MappingProxyType({})

    def __init__(self, seed: int) -> None:
        """``seed`` is that of all lanes."""
        self.seed, self.agent_steps = seed, 0
        self._sent: np.ndarray | None = None

    @property
    def num_envs(self) -> int:
        """N, the number of lanes."""
        return len(self.lanes)

    @property
    def reset_mask(self) -> np.ndarray:
        """Bool [N]: which lanes the next step will reset."""
        return np.array([lane.needs_reset for lane in self.lanes])

    def step(self, actions: np.ndarray) -> Timestep:
        """One entry of every lane for ``actions`` float32 [N, A]."""
        self.send(actions)
        return self.receive()

    def send(self, actions: np.ndarray) -> None:
        """Keep a copy of the actions for :meth:`receive`: environments may do with theirs what they like."""
        if self._sent is not None:
            raise EnvError("send was called twice; receive comes in between")
        actions = np.array(actions, np.float32)
        if actions.shape != (self.num_envs, self.spec.action.size):
            raise EnvError(f"expected actions of shape {(self.num_envs, self.spec.action.size)}, found {actions.shape}")
        self._sent = actions

    @abc.abstractmethod
    def receive(self) -> Timestep:
        """The entries of the actions that were sent."""

    def abandon(self, lane: int) -> None:
        """Leave a lane's episode where it is: its next entry is a reset."""
        self.lanes[lane].needs_reset = True

    def state(self) -> dict[str, Any]:
        """JSON-ready: the seed, the steps counted, and where each lane is."""
        return {"seed": self.seed, "agent_steps": self.agent_steps, "lanes": [lane.state() for lane in self.lanes]}

    def _begin_restore(self, state: dict[str, Any], actions: Sequence[Any]) -> None:
        """Take over what all lanes have in common; each is left in its saved episode, with a reset due."""
        if not len(state["lanes"]) == len(actions) == self.num_envs:
            raise EnvError(f"{self.num_envs} lanes, but the state has {len(state['lanes'])} and actions {len(actions)}")
        self.seed, self.agent_steps = int(state["seed"]), int(state["agent_steps"])
        for lane, saved in zip(self.lanes, state["lanes"]):
            lane.seed, lane.episode, lane.needs_reset = self.seed, int(saved["episode"]), True

    def _take_sent(self) -> np.ndarray:
        if self._sent is None:
            raise EnvError("receive was called without send before it")
        actions, self._sent = self._sent, None
        return actions


class LocalVectorEnv(Lanes):
    """Lanes in this process, a :class:`~jaxdreamer.envs.base.VectorEnv`; each reset is seeded by :func:`episode_seed`."""

    lanes: list[Lane]

    def __init__(self, make: Sequence[Callable[[], Any] | Any], seed: int = 0, *, first: int = 0) -> None:
        """``make`` holds, for each lane, an environment or a function that makes one; their specs must agree.

        ``first``: the number of lane 0 among all lanes, where others are stepped elsewhere.
        """
        if not make:
            raise ConfigError("a vector environment needs at least one environment, found none")
        super().__init__(seed)
        self.lanes = []
        try:
            for index, item in enumerate(make, first):
                ready = hasattr(item, "reset") and not isinstance(item, type)
                env = as_env(item if ready else item())
                check_apart([*(lane.env for lane in self.lanes), env])
                self.lanes.append(Lane(env, seed, index))
                if env.spec != self.lanes[0].env.spec:
                    raise ConfigError(
                        f"lanes must have one spec; lane 0 has {self.lanes[0].env.spec}, lane {index} {env.spec}"
                    )
        except BaseException:
            self.close()
            raise
        one = self.lanes[0].env
        self.spec, self.frame_rate, self.can_render = one.spec, one.frame_rate, one.can_render
        self.spaces = getattr(one, "spaces", None)

    @property
    def notes(self) -> list[str]:
        """Lines for the log, each once."""
        return list(dict.fromkeys(note for lane in self.lanes for note in getattr(lane.env, "notes", [])))

    def receive(self) -> Timestep:
        """The entries of the actions that were sent."""
        actions = self._take_sent()
        entries = [lane.advance(action) for lane, action in zip(self.lanes, actions)]
        self.agent_steps += sum(not entry.is_first for entry in entries)
        self.said = {number: lane.said for number, lane in enumerate(self.lanes) if lane.said}
        return stack(entries)

    def reset_lane(self, lane: int) -> Timestep:
        """Begin a lane's next episode now; its entry, without a lane axis."""
        self.abandon(lane)
        return self.lanes[lane].advance(np.zeros(self.spec.action.size, np.float32))

    def render(self, lane: int = 0) -> np.ndarray:
        """One lane's present moment as uint8 [H, W, 3]."""
        return np.array(self.lanes[lane].env.render())

    def restore(self, state: dict[str, Any], actions: Sequence[np.ndarray | None]) -> list[Timestep | None]:
        """Play every lane's saved episode again, see :meth:`VectorEnv.restore <jaxdreamer.envs.base.VectorEnv.restore>`."""
        self._begin_restore(state, actions)
        return [
            None if played is None else lane.restore(saved, np.asarray(played, np.float32))
            for lane, saved, played in zip(self.lanes, state["lanes"], actions)
        ]

    def close(self) -> None:
        """Close every lane, whatever becomes of the others."""
        for lane in self.lanes:
            try:
                lane.env.close()
            except Exception as error:  # an environment's own; nothing is lost by it that was not given up here
                logger.warning("lane %d could not be closed: %s", lane.index, error)


def stack(entries: Sequence[Timestep]) -> Timestep:
    """Single entries as one with a leading lane axis: reward float32 [N], flags bool [N]."""
    obs = {key: np.stack([entry.obs[key] for entry in entries]) for key in entries[0].obs}
    flags = [np.array([entry[i] for entry in entries], bool) for i in (2, 3, 4)]
    return Timestep(obs, np.array([entry.reward for entry in entries], np.float32), *flags)
