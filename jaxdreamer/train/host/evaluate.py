"""Evaluations whose environments are stepped on the host."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithm import Policy
from jaxdreamer.envs.base import EnvError, VectorEnv
from jaxdreamer.train.evaluate import EVAL_SEED_OFFSET, Acts, Evaluation, Play, Watch, unwatched
from jaxdreamer.train.host.collect import Acting, Broken, make_act, replace_lane
from jaxdreamer.train.scores import Summary, means_of, summed_up
from jaxdreamer.types import Array, PyTree, Timestep

_log = logging.getLogger("jaxdreamer")

LONGEST_EPISODE = 108_000  # agent steps, half an hour of Atari: a task without a limit may never end by itself


def make_evaluate(
    policy: Policy,
    make_envs: Callable[[int, int], VectorEnv],
    key: Array,
    lanes: int = 8,
    summary: Summary | None = None,
) -> Play:
    """Evaluations on environments made for each; one of ``LONGEST_EPISODE`` steps is cut, with a warning.

    Args:
        policy: acts.
        make_envs: (lanes, seed) -> environments, which may be more lanes than asked for.
        key: for the latents' samples.
        lanes: most environments at once. Episodes are dealt out to them beforehand: short ones do not crowd out long.
        summary: what the backend makes of what environments say of episodes.
    """
    acts = functools.cache(lambda mode: make_act(policy, mode))

    def evaluate(
        params: PyTree,
        episodes: int,
        *,
        seed: int,
        film: bool = False,
        watch: Watch = unwatched,
        mode: Acts = "greedy",
    ) -> Evaluation:
        act = acts(mode)
        envs = make_envs(min(episodes, lanes), seed + EVAL_SEED_OFFSET)
        try:
            wanted = np.array([len(range(lane, episodes, envs.num_envs)) for lane in range(envs.num_envs)])
            acting = Acting(jax.tree.map(jnp.asarray, policy.init(envs.num_envs)), key)
            played = _Played(envs, wanted, film)
            action = np.zeros((envs.num_envs, envs.spec.action.size), np.float32)
            while not played.done.all():
                watch(sum(map(len, played.returns)))
                timestep = played.count(envs.step(action))
                decided, acting = act(params, acting, timestep.obs, timestep.is_first)
                action = np.asarray(decided)
            return played.result(summary)
        finally:
            envs.close()

    return evaluate


class _Played:
    """The episodes of an evaluation so far."""

    def __init__(self, envs: VectorEnv, wanted: np.ndarray, film: bool):
        lanes = envs.num_envs
        self._envs, self._wanted, self._film = envs, wanted, film
        self.returns: list[list[float]] = [[] for _ in range(lanes)]
        self._lengths: list[list[int]] = [[] for _ in range(lanes)]
        self._current, self._steps = np.zeros(lanes), np.zeros(lanes, int)
        self._broken = Broken(lanes, "in an evaluation environment")
        self.done = wanted == 0  # a backend may bring more lanes than there are episodes
        self._frames: list[np.ndarray] = []
        self._said: list[dict[str, float]] = []

    def count(self, timestep: Timestep) -> Timestep:
        """Count one entry of every lane; what the policy is to see of it."""
        bad = self._broken.find(timestep, watched=~self.done)
        self._current = np.where(timestep.is_first, 0.0, self._current + np.where(bad, 0.0, timestep.reward))
        self._steps = np.where(timestep.is_first, 0, self._steps + ~bad)
        if self._film and not self.returns[0]:
            if timestep.is_first[0]:
                self._frames.clear()  # of an episode that did not count
            self._film = bool(bad[0]) or self._draw()
        cut = bad | (~timestep.is_last & (self._steps >= LONGEST_EPISODE))
        for lane in np.flatnonzero((timestep.is_last | cut) & ~self.done):
            if cut[lane]:
                _warn_of_cut(int(self._steps[lane]), bool(bad[lane]))
            if self._steps[lane]:
                self.returns[lane].append(float(self._current[lane]))
                self._lengths[lane].append(int(self._steps[lane]))
                if not cut[lane]:
                    self._said.append(self._envs.said.get(int(lane), {}))
                self.done[lane] = len(self.returns[lane]) == self._wanted[lane]
        for lane in np.flatnonzero(cut):  # a blank entry in its place; the lane is reset, so its action is not used
            self._envs.abandon(int(lane))
            blank = jax.tree.map(lambda x, lane=lane: np.zeros_like(x[lane]), timestep)
            timestep = replace_lane(timestep, int(lane), blank._replace(is_first=np.bool_(True)))
        return timestep

    def _draw(self) -> bool:
        """Add a frame of the first lane; False where drawing fails: a film must not cost a run its evaluation."""
        try:
            frame = self._envs.render(0)
            if self._frames and frame.shape != self._frames[0].shape:
                raise EnvError(f"its frames change their shape from {self._frames[0].shape} to {frame.shape}")
            self._frames.append(frame)
        except Exception as error:
            _log.warning("no film: drawing the environment failed: %s", error)
            self._frames.clear()
            return False
        return True

    def result(self, summary: Summary | None) -> Evaluation:
        """All episodes, lane by lane."""
        said = summed_up(means_of(self._said), summary)
        frames = np.stack(self._frames) if self._frames else None
        returns, lengths = list(chain(*self.returns)), list(chain(*self._lengths))
        return Evaluation(returns, lengths, frames, self._envs.frame_rate, self._broken.count, said)


def _warn_of_cut(steps: int, broken: bool) -> None:
    if not steps:
        _log.warning("an evaluation episode began with numbers that are not finite; another one is played instead")
        return
    why = "what followed was not finite" if broken else "it did not end; set env.time_limit"
    _log.warning("an evaluation episode was cut after %d steps: %s", steps, why)
