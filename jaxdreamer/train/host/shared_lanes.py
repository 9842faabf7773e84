"""Lanes of which each process of a run steps its own, and all see every entry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdreamer.envs.base import EnvError, VectorEnv
from jaxdreamer.envs.host.vector import stack
from jaxdreamer.train.placement import Exchange, Placement
from jaxdreamer.types import Timestep, flatten, unflatten


class SharedLanes:
    """A :class:`~jaxdreamer.envs.base.VectorEnv` of all processes' lanes.

    Every call but :meth:`abandon`, :meth:`render` and :meth:`close` is one that all processes make, and returns the same in
    each. So their replays hold the same, what follows from it is decided alike, and a checkpoint is that of one process.

    Args:
        envs: this process's lanes.
        placement: where they are exchanged.
    """

    def __init__(self, envs: VectorEnv, placement: Placement):
        self._envs, self._crew, self._exchange = envs, placement.crew, Exchange(placement)
        self._crew.check_same(
            "the environment", json.dumps(envs.spec.to_dict()), "let all processes find the same task and libraries"
        )
        self.num_envs = envs.num_envs * self._crew.processes
        self._own = placement.own(self.num_envs)
        self.spec, self.spaces = envs.spec, envs.spaces
        self.frame_rate, self.can_render, self.overlaps = envs.frame_rate, envs.can_render, envs.overlaps
        self.agent_steps, self.restarts = 0, envs.restarts
        self.said: Mapping[int, dict[str, float]] = {}
        self.reset_mask = np.ones(self.num_envs, bool)

    @property
    def notes(self) -> list[str]:
        """What this process's lanes have to say."""
        return self._envs.notes

    def step(self, actions: np.ndarray) -> Timestep:
        """One entry of every lane for ``actions`` float32 [N, A]."""
        self.send(actions)
        return self.receive()

    def send(self, actions: np.ndarray) -> None:
        """Let this process's lanes begin with their actions, of all lanes' [N, A]."""
        self._envs.send(actions[self._own])

    def receive(self) -> Timestep:
        """The entries of all lanes."""
        mine, said = flatten(self._envs.receive()), self._said()
        counts = np.array([[self._envs.restarts or 0, len(said)]])
        found = self._exchange(mine | {"counts": counts})
        restarts, lengths = found["counts"].T
        if self.restarts is not None:
            self.restarts = int(restarts.sum())
        self.said = self._heard(said, lengths) if lengths.any() else {}
        timestep = unflatten(Timestep, found)
        self.agent_steps += int(np.sum(~timestep.is_first))
        self.reset_mask = timestep.is_last.copy()
        return timestep

    def _said(self) -> bytes:
        said = {lane + self._own.start: numbers for lane, numbers in self._envs.said.items()}
        return json.dumps(said).encode() if said else b""

    def _heard(self, said: bytes, lengths: np.ndarray) -> dict[int, dict[str, float]]:
        longest = 1 << int(lengths.max()).bit_length()  # few lengths: each is another program
        texts = self._exchange({"text": np.frombuffer(said.ljust(longest), np.uint8)[None]})["text"]
        heard = [json.loads(bytes(text)) for text, length in zip(texts, lengths) if length]
        return {int(lane): numbers for one in heard for lane, numbers in one.items()}

    def reset_lane(self, lane: int) -> Timestep:
        """Begin a lane's next episode now; its entry, without a lane axis."""
        self.reset_mask[lane] = False
        mine = self._envs.reset_lane(lane - self._own.start) if self._is_own(lane) else None
        (found,) = [entry for entry in self._shown([mine]) if entry is not None]
        return found

    def _is_own(self, lane: int) -> bool:
        return self._own.start <= lane < self._own.stop

    def _shown(self, entries: Sequence[Timestep | None]) -> list[Timestep | None]:
        """Entries of this process's, without a lane axis, for all; None where there is none."""
        none = unflatten(Timestep, {name: np.zeros(*about) for name, about in self.spec.layout.items()})
        mine = flatten(stack([none if entry is None else entry for entry in entries]))
        found = self._exchange(mine | {"there": np.array([entry is not None for entry in entries])})
        there = found.pop("there")
        each = [unflatten(Timestep, {name: x[index] for name, x in found.items()}) for index in range(len(there))]
        return [entry if here else None for entry, here in zip(each, there)]

    def abandon(self, lane: int) -> None:
        """Leave a lane's episode where it is: its next entry is a reset."""
        self.reset_mask[lane] = True
        if self._is_own(lane):
            self._envs.abandon(lane - self._own.start)

    def render(self, lane: int = 0) -> np.ndarray:
        """A lane of this process as uint8 [H, W, 3]."""
        if not self._is_own(lane):
            raise EnvError(
                f"lane {lane} is another process's: {self._crew} steps {self._own.start} to {self._own.stop - 1}"
            )
        return self._envs.render(lane - self._own.start)

    def state(self) -> dict[str, Any]:
        """JSON-ready: the seed, the steps counted, and where each lane is."""
        mine = self._envs.state()
        each = self._crew.collect("where environments are", json.dumps(mine["lanes"]))
        return mine | {"agent_steps": self.agent_steps, "lanes": [lane for text in each for lane in json.loads(text)]}

    def restore(self, state: dict[str, Any], actions: Sequence[np.ndarray | None]) -> list[Timestep | None]:
        """Bring every lane to where :meth:`state` was taken; the latest entry of each."""
        if not len(state["lanes"]) == len(actions) == self.num_envs:
            raise EnvError(f"{self.num_envs} lanes, but the state has {len(state['lanes'])} and actions {len(actions)}")
        self.agent_steps = int(state["agent_steps"])
        mine = self._envs.restore(state | {"lanes": state["lanes"][self._own]}, actions[self._own])
        found = self._shown(mine)
        self.reset_mask = np.array([entry is None or bool(entry.is_last) for entry in found])
        return found

    def close(self) -> None:
        """Free what this process's lanes hold."""
        self._envs.close()
