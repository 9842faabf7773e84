"""Checks that an environment does what it promises, before a long run depends on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer.envs.base import Env, EnvError
from jaxdreamer.envs.host.instance import as_env, check_apart
from jaxdreamer.envs.host.observations import ill_scaled
from jaxdreamer.envs.host.outcome import reporting
from jaxdreamer.envs.host.pictures import NOT_FINITE, picture_axes
from jaxdreamer.envs.host.vector import episode_seed, said_at_end
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.types import ActionSpec, ArraySpec, Timestep

_NUMBER = re.compile(r"-?\b(\d[\d.e+-]*|nan|inf)\b")


class Finding(NamedTuple):
    """A fault that must be fixed (``error``), or something to consider (``warning``)."""

    level: str
    text: str


class Report(NamedTuple):
    """The findings, and statistics of what was played."""

    findings: list[Finding]
    steps: int
    episodes: int  # ended
    terminal: int  # of these, by the task itself
    reward: tuple[float, float, float]  # lowest, mean, highest

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(finding.level == "error" for finding in self.findings)


def check_env(make: Callable[[], Any], *, steps: int = 300, seed: int = 0) -> Report:
    """Play two instances side by side with random actions for ``steps`` agent steps each, and look at everything.

    Checked are: observations and rewards against the spec and the spaces; the order of reset and step; the flags at an
    episode's end; whether a seed (of 31 bits, as in training) determines an episode; whether arrays are fresh. An exception
    of the environment, or an impossible result, ends the check and becomes a finding. Exceptions of ``make`` are raised;
    gymnasium's environments are wrapped.
    """
    check = _Check(as_env(make()), as_env(make()), seed)
    with check.finding():
        check_apart([check.env, check.twin])
        check.run(steps)
    with check.finding():
        for item in (check.env, check.twin):
            item.close()
            item.close()  # the contract allows it twice
    return check.report()


class _Check:
    def __init__(self, env: Env, twin: Env, seed: int) -> None:
        self.env, self.twin, self.seed = env, twin, seed
        self.rng = np.random.default_rng(seed)
        self.found: dict[str, Finding] = {}
        self.strayed: set[str] = set()
        self.rewards: list[float] = []
        self.done = 0
        self.episodes = self.terminal = 0
        self.low = {key: np.full(item.shape, np.inf) for key, item in env.spec.obs.items()}
        self.high = {key: np.full(item.shape, -np.inf) for key, item in env.spec.obs.items()}

    def error(self, text: str) -> None:
        self._find("error", text)

    def warn(self, text: str) -> None:
        self._find("warning", text)

    def _find(self, level: str, text: str) -> None:
        """Keep a finding once: texts that differ in their numbers only are the same finding."""
        self.found.setdefault(_NUMBER.sub("#", text), Finding(level, text))

    @contextmanager
    def finding(self) -> Iterator[None]:
        """An exception of the environment becomes a finding."""
        try:
            with reporting("the environment"):
                yield
        except JaxdreamerError as error:
            self.error(str(error))

    def run(self, steps: int) -> None:
        if self.env.spec != self.twin.spec:
            self.error(f"two instances differ in what they are: {self.env.spec} and {self.twin.spec}")
        if not self.env.frame_rate > 0:
            self.error(f"frame_rate must be above 0, found {self.env.frame_rate}")
        if self.found:  # an environment with a wrong spec cannot be played
            return
        one, *others = (self.env.reset(episode_seed(self.seed, 0, episode)).obs for episode in range(6))
        if all(_equal(one, other) for other in others):
            self.warn("six seeds begin with one and the same observation: an agent sees only one start")
        episode = 0
        entry, other = self._reset(episode)
        while self.done < steps:
            action = _draw(self.rng, self.env.spec.action, extreme=self.done % 10 == 0)
            kept = {key: np.array(value) for key, value in entry.obs.items()}
            before, entry, other = entry, self.env.step(action.copy()), self.twin.step(action.copy())
            self.done += 1
            self._check_fresh(before, kept)
            self._check_entry(entry, first=False)
            self._check_same(entry, other, self.done)
            self.rewards.append(float(entry.reward))
            if entry.is_last:
                said_at_end(self.env, entry)  # which raises where that is wrong
                self.episodes, self.terminal = self.episodes + 1, self.terminal + bool(entry.is_terminal)
                self._check_order(action)
                episode += 1
                entry, other = self._reset(episode)
        self._check_experience(steps)

    def report(self) -> Report:
        low, high = (min(self.rewards), max(self.rewards)) if self.rewards else (0.0, 0.0)
        mean = float(np.mean(self.rewards)) if self.rewards and np.isfinite([low, high]).all() else low + high
        return Report(list(self.found.values()), self.done, self.episodes, self.terminal, (low, mean, high))

    def _check_order(self, action: np.ndarray) -> None:
        try:
            self.env.step(action)
        except EnvError:
            return
        self.error("a step after the episode's end is taken without a word; raise EnvError there")

    def _reset(self, episode: int) -> tuple[Timestep, Timestep]:
        entry, other = (item.reset(episode_seed(self.seed, 0, episode)) for item in (self.env, self.twin))
        self._check_entry(entry, first=True)
        self._check_same(entry, other, 0)
        return entry, other

    def _check_entry(self, entry: Timestep, first: bool) -> None:
        where = "reset" if first else "step"
        if bool(entry.is_first) != first:
            self.error(f"{where} returns is_first={bool(entry.is_first)}")
        if first and ((np.isfinite(entry.reward) and entry.reward != 0) or entry.is_last or entry.is_terminal):
            self.error("reset returns a reward or an end: its reward must be 0, is_last and is_terminal False")
        if entry.is_terminal and not entry.is_last:
            self.error("is_terminal without is_last: what ends the task ends the episode")
        strays: dict[str, str] = getattr(getattr(self.env, "simulator", None), "strays", dict)()
        for key, why in strays.items():
            if key not in self.strayed:
                self.strayed.add(key)
                self.warn(f"observation {key!r} {why}")
        if not np.isfinite(entry.reward):
            cause = ", or one that float32 cannot hold" if np.isinf(entry.reward) else ""
            cause = next((f", as its picture {key!r} {why}" for key, why in strays.items() if why == NOT_FINITE), cause)
            self.error(f"{where} returns the reward {entry.reward}{cause}; such episodes are cut and not learned from")
        if set(entry.obs) != set(self.env.spec.obs):
            self.error(
                f"{where} returns the observations {sorted(entry.obs)}, the spec has {sorted(self.env.spec.obs)}"
            )
            return
        for key, spec in self.env.spec.obs.items():
            self._check_array(key, spec, np.asarray(entry.obs[key]), where)

    def _check_array(self, key: str, spec: ArraySpec, value: np.ndarray, where: str) -> None:
        if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
            self.error(f"{where}: {key!r} is {value.dtype} {value.shape}, the spec says {spec.dtype} {spec.shape}")
            return
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            self.error(
                f"{where}: {key!r} holds numbers that are not finite; such episodes are cut and not learned from"
            )
            return
        if spec.kind == "discrete" and value.size and not (value.min() >= 0 and value.max() < spec.classes):
            self.error(f"{where}: {key!r} holds {value.min()} to {value.max()}, the spec says 0 to {spec.classes - 1}")
        self.low[key], self.high[key] = np.minimum(self.low[key], value), np.maximum(self.high[key], value)

    def _check_fresh(self, before: Timestep, kept: dict[str, np.ndarray]) -> None:
        for key, value in kept.items():
            if not np.array_equal(before.obs[key], value, equal_nan=value.dtype.kind == "f"):
                self.error(f"{key!r} is overwritten by the next step: hand out a copy")

    def _check_same(self, entry: Timestep, other: Timestep, step: int) -> None:
        same = _equal(entry.obs, other.obs) and np.array_equal(entry.reward, other.reward, equal_nan=True)
        if not same or entry[2:] != other[2:]:
            self.warn(
                "one seed and the same actions give different episodes in two instances"
                f" (first at {'reset' if step == 0 else 'a step'}): a resumed run cuts the episodes it was in"
            )

    def _check_experience(self, steps: int) -> None:
        if not self.episodes:
            self.warn(f"no episode ended within {steps} steps; set env.time_limit if none ever does")
        finite = np.abs([reward for reward in self.rewards if np.isfinite(reward)])
        size = float(np.mean(finite)) if finite.size else 1.0
        if size == 0:
            self.warn("random actions brought no reward at all; where rewards are that rare, learning is slow")
        elif not 0.001 < size < 20:
            self.warn(f"rewards are {size:.3g} in the mean: choose loss.reward_scale so that a step's is 0.1 to 1")
        for key, spec in self.env.spec.obs.items():
            if spec.shape != () and not (self.high[key] > self.low[key]).any():
                self.warn(f"{key!r} never changed: it teaches nothing (env.exclude={key} leaves it out)")
            elif spec.kind == "vector" and picture_axes(spec.shape, whole=False):
                self.warn(
                    f"{key!r} {list(spec.shape)} has the shape of a picture but no bounds, so it goes through dense layers "
                    "as it is: give its space finite bounds, such as 0 and 1"
                )
            elif text := ill_scaled(key, spec, self.low[key], self.high[key]):
                self.warn(text)


def _draw(rng: np.random.Generator, spec: ActionSpec, extreme: bool) -> np.ndarray:
    parts = []
    for part in spec.parts:
        if part.kind == "discrete":
            parts.append(np.arange(part.size) == rng.integers(part.size))
        else:
            parts.append(rng.choice([-1.0, 1.0], part.size) if extreme else rng.uniform(-1, 1, part.size))
    return np.concatenate(parts).astype(np.float32)


def _equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    def same(key: str) -> bool:
        floats = np.asarray(left[key]).dtype.kind == "f"
        return np.array_equal(left[key], right[key], equal_nan=floats)

    return left.keys() == right.keys() and all(same(key) for key in left)
