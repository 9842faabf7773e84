"""Stepping environments with a policy, and storing every entry."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithm import Algorithm, Policy
from jaxdreamer.envs.base import EnvError, VectorEnv
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.train.evaluate import MAX_BROKEN_IN_A_ROW
from jaxdreamer.train.placement import FIRST, WHOLE, Placement, one_device
from jaxdreamer.train.scores import EpisodeStats, Running, count_entry, no_episodes
from jaxdreamer.train.telemetry import Clock
from jaxdreamer.types import Array, PyTree, Timestep


class Acting(NamedTuple):
    """What acting carries from one observation to the next, on the device."""

    policy: PyTree  # the policy's own state
    key: Array


_BY_LANE = Acting(FIRST, WHOLE)  # type: ignore[arg-type]


def make_act(policy: Policy, mode: str, place: Placement = one_device()) -> Callable[..., tuple[Array, Acting]]:  # noqa: B008 it is frozen
    """``act(params, acting, obs, is_first) -> (action [B, A], acting)``, jitted, with the key carried along.

    Several processes share out the lanes B, and all get every action.
    """

    def act(params: PyTree, acting: Acting, obs: dict[str, Array], is_first: Array) -> tuple[Array, Acting]:
        key, key_act = jax.random.split(acting.key)
        action, state = policy.act(params, acting.policy, obs, is_first, key_act, mode=mode)
        return action, Acting(state, key)

    if place.crew.alone:
        return jax.jit(act)
    over = place.over(act, (WHOLE, _BY_LANE, FIRST, FIRST), (FIRST, _BY_LANE))
    compiled = place.make(over, (WHOLE, _BY_LANE))
    return lambda params, acting, *seen: compiled(params, acting, *place.put(seen, (FIRST, FIRST)))


class Collector:
    """Steps environments, one entry of every lane a call, and stores each in replay.

    A lane whose observation or reward is not finite is reset at once: its episode ends, without being terminal, at the
    last good entry, and nothing that is not finite reaches replay or the world model. Such entries are counted.

    ``clock`` is told what the time went into: the environments, the policy, and updates that these had to wait for.
    Several processes, of which ``place`` tells, share out the lanes; ``algorithm`` is then as each device computes it.
    """

    def __init__(
        self,
        envs: VectorEnv,
        algorithm: Algorithm,
        replay: HostReplay,
        key: Array,
        clock: Clock | None = None,
        place: Placement = one_device(),  # noqa: B008 it is frozen
    ):
        self.envs, self._replay, self._place = envs, replay, place
        self._clock = clock or Clock()
        policy = algorithm.policy
        self._acts = {mode: make_act(policy, mode, place) for mode in ("random", "explore")}
        self._keep = algorithm.keep if place.crew.alone else place.make(algorithm.keep, WHOLE)
        self.acting = self.placed(Acting(jax.tree.map(jnp.asarray, policy.init(envs.num_envs)), key))
        self.running = Running.none(envs.num_envs)
        self.ended: EpisodeStats = no_episodes()  # with the latest entry
        self.said: list[dict[str, float]] = []  # by their environments, of these episodes
        self.agent_steps = 0
        self.broken = Broken(envs.num_envs, "environment")
        self.latest: Timestep | None = None
        self.sent: np.ndarray | None = None  # what the environments are doing now, where begin() came before step()

    def placed(self, acting: Acting) -> Acting:
        """What acting carries, where it is computed."""
        return acting if self._place.crew.alone else self._place.put(acting, _BY_LANE)

    def step(self, params: PyTree, mode: str = "explore") -> Timestep:
        """Advance every lane by one entry; ``mode``: the policy's, ``"explore"`` or ``"random"``."""
        if self.sent is None:
            action = self._decide(params, mode)
            with self._clock.timed("environment"):
                timestep = self.envs.step(action)
        else:
            action, self.sent = self.sent, None
            timestep = self._receive(params)
        self.agent_steps += int(np.sum(~timestep.is_first))
        said, timestep = self.envs.said, self._mend(timestep)
        self.said = [numbers for lane, numbers in said.items() if timestep.is_last[lane]]  # no reset replaced it
        if self.latest is not None:
            # A reset without an end before it: the environment broke off, and its episode ends at its last entry.
            for lane in np.flatnonzero(timestep.is_first & ~np.asarray(self.latest.is_last)):
                self._replay.close_episode(int(lane))
        self._replay.add(timestep, action, self._keep(self.acting.policy))
        self.running, self.ended = count_entry(self.running, timestep)
        self.latest = timestep
        return timestep

    def begin(self, params: PyTree, mode: str = "explore") -> None:
        """Decide on the next step and let the environments begin it; :meth:`step` then waits for them."""
        self.resume(self._decide(params, mode))

    def resume(self, action: np.ndarray) -> None:
        """Let the environments begin with an action [B, A] that was decided before."""
        with self._clock.timed("environment"):
            self.envs.send(action)
        self.sent = action

    def _receive(self, params: PyTree) -> Timestep:
        start = time.perf_counter()
        with self._clock.timed("environment"):
            timestep = self.envs.receive()
            if not _done(params):  # the update that makes them takes longer: without environments it were the same wait
                self._clock.book("update", time.perf_counter() - start)
        return timestep

    def _decide(self, params: PyTree, mode: str) -> np.ndarray:
        if self.latest is None:
            return np.zeros((self.envs.num_envs, self.envs.spec.action.size), np.float32)
        if not _done(params):
            # The action needs them in any case. Waiting here costs nothing, and is no time of the policy's.
            with self._clock.timed("update"):
                jax.block_until_ready(params)
        with self._clock.timed("policy"):
            action, self.acting = self._acts[mode](params, self.acting, self.latest.obs, self.latest.is_first)
            return np.asarray(action)

    def _mend(self, timestep: Timestep) -> Timestep:
        bad = np.flatnonzero(self.broken.find(timestep))
        if not bad.size:
            return timestep
        for lane in bad:
            self._replay.close_episode(int(lane))
            timestep = replace_lane(timestep, int(lane), self.envs.reset_lane(int(lane)))
        return self._mend(timestep)


def _done(params: PyTree) -> bool:
    """Whether these are computed: all come out of one program, so that any of them tells."""
    last: Any = jax.tree.leaves(params)[-1:]
    return all(leaf.is_ready() for leaf in last if hasattr(leaf, "is_ready"))  # NumPy's arrays are


class Broken:
    """Finds entries that are not finite, counts them, and stops where a lane gives nothing else."""

    def __init__(self, lanes: int, who: str) -> None:
        """``who`` gives them, for the error."""
        self.count = 0
        self.in_a_row = np.zeros(lanes, np.int64)  # since the lane's last good step; resets do not count
        self._who = who

    def find(self, timestep: Timestep, watched: np.ndarray | bool = True) -> np.ndarray:
        """Which lanes' entries are not finite: bool [B]. EnvError for the twentieth in a row of a ``watched`` lane."""
        bad = ~finite_lanes(timestep)
        counted = bad & watched
        self.in_a_row[~bad & ~timestep.is_first] = 0
        self.in_a_row[counted] += 1
        self.count += int(counted.sum())
        worst = int(np.argmax(self.in_a_row))
        if counted[worst] and self.in_a_row[worst] >= MAX_BROKEN_IN_A_ROW:
            raise EnvError(
                f"{self._who} {worst} gave rewards or observations that are not finite {MAX_BROKEN_IN_A_ROW} times in a "
                f"row, with resets in between: {_not_finite(timestep, worst)}"
            )
        return bad


def _not_finite(timestep: Timestep, lane: int) -> str:
    values = {"reward": timestep.reward[lane]} | {key: value[lane] for key, value in timestep.obs.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items() if not np.isfinite(value).all())


def finite_lanes(timestep: Timestep) -> np.ndarray:
    """Which lanes hold finite numbers only: bool [B]."""
    good = np.isfinite(timestep.reward)
    for value in timestep.obs.values():
        if value.dtype.kind == "f":
            good = good & np.isfinite(value).reshape(len(good), -1).all(axis=1)
    return good


def replace_lane(timestep: Timestep, lane: int, entry: Timestep) -> Timestep:
    """The same entries with one lane's replaced by ``entry``, which has no lane axis."""

    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        out = old.copy()
        out[lane] = new
        return out

    return jax.tree.map(put, timestep, entry)
