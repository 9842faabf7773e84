"""A run's world model as an environment of pure functions, and where its dreams begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithm import kept_layout
from jaxdreamer.agent.world import World
from jaxdreamer.deploy.agent import Agent, load_agent
from jaxdreamer.envs.device.functional import FunctionalEnv
from jaxdreamer.errors import ConfigError
from jaxdreamer.files import require
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.replay import disk
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.replay.mapped import MappedRing
from jaxdreamer.types import Array, Batch, Latent, Observation, PyTree

Ends = float | Literal["sample"]
_WINDOWS = 16
"""Of the replay, whose latents are where dreams begin."""


class DreamState(NamedTuple):
    """Where one dream is."""

    latent: Latent  # [D] and [S]
    key: Array  # uint32, the data of the dream's typed key
    steps: Array  # int32 [], done so far
    start: Array  # int32 [], which of the starts it began with


class Dream(NamedTuple):
    """A world model to dream in."""

    agent: Agent
    world: World
    env: FunctionalEnv
    begin: Callable[[Latent, Array], DreamState]  # (latent [D], [S], typed key) -> a dream that begins there


def open_dream(
    run: str | os.PathLike[str] | Agent,
    *,
    start: Any = None,
    horizon: int = 200,
    ends: Ends = 0.5,
    step: int | None = None,
    best: bool = False,
    seed: int = 0,
) -> Dream:
    """A run's world model as a :class:`FunctionalEnv`, with what else is needed to look into it.

    From latent z_k, ``z_{k+1} ~ p(. | z_k, a_k)`` as :func:`jaxdreamer.imagine` has it, with the same numbers for the same
    key: a dream whose key is K draws step k from ``split(K, horizon)[k]``. The reward is the predicted one, in the task's
    units; observations are the decoder's means (of choices the likeliest) in raw form.

    Args:
        run: the run's folder, or an agent.
        start: where dreams begin, drawn anew for each. None: what the model makes of windows of the run's replay. A
            :class:`Latent`, of one start or stacked along a leading axis. Anything else is an observation as
            :meth:`Agent.act` takes it, which is encoded as an episode's first.
        horizon: dreams are truncated after as many steps; 0: never.
        ends: a dream terminates where the predicted probability that the task goes on is below this number; "sample" draws
            it. Without a discount head nothing terminates.
        step, best: of the checkpoint, see :func:`load_agent`.
        seed: of the latents' samples at the starts.

    Raises:
        ConfigError: the algorithm has no world model, there is no replay to start from, or a setting is wrong.
    """
    if not (ends == "sample" or (isinstance(ends, int | float) and 0 <= ends <= 1)):
        raise ConfigError(f"ends must be a probability, or 'sample', found {ends!r}")
    if horizon < 0:
        raise ConfigError(f"horizon must be at least 1, or 0 for none, found {horizon}")
    agent = run if isinstance(run, Agent) else load_agent(run, step, best=best)
    world = agent.algorithm.world
    if world is None:
        raise ConfigError(
            f"algorithm {agent.config.algorithm!r} has no world model to dream in: its Algorithm has no `world`"
        )
    starts = _starts(agent, world, None if isinstance(run, Agent) else RunDir(run), start, seed)
    return Dream(agent, world, _functional(agent, world, starts, horizon, ends), _begin)


def make_dream(run: str | os.PathLike[str] | Agent, **options: Any) -> FunctionalEnv:
    """The dream as pure functions, for loops on the device; see :func:`open_dream` for ``options``."""
    return open_dream(run, **options).env


def _begin(latent: Latent, key: Array, start: Array | int = 0) -> DreamState:
    return DreamState(latent, jax.random.key_data(key), jnp.zeros((), jnp.int32), jnp.asarray(start, jnp.int32))


def _functional(agent: Agent, world: World, starts: Latent, horizon: int, ends: Ends) -> FunctionalEnv:
    params: PyTree = jax.tree.map(jnp.asarray, agent.params)
    count = starts.deter.shape[0]

    def reset(key: Array) -> DreamState:
        key_start, key_dream = jax.random.split(key)
        index = jax.random.randint(key_start, (), 0, count)
        return _begin(jax.tree.map(lambda x: x[index], starts), key_dream, index)

    def step(state: DreamState, action: Array) -> tuple[DreamState, Array, Array]:
        # fold_in(key, k) is split(key, n)[k], whatever n is; a policy's key goes unused here, so an end is drawn from it.
        key_end, key_step = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.steps))
        latent = jax.tree.map(lambda x: x[0], world.step(params, _alone(state.latent), action[None], key_step))
        reward, goes_on = world.reward(params, latent), world.goes_on(params, latent)
        least = jax.random.uniform(key_end) if ends == "sample" else ends
        return DreamState(latent, state.key, state.steps + 1, state.start), reward, goes_on < least

    def observe(state: DreamState) -> Observation:
        return {key: x[0] for key, x in world.show(params, _alone(state.latent)).items()}

    pictures = [key for key, item in agent.spec.obs.items() if item.kind == "image"]
    seconds = agent.spec.step_seconds
    rate = 30.0 if seconds is None else 1.0 / (seconds * agent.config.env.action_repeat)
    film = (lambda state: _rgb(observe(state)[pictures[0]])) if pictures else None
    return FunctionalEnv(agent.spec, reset, step, observe, time_limit=horizon, frame_rate=rate, render=film)


def _alone(latent: Latent) -> Latent:
    return jax.tree.map(lambda x: x[None], latent)


def _rgb(image: Array) -> Array:
    """[H, W, C] as colours; of stacked frames the newest, in gray where there are no three channels for it."""
    return image[..., -3:] if image.shape[-1] % 3 == 0 else jnp.repeat(image[..., -1:], 3, axis=-1)


# --- where dreams begin ---------------------------------------------------------------------------------------------


def _starts(agent: Agent, world: World, rundir: RunDir | None, start: Any, seed: int) -> Latent:
    """Latents [N, ...], N >= 1."""
    key = jax.random.key(seed)
    if isinstance(start, Latent):
        given = jax.tree.map(lambda x: jnp.atleast_2d(jnp.asarray(x, jnp.float32)), start)
        like = jax.eval_shape(lambda: agent.algorithm.policy.init(1)).latent
        if [x.shape[1:] for x in given] != [x.shape[1:] for x in like] or given.deter.shape[0] != given.stoch.shape[0]:
            raise ConfigError(
                f"start: a Latent of this run has deter [{like.deter.shape[1]}] and stoch [{like.stoch.shape[1]}], or "
                f"several of each along a leading axis; found {start.deter.shape} and {start.stoch.shape}"
            )
        return given
    if start is not None:
        return encode(agent, world, start, key)
    if rundir is None:
        raise ConfigError("start: an agent has no replay to begin from; give start= an observation or a Latent")
    batch, is_last = _windows(agent, rundir, seed)
    latents = jax.jit(world.watch)(agent.params, batch, key)
    # A dream that begins where an episode ends has nowhere to go.
    return jax.tree.map(lambda x: x[~is_last], latents)


def encode(agent: Agent, world: World, observation: Any, key: Array) -> Latent:
    """What the model makes of an observation, as :meth:`Agent.act` takes it, as an episode's first: [lanes, ...]."""
    obs = agent.read(observation)
    shape = (1, len(next(iter(obs.values()))))  # as many as the agent has lanes
    flag, zero = jnp.ones(shape, bool), jnp.zeros(shape, jnp.float32)
    action = jnp.zeros((*shape, agent.spec.action.size), jnp.float32)
    batch = Batch({name: x[None] for name, x in obs.items()}, action, zero, flag, ~flag, ~flag)
    return jax.tree.map(lambda x: x[0], jax.jit(world.watch)(agent.params, batch, key))


def _windows(agent: Agent, rundir: RunDir, seed: int) -> tuple[Batch, np.ndarray]:
    """Windows of a run's replay, time-major, and where episodes end in them."""
    steps = checkpoint.steps(rundir.checkpoints)
    host = checkpoint.read_host(rundir.checkpoints, steps[-1]) if steps else {}
    advice = "give start= an observation or a Latent"
    if host.get("loop") != "host":
        raise ConfigError(f"{rundir.path}: dreams begin in the replay of runs on the host, and this has none; {advice}")
    manifest: Any = host.get("replay")
    require(manifest, disk.FORM, f"{rundir.path}: the replay's list of files")
    rows = manifest["state"]["total"] - manifest["oldest"]
    length = min(rows, agent.config.replay.batch_length)
    if length < 1:
        raise ConfigError(f"{rundir.path}: its replay is empty; {advice}")
    replay = HostReplay(
        agent.spec,
        capacity=rows * manifest["lanes"],
        lanes=manifest["lanes"],
        length=length,
        cross_episodes=True,
        kept=kept_layout(agent.algorithm),
        mapped=MappedRing(rundir.replay, reader=True) if manifest["files"] else None,
    )
    disk.load(replay, rundir.replay, manifest)
    batch = replay.gather(replay.sample_indices(np.random.default_rng(seed), _WINDOWS))
    return jax.tree.map(jnp.asarray, batch), np.asarray(batch.is_last)
