"""A trained agent that acts, from its run's folder alone: no replay, no optimizers, not the environment's library."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithm import Algorithm, Make
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.deploy import pretrained
from jaxdreamer.devices import devices
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.images import resize, to_rgb
from jaxdreamer.envs.host.observations import Leaf, ObservationMap, found, read_discrete, read_vector, split
from jaxdreamer.envs.host.restoring import ObservationWriter
from jaxdreamer.envs.host.spaces import read_spaces, read_spec
from jaxdreamer.envs.interpreter.gym_api import kind_of
from jaxdreamer.nets.networks import Networks
from jaxdreamer.ops.trees import all_finite
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import checkpoints_of, naming_rewrite, read_config, warn_if_edited
from jaxdreamer.types import Array, ArraySpec, EnvSpec, Observation, PyTree

LARGE = 1e6  # an observation from here on may overflow in the networks


def load_agent(
    logdir: str | os.PathLike[str],
    step: int | None = None,
    *,
    best: bool = False,
    lanes: int | None = None,
    seed: int = 0,
    algorithm: Make | None = None,
    networks: Networks | None = None,
    revision: str | None = None,
) -> Agent:
    """The agent of a run, ready to act.

    Args:
        logdir: of the run, or what :meth:`Agent.save_pretrained` wrote. Only ``config.json``, ``spec.json`` and
            ``checkpoints/`` are read, and nothing that they name is run. ``owner/name``, where no such folder is here, is a
            repository on the Hugging Face hub (extra ``hub``), which is kept in its cache.
        step: of the checkpoint, as its folder is named; the newest undamaged one by default.
        best: the checkpoint that ``run.keep_best`` kept, instead of the newest.
        lanes: episodes played side by side, see :meth:`Agent.act`; None is one, without a leading axis.
        seed: of the latents' and the exploration's random numbers.
        algorithm, networks: what the run was given as such; see :func:`jaxdreamer.train_agent`.
        revision: a branch, tag or commit of the repository, which ``logdir`` names then.

    Raises:
        ConfigError: there is no run. HubError: the hub gave none.
        CheckpointMissing: it has no checkpoint, or none of ``step``. CheckpointDamaged: there is no undamaged one.
    """
    rundir = RunDir(pretrained.fetched(logdir, revision))
    config = read_config(rundir)
    with naming_rewrite(rundir):
        spec, spaces = read_spec(rundir.spec), read_spaces(rundir.spec)
    devices()
    made = make_algorithm(config, spec, networks, make=algorithm)
    params, host, step = checkpoint.restore_acting(checkpoints_of(rundir, best), made, step)
    warn_if_edited(rundir, config, host)
    agent = Agent(
        config, spec, params, spaces=spaces or None, step=step, lanes=lanes, seed=seed, algorithm=algorithm,
        networks=networks,
    )  # fmt: skip
    agent.origin, agent.best = rundir.path, best
    return agent


class Agent:
    """Acts in an environment's own units, and remembers what it has seen of each episode.

    ::

        agent = jaxdreamer.load_agent("runs/pendulum")
        obs, info = env.reset()
        action = agent.act(obs, first=True)

    Every lane has its own random numbers, derived from the seed and the lane's number: what a lane does depends
    neither on how many others there are nor on what they see, and lane 0 does what an agent without lanes does (up to
    the rounding of a wider matrix product).
    """

    def __init__(
        self,
        config: Config,
        spec: EnvSpec,
        params: PyTree,
        *,
        spaces: Mapping[str, Any] | None = None,
        step: int | None = None,
        lanes: int | None = None,
        seed: int = 0,
        algorithm: Make | None = None,
        networks: Networks | None = None,
    ) -> None:
        """From parameters at hand; :func:`load_agent` reads them from a run.

        ``spaces`` holds the environment's gymnasium spaces as :attr:`jaxdreamer.envs.host.agent_env.AgentEnv.spaces` gives
        them. Without them the agent takes and gives agent units: arrays as in ``spec``, actions float32 [A].
        """
        if lanes is not None and lanes < 1:
            raise ConfigError(f"lanes must be at least 1, or None for one without a leading axis, found {lanes}")
        spaces = spaces or {}
        self.config, self.spec, self.params, self.step, self.lanes = config, spec, params, step, lanes
        self.observation_space, self.action_space = spaces.get("observation"), spaces.get("action")
        # The first two hold pure functions, for anyone's own jit.
        programs = _programs if networks is None else _programs.__wrapped__  # a user's networks may not be hashable
        self.algorithm, self._act = programs(config, spec, algorithm, networks)
        self._count = 1 if lanes is None else lanes
        self._observations = _ObservationReader(config, spec, self.observation_space)
        self.actions: ActionMap | None = None
        """Between the agent's actions and the environment's; None: they are the same."""
        if self.action_space is not None:
            self.actions = ActionMap(self.action_space, config.env.action_bound)
        self.origin: Path | None = None
        """The folder that it was loaded from."""
        self.best = False
        """Whether it is that run's best checkpoint, of those that were kept, and not one of the newest."""
        self.observation_leaves = self._observations.leaves
        """How the arrays of ``spec`` are read that are members of ``observation_space``."""
        self._check_spaces()
        self.reset(seed)

    def _check_spaces(self) -> None:
        """ConfigError where the spaces do not match the spec."""
        for key, read in self._observations.own.items():
            if self.spec.obs.get(key) != read:
                raise ConfigError(
                    f"observation {key!r} is {read} in its space, and {self.spec.obs.get(key)} in the spec"
                )
        if self.actions is not None and self.actions.spec != self.spec.action:
            raise ConfigError(f"the action is {self.actions.spec} in its space, and {self.spec.action} in the spec")

    def reset(self, seed: int | None = None) -> None:
        """Forget all episodes: the next call begins new ones. A seed restarts the random numbers."""
        self.state: PyTree = jax.tree.map(jnp.asarray, self.algorithm.policy.init(self._count))
        self._fresh = True
        if seed is not None:
            self._keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(self._count))

    def act(self, obs: Any, first: Any = False, explore: bool = False) -> Any:
        """The action for an observation, both in the environment's units.

        Args:
            obs: what the environment returned, an element of ``observation_space``. Where the run saw rendered frames
                only: the frame, uint8 [H, W, 3] of any size, or a dictionary with it under ``"image"``. Where it saw
                both: the observation's dictionary with the frame added under ``"image"``; an observation that is no
                dictionary goes under ``"state"`` there. With lanes everything is stacked along a leading axis, as
                gymnasium's vector environments do it (for a Dict, each of its arrays).
            first: whether this begins an episode; with lanes, a bool for each or one for all. The first call, and the
                first after :meth:`reset`, always begins one.
            explore: sample and add the run's exploration, instead of the best action.

        Returns:
            An element of ``action_space``: an array of its dtype and shape, an ``int`` for Discrete, and so on. With
            lanes, stacked along a leading axis like the observations.

        Raises:
            EnvError: an observation of another space than the run's, not finite, or too large for the networks; it says
                what was expected and found, and in which lane. The agent's state is unchanged then.
        """
        arrays = self.read(obs)
        action, state, keys, sound = self._act(
            self.params, self.state, self._keys, arrays, self._first(first), mode="explore" if explore else "greedy"
        )
        if not np.all(sound):
            where = "" if self.lanes is None else f" in lane {np.argmin(sound)}"
            raise EnvError(f"the networks' answer is not finite{where}: {_largest(arrays)}")
        vectors = np.asarray(action)
        self.state, self._keys, self._fresh = state, keys, False
        if self.actions is None:
            return vectors[0] if self.lanes is None else vectors
        values = [self.actions.to_env(vector) for vector in vectors]
        if self.lanes is not None:
            return _stack(values)
        return int(values[0]) if isinstance(values[0], np.integer) else values[0]

    def read(self, obs: Any) -> Observation:
        """An observation, as :meth:`act` takes it, as the agent's arrays, with a leading axis. EnvError as there."""
        arrays = self._observations(obs, self.lanes)
        _check_finite(arrays, self.lanes)
        return arrays

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write settings, spec, weights and a model card with the run's figures to ``folder``, which is returned.

        :func:`load_agent`, ``jaxdreamer evaluate`` and ``train --start`` take it as they take a run. The weights are read
        from the run's folder once more: all of them, the critic's included; no optimizer, no replay.

        Raises:
            ConfigError: the folder holds something else, or this agent was not loaded from a run.
            CheckpointMissing: the run goes on, and no longer has this checkpoint.
        """
        return pretrained.save(self, folder)

    def push_to_hub(self, name: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Put what :meth:`save_pretrained` writes into ``owner/name`` on the Hugging Face hub (extra ``hub``).

        The repository is made where there is none; ``private`` says for whom. ``token`` is that of ``hf auth login`` by
        default. Returns the address of the commit.

        Raises:
            HubError: the hub cannot be reached, or refuses. MissingExtra: its library is not installed.
        """
        return pretrained.push(self, name, private=private, token=token)

    from_pretrained = staticmethod(load_agent)

    def observation_writer(self) -> ObservationWriter:
        """What makes observations, as :meth:`act` takes them for one lane, of the agent's arrays."""
        return ObservationWriter(self.spec, self.observation_space, self.observation_leaves, self._observations.key)

    def _first(self, first: Any) -> np.ndarray:
        flags = np.asarray(first)
        if flags.shape not in ((), (self._count,) if self.lanes is not None else ()):
            wanted = "one bool" if self.lanes is None else f"one bool, or one for each of {self.lanes} lanes"
            raise EnvError(f"first: expected {wanted}, found {found(first)}")
        return np.broadcast_to(flags.astype(bool) | self._fresh, (self._count,))

    def __repr__(self) -> str:
        """What was loaded."""
        lanes = "" if self.lanes is None else f", {self.lanes} lanes"
        return f"Agent({self.config.env.task}, step {self.step}{lanes})"


@lru_cache(maxsize=16)  # another checkpoint of a run, or another seed, needs no other program
def _programs(
    config: Config, spec: EnvSpec, make: Make | None, networks: Networks | None
) -> tuple[Algorithm, Callable[..., Any]]:
    """The algorithm, and its ``policy.act`` with a key for each lane: (params, state, keys [B], obs, first, mode).

    It returns action, state, keys, and for each lane whether these, and the distributions they were drawn from, are finite.
    """
    algorithm = make_algorithm(config, spec, networks, make=make)
    policy = algorithm.policy

    def act(params: PyTree, state: PyTree, keys: Array, obs: Observation, first: Array, mode: str) -> Any:
        def one(state: PyTree, key: Array, obs: Observation, first: Array) -> Any:
            key, key_act = jax.random.split(key)
            state, obs = jax.tree.map(lambda x: x[None], (state, obs))
            action, state = policy.act(params, state, obs, first[None], key_act, mode=mode)
            # XLA merges this with the computation inside act.
            drawn_from = policy.drawn_from(params, state, obs) if policy.drawn_from else ()
            sound = all_finite((state, action, drawn_from))
            return action[0], jax.tree.map(lambda x: x[0], state), key, sound

        return jax.vmap(one)(state, keys, obs, first)

    return algorithm, jax.jit(act, static_argnames="mode")


class _ObservationReader:
    """An environment's observations to the arrays of a spec, with a leading axis of lanes.

    :class:`ObservationMap` reads the members of the observation space; the other keys of the spec (a rendered frame, or
    every key where there is no space) are looked up by name.
    """

    def __init__(self, config: Config, spec: EnvSpec, space: Any) -> None:
        self._own = None if space is None else ObservationMap(space, config.env.image_size, config.env.exclude)
        self.own = read = {} if self._own is None else self._own.spec
        self._given = {key: item for key, item in spec.obs.items() if key not in read}
        # The key, beside a frame, of an observation that is no dictionary.
        self._has_keys = kind_of(space) == "Dict"
        self.key = "state" if self._has_keys or kind_of(space) == "Tuple" else next(iter(read), "state")

    @property
    def leaves(self) -> list[Leaf]:
        return [] if self._own is None else self._own.leaves

    def __call__(self, obs: Any, lanes: int | None) -> Observation:
        arrays: Observation = {}
        if self._own is not None:
            own = obs
            if not self._has_keys and (self._given or isinstance(obs, Mapping)):
                own = self._entry(obs, self.key)
            read = self._own(own) if lanes is None else self._own.stacked(own, lanes)
            arrays |= read if lanes is not None else {key: array[None] for key, array in read.items()}
        for key, spec in self._given.items():
            bare = self._own is None and len(self._given) == 1 and not isinstance(obs, Mapping)
            value = obs if bare else self._entry(obs, key)
            items = [value] if lanes is None else split(key, value, lanes)
            arrays[key] = np.stack([_read(key, spec, item) for item in items])
        return arrays

    def _entry(self, obs: Any, key: str) -> Any:
        if isinstance(obs, Mapping) and key in obs:
            return obs[key]
        own = [] if self._own is None else list(self._own.spec) if self._has_keys else [self.key]
        wanted = [*own, *self._given]
        raise EnvError(f"observation {key!r}: expected a dictionary with the keys {wanted}, found {found(obs)}")


def _read(key: str, spec: ArraySpec, value: Any) -> np.ndarray:
    """One array in agent units; images of any size are resized."""
    try:
        if spec.kind == "image":
            array = _read_image(key, spec, value)
        elif spec.kind == "discrete":
            array = read_discrete(value, key, 0, spec.classes)
        else:
            array = read_vector(value)
    except (TypeError, ValueError, OverflowError):
        raise EnvError(f"observation {key!r}: expected {spec.dtype} {spec.shape}, found {found(value)}") from None
    if array.shape != spec.shape:
        raise EnvError(f"observation {key!r}: expected shape {spec.shape}, found {array.shape}")
    return array


def _read_image(key: str, spec: ArraySpec, value: Any) -> np.ndarray:
    image = np.asarray(value)
    image = image[..., None] if image.ndim == 2 else image
    try:
        if spec.shape[2] == 3:
            image = to_rgb(image)
    except EnvError as error:
        raise EnvError(f"observation {key!r}: {error}") from None
    if image.dtype != np.uint8 or image.ndim != 3:
        raise EnvError(
            f"observation {key!r}: expected uint8 [H, W, {spec.shape[2]}], found {image.dtype} {list(image.shape)}"
        )
    return resize(image, (spec.shape[0], spec.shape[1]))


def _check_finite(arrays: Observation, lanes: int | None) -> None:
    """EnvError, naming key and lane, where observations [B, ...] are not finite: one would spoil the state for good."""
    for key, array in arrays.items():
        bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if bad.size:
            where = "" if lanes is None else f" in lane {bad[0]}"
            raise EnvError(f"observation {key!r} holds numbers that are not finite{where}: {array[bad[0]]}")


def _largest(arrays: Observation) -> str:
    """A likely cause of an answer that is not finite, for finite observations."""
    key, size = max(
        ((key, float(np.abs(array.astype(np.float64)).max())) for key, array in arrays.items()), key=itemgetter(1)
    )
    if size > LARGE:
        return f"observation {key!r} holds {size:.3g}, which is too large for the networks"
    return "the observations are finite; look at the parameters"


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _stack([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(_stack(list(items)) for items in zip(*values))
    return np.stack(values)
