"""Playing whole episodes without exploration, and measuring them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.policy import Policy
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.envs.base import EnvError, VectorEnv
from jaxdreamer.envs.device.functional import FunctionalEnv, make_lanes
from jaxdreamer.train.device.program import make_episodes, make_film
from jaxdreamer.train.host.collect import MAX_BROKEN_IN_A_ROW, Acting, Broken, make_act, replace_lane
from jaxdreamer.types import Array, PyTree, Timestep

_log = logging.getLogger("jaxdreamer")

FILM_STEPS = 500  # longest film from the device, in agent steps
LONGEST_EPISODE = 108_000  # agent steps, half an hour of Atari: a task without a limit may never end by itself
EVAL_SEED_OFFSET = 1_000_003  # evaluation episodes are never training episodes: their seeds start elsewhere


class Evaluation(NamedTuple):
    """What whole episodes brought, in the environment's own units."""

    returns: list[float]
    lengths: list[int]
    frames: np.ndarray | None  # uint8 [T, H, W, 3], the first episode, where it was asked for and could be drawn
    frame_rate: float  # of these frames, per second of the task's own time
    broken: int = 0  # entries that were not finite

    def metrics(self) -> dict[str, float]:
        """By name, for the log."""
        return {
            "eval/return": float(np.mean(self.returns)),
            "eval/return_std": float(np.std(self.returns)),
            "eval/return_min": float(np.min(self.returns)),
            "eval/return_max": float(np.max(self.returns)),
            "eval/length": float(np.mean(self.lengths)),
            "eval/episodes": len(self.returns),
            "eval/broken_entries": self.broken,
        }


def make_evaluate(policy: Policy) -> Callable[..., Evaluation]:
    """``evaluate(params, make_envs, episodes, seed, key, film=False)``; compiled once for repeated evaluations."""
    act = make_act(policy, "greedy")

    def evaluate(
        params: PyTree,
        make_envs: Callable[[int, int], VectorEnv],
        episodes: int,
        *,
        seed: int,
        key: Array,
        film: bool = False,
        lanes: int = 8,
        watch: Callable[[int], None] = lambda done: None,
    ) -> Evaluation:
        """Play ``episodes`` episodes greedily.

        Args:
            params: all parameters.
            make_envs: (lanes, seed) -> environments; closed again before returning.
            episodes: how many. They are dealt out to the lanes beforehand, so that short ones do not crowd out long.
            seed: of the environments. Equal seeds and parameters give equal episodes where the task allows it.
            key: for the latents' samples.
            film: draw every entry of the first episode.
            lanes: most environments at once; one may bring several lanes.
            watch: called after each step with the number of episodes that are over; what it raises ends the evaluation.

        An episode that gives numbers which are not finite ends at its last good entry, and one of ``LONGEST_EPISODE`` steps
        there; both with a warning. One without a single good step is none: it is counted, and another is played instead.
        EnvError for the twentieth entry in a row that is not finite.
        """
        envs = make_envs(min(episodes, lanes), seed + EVAL_SEED_OFFSET)
        try:
            wanted = [len(range(lane, episodes, envs.num_envs)) for lane in range(envs.num_envs)]
            return _play(act, policy, params, envs, wanted, key, film, watch)
        finally:
            envs.close()

    return evaluate


def _play(
    act,
    policy: Policy,
    params: PyTree,
    envs: VectorEnv,
    wanted: list[int],
    key: Array,
    film: bool,
    watch: Callable[[int], None],
) -> Evaluation:
    lanes = envs.num_envs
    acting = Acting(jax.tree.map(jnp.asarray, policy.init(lanes)), key)
    returns: list[list[float]] = [[] for _ in range(lanes)]
    lengths: list[list[int]] = [[] for _ in range(lanes)]
    current, steps = np.zeros(lanes), np.zeros(lanes, int)
    broken = Broken(lanes, "in an evaluation environment")
    done = np.array(wanted) == 0  # a backend may bring more lanes than there are episodes
    frames: list[np.ndarray] = []
    action = np.zeros((lanes, envs.spec.action.size), np.float32)
    while not done.all():
        watch(sum(len(got) for got in returns))
        timestep = envs.step(action)
        bad = broken.find(timestep, watched=~done)
        current = np.where(timestep.is_first, 0.0, current + np.where(bad, 0.0, timestep.reward))
        steps = np.where(timestep.is_first, 0, steps + ~bad)
        if film and not returns[0]:
            if timestep.is_first[0]:
                frames.clear()  # of an episode that was none
            film = bool(bad[0]) or _draw(envs, frames)
        cut = bad | (~timestep.is_last & (steps >= LONGEST_EPISODE))
        for lane in np.flatnonzero((timestep.is_last | cut) & ~done):
            if cut[lane]:
                _warn_of_cut(int(steps[lane]), bool(bad[lane]))
            if steps[lane]:
                returns[lane].append(float(current[lane]))
                lengths[lane].append(int(steps[lane]))
                done[lane] = len(returns[lane]) == wanted[lane]
        for lane in np.flatnonzero(cut):
            timestep = _set_aside(timestep, envs, int(lane))
        decided, acting = act(params, acting, timestep.obs, timestep.is_first)
        action = np.asarray(decided)
    return Evaluation(
        list(chain(*returns)),
        list(chain(*lengths)),
        np.stack(frames) if frames else None,
        envs.frame_rate,
        broken.count,
    )


def _set_aside(timestep: Timestep, envs: VectorEnv, lane: int) -> Timestep:
    """The entries with a blank one in place of a lane's, whose next is a reset: what was decided on it goes nowhere."""
    envs.abandon(lane)
    zeros = jax.tree.map(lambda x: np.zeros_like(x[lane]), timestep)
    return replace_lane(timestep, lane, zeros._replace(is_first=np.bool_(True)))


def _warn_of_cut(steps: int, broken: bool) -> None:
    if not steps:
        _log.warning("an evaluation episode began with numbers that are not finite; another one is played instead")
        return
    why = "what followed was not finite" if broken else "it did not end; set env.time_limit"
    _log.warning("an evaluation episode was cut after %d steps: %s", steps, why)


def _draw(envs: VectorEnv, frames: list[np.ndarray]) -> bool:
    """Add a frame of the first lane; False where drawing fails: a film must not cost a run its evaluation."""
    try:
        frame = envs.render(0)
        if frames and frame.shape != frames[0].shape:
            raise EnvError(f"its frames change their shape from {frames[0].shape} to {frame.shape}")
        frames.append(frame)
    except Exception as error:
        _log.warning("no film: drawing the environment failed: %s", error)
        frames.clear()
        return False
    return True


def make_device_evaluate(config: Config, env: FunctionalEnv, policy: Policy) -> Callable[..., Evaluation]:
    """``evaluate(params, episodes, seed, film=False, watch=...)``: like :func:`make_evaluate`, but on the device.

    Every episode has a lane of its own, so that short ones do not crowd out long. ``film`` draws the first episode again,
    at most ``FILM_STEPS`` of it. An episode whose state stops being finite ends at its last good entry, with a warning; one
    without a single good step is none, and its lane plays another.

    Raises:
        ConfigError: nothing limits the length of an episode.
    """
    settings = config.env
    repeat, limit = settings.action_repeat, settings.time_limit
    longest = limit or -(-env.time_limit // repeat)
    if not longest:
        raise ConfigError(
            f"env.time_limit: {settings.id} has no time limit of its own, so an evaluation might never end; set one"
        )

    def lanes(count: int):
        return make_lanes(env, count, action_repeat=repeat, time_limit=limit)

    @functools.cache
    def play(count: int):
        begin, advance = make_episodes(lanes(count), policy)
        return jax.jit(begin), jax.jit(advance, donate_argnums=1)

    @functools.cache
    def draw():
        assert env.render is not None
        return jax.jit(make_film(lanes(1), policy, env.render, min(longest, FILM_STEPS)))

    def evaluate(
        params: PyTree,
        episodes: int,
        *,
        seed: int,
        film: bool = False,
        watch: Callable[[int], None] = lambda done: None,
    ) -> Evaluation:
        key = jax.random.key(seed + EVAL_SEED_OFFSET)
        begin, advance = play(episodes)
        playing, done = begin(key), 0
        while done < episodes:
            watch(done)
            playing = advance(params, playing)
            done = int(np.sum(jax.device_get(playing.done)))
        found = jax.device_get(playing)
        if found.missed.max() >= MAX_BROKEN_IN_A_ROW:
            raise EnvError(
                f"in an evaluation an environment gave states, rewards or observations that are not finite "
                f"{MAX_BROKEN_IN_A_ROW} times in a row, with resets in between: look at the simulator's time step, and at "
                "what its reset can begin with"
            )
        if found.missed.any():
            _log.warning(
                "%d evaluation episodes began with numbers that are not finite; others are played instead",
                found.missed.sum(),
            )
        if found.broken.any():
            _log.warning("%d of %d evaluation episodes broke off: not finite", found.broken.sum(), episodes)
        frames = None
        if film and env.render is not None:
            try:
                drawn, shown = jax.device_get(draw()(params, key))
                frames = drawn[shown]
            except Exception as error:  # a film must not cost a run its evaluation
                _log.warning("no film: drawing the environment failed: %s", error)
        broken = int(found.missed.sum() + found.broken.sum())
        return Evaluation(found.returns.tolist(), found.lengths.tolist(), frames, env.frame_rate / repeat, broken)

    return evaluate
