"""An agent's decision as one pure function of named arrays, in the environment's units: what is exported.

Everything that goes in or comes out is a :class:`Port`, an array by name with a leading batch axis. The recurrent state is
handed back and forth by the caller, and what is drawn at random comes in as noise, so equal inputs give equal outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithm import Policy
from jaxdreamer.deploy.agent import Agent
from jaxdreamer.envs.host.actions import ActionLeaf
from jaxdreamer.envs.host.observations import Leaf, vector_scale
from jaxdreamer.envs.interpreter.gym_api import describe_space
from jaxdreamer.errors import ConfigError
from jaxdreamer.ops.distributions import (
    Categoricals,
    Joint,
    Normal,
    OneHot,
    TanhNormal,
    TruncatedNormal,
    policy_mode_from_noise,
    policy_mode_noise,
)
from jaxdreamer.types import Array, ArraySpec, PyTree

ActsBy = Literal["greedy", "sample"]

# By what each distribution makes samples from: the name of numpy's generator method, and the noise that stands for none.
_NOISE: dict[Any, tuple[str, float]] = {
    Normal: ("standard_normal", 0.0),
    TanhNormal: ("standard_normal", 0.0),
    TruncatedNormal: ("uniform", 0.5),
    OneHot: ("gumbel", 0.0),
    Categoricals: ("gumbel", 0.0),
}
_MOST_INTEGERS = 2**24  # consecutive ones that a float32 holds


class Port(NamedTuple):
    """One array that goes in or comes out, without its leading batch axis, and what a reader must know of it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    about: dict[str, Any]  # JSON-ready

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype, **self.about}


class PolicyStep(NamedTuple):
    """One decision: ``function(inputs) -> outputs``, dictionaries of arrays [B, *shape] by the names of their ports."""

    function: Callable[[dict[str, Array]], dict[str, Array]]
    observations: list[Port]
    is_first: Port
    state: list[Port]  # inputs; the output of each is called "next." and its name
    noise: list[Port]
    actions: list[Port]

    @property
    def inputs(self) -> list[Port]:
        """All that goes in, in order."""
        return [*self.observations, self.is_first, *self.state, *self.noise]

    @property
    def outputs(self) -> list[Port]:
        """All that comes out, in order."""
        return [*self.actions, *(port._replace(name=f"next.{port.name}") for port in self.state)]


def policy_step(agent: Agent, acts_by: ActsBy = "greedy") -> PolicyStep:
    """What ``agent.act`` computes, with its random numbers as inputs.

    Args:
        agent: the trained agent; its parameters become constants of the function.
        acts_by: ``"greedy"`` for its best action, as ``agent.act(obs)`` gives it, ``"sample"`` for a sample of its policy.

    Raises:
        ConfigError: the algorithm's policy cannot be taken apart, or an action has more integers than a float32 holds.
    """
    if acts_by not in ("greedy", "sample"):
        raise ConfigError(f"acts_by must be greedy or sample, found {acts_by!r}")
    policy = agent.algorithm.policy
    if policy.decide is None:
        raise ConfigError(
            f"algorithm {agent.config.algorithm!r} cannot be exported: its Policy has no `decide`, which acts from noise "
            "at hand; give it one, as jaxdreamer.make_policy does"
        )
    readers = _observation_readers(agent)
    writers = _action_writers(agent)
    noises = _noises(policy, agent, acts_by)
    tree = policy.init(1)
    paths = [f"state{jax.tree_util.keystr(path)}" for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    first = [np.asarray(leaf)[0] for leaf in jax.tree.leaves(tree)]
    state = [
        Port(name, leaf.shape, str(leaf.dtype), {"initial": _constant(name, leaf), "output": f"next.{name}"})
        for name, leaf in zip(paths, first)
    ]
    params = jax.tree.map(np.asarray, agent.params)

    def function(inputs: dict[str, Array]) -> dict[str, Array]:
        obs = {key: read(inputs[port.name]) for key, (port, read) in readers.items()}
        old = jax.tree.unflatten(jax.tree.structure(tree), [inputs[name] for name in paths])
        vector, new = policy.decide(  # type: ignore[misc]
            jax.tree.map(jnp.asarray, params),
            old,
            obs,
            inputs["is_first"],
            lambda dist: _sample(dist, [inputs[port.name] for port in noises["latent"]], "sample"),
            lambda dist: _sample(dist, [inputs[port.name] for port in noises["action"]], acts_by),
        )
        actions = {port.name: write(vector) for port, write in writers}
        return actions | {f"next.{name}": leaf for name, leaf in zip(paths, jax.tree.leaves(new))}

    about = {
        "meaning": "true where an episode begins: the state that is given is ignored, and begins from its initial one"
    }
    return PolicyStep(
        function,
        [port for port, _ in readers.values()],
        Port("is_first", (), "bool", about),
        state,
        noises["latent"] + noises["action"],
        [port for port, _ in writers],
    )


def _constant(name: str, leaf: np.ndarray) -> Any:
    """The one number that an initial state is made of."""
    if leaf.size and (leaf != leaf.flat[0]).any():
        raise ConfigError(f"{name} begins with numbers that differ; an exported state begins with equal ones")
    return leaf.flat[0].item() if leaf.size else 0


# --- noise ----------------------------------------------------------------------------------------------------------


def _noises(policy: Policy, agent: Agent, acts_by: ActsBy) -> dict[str, list[Port]]:
    """The ports of what the latent and the action are drawn from: a decision is traced to see them."""
    found: dict[str, list[Port]] = {}

    def look(name: str, greedy: bool) -> Callable[[Any], Array]:
        def draw(dist: Any) -> Array:
            found[name] = _noise_ports(dist, f"noise.{name}", greedy)
            return dist.mean() if name == "latent" else dist.mode()

        return draw

    def decide(obs: PyTree) -> Any:
        state, first = jax.tree.map(jnp.asarray, policy.init(1)), jnp.ones((1,), bool)
        draws = look("latent", False), look("action", acts_by == "greedy")
        return policy.decide(agent.params, state, obs, first, *draws)  # type: ignore[misc]

    jax.eval_shape(
        decide, {key: jax.ShapeDtypeStruct((1, *item.shape), item.dtype) for key, item in agent.spec.obs.items()}
    )
    return found


def _noise_ports(dist: Any, name: str, greedy: bool) -> list[Port]:
    if isinstance(dist, Joint):
        return [port for i, part in enumerate(dist.parts) for port in _noise_ports(part, f"{name}.{i}", greedy)]
    if type(dist) not in _NOISE:
        raise ConfigError(f"{name}: a {type(dist).__name__} cannot be exported; supported are {_listed(_NOISE)}")
    noise = policy_mode_noise(dist, jax.random.key(0)) if greedy else dist.noise(jax.random.key(0))
    if isinstance(noise, tuple):
        return []
    shape = noise.shape[:1] + noise.shape[2:] if greedy else noise.shape[1:]  # of many samples, the batch comes second
    drawn, still = _NOISE[type(dist)]
    about = {"distribution": drawn, "still": still}
    if greedy:
        about["meaning"] = f"of {shape[0]} samples the likeliest is the action; of many at the bounds, rounding chooses"
    return [Port(name, shape, "float32", about)]


def _listed(kinds: Any) -> str:
    return ", ".join(kind.__name__ for kind in kinds)


def _sample(dist: Any, noises: list[Array], acts_by: ActsBy) -> Array:
    """The sample of a distribution that its ports' noise makes."""
    left = iter(noises)
    greedy = acts_by == "greedy"

    def of(dist: Any) -> Any:
        if isinstance(dist, Joint):
            return tuple(of(part) for part in dist.parts)
        if not greedy:
            return next(left)
        return jnp.moveaxis(next(left), 1, 0) if isinstance(dist, TanhNormal) else ()

    return policy_mode_from_noise(dist, of(dist)) if greedy else dist.from_noise(of(dist))


# --- observations ---------------------------------------------------------------------------------------------------


def _observation_readers(agent: Agent) -> dict[str, tuple[Port, Callable[[Array], Array]]]:
    """By key of the spec: the port, and what makes the agent's array of the environment's."""
    leaves = {leaf.key: leaf for leaf in agent.observation_leaves}
    return {key: _reader(key, item, leaves.get(key)) for key, item in agent.spec.obs.items()}


def _reader(key: str, spec: ArraySpec, leaf: Leaf | None) -> tuple[Port, Callable[[Array], Array]]:
    about: dict[str, Any] = {"key": key, "kind": spec.kind, "units": "the environment's own"}
    if leaf is not None:
        about |= {"path": list(leaf.path), "space": describe_space(leaf.space)}
    port = Port(f"observation.{key}", spec.shape, spec.dtype, about)
    if spec.kind == "image":
        about["units"] = "levels from 0 to 255, rows from the top, channels last"
        about["made_by"] = (
            f"a picture of another size is scaled to {spec.shape[0]} x {spec.shape[1]} by averaging areas"
            + ("" if leaf is None else "; the space's bounds become 0 and 255, rounded; several frames are channels")
        )
        return port, lambda x: x
    if spec.kind == "discrete":
        start = 0 if leaf is None else np.asarray(getattr(leaf.space, "start", 0), np.int32)
        about["classes"] = spec.classes
        return port, lambda x: x - start
    scale = None if leaf is None else vector_scale(leaf.space)
    if scale is None:
        return port, lambda x: x
    origin, width = (np.asarray(part, np.float32) for part in scale)
    return port, lambda x: (x - origin) / width


# --- actions --------------------------------------------------------------------------------------------------------


def _action_writers(agent: Agent) -> list[tuple[Port, Callable[[Array], Array]]]:
    """The ports of the action's arrays, and what makes each of the agent's vectors [B, A]."""
    if agent.actions is None:
        about = {
            "units": "the agent's: numbers in [-1, 1], choices one-hot, parts side by side",
            "parts": [{"kind": part.kind, "size": part.size} for part in agent.spec.action.parts],
        }
        return [(Port("action", (agent.spec.action.size,), "float32", about), lambda vector: vector)]
    found, start = [], 0
    for leaf in agent.actions.leaves:
        found.append(_writer(leaf, slice(start, start + leaf.size)))
        start += leaf.size
    return found


def _writer(leaf: ActionLeaf, where: slice) -> tuple[Port, Callable[[Array], Array]]:
    about: dict[str, Any] = {
        "path": list(leaf.path), "units": "the environment's own", "environment_dtype": str(leaf.dtype)
    }  # fmt: skip
    if leaf.choices:
        about |= {"kind": "choice", "choices": list(leaf.choices), "first": list(leaf.first)}
        ends = np.cumsum(leaf.choices)

        def choose(vector: Array) -> Array:
            blocks = [vector[:, where][:, end - size : end] for end, size in zip(ends.tolist(), leaf.choices)]
            chosen = jnp.stack([jnp.argmax(block, axis=-1) for block in blocks], axis=-1).astype(jnp.int32)
            return (chosen + np.array(leaf.first, np.int32)).reshape(vector.shape[0], *leaf.shape)

        return Port(leaf.key, leaf.shape, "int32", about), choose
    about |= {"kind": "continuous", "low": list(leaf.low), "high": list(leaf.high)}
    whole = leaf.dtype.kind != "f"
    if whole and max(map(abs, (*leaf.low, *leaf.high))) > _MOST_INTEGERS:
        raise ConfigError(
            f"{leaf.key}: integers beyond {_MOST_INTEGERS:,} cannot be exported, found {leaf.low} to {leaf.high}"
        )
    low, high = np.array(leaf.low, np.float32), np.array(leaf.high, np.float32)

    def stretch(vector: Array) -> Array:
        share = 0.5 * (1.0 + vector[:, where])
        value = jnp.asarray(low + jnp.round(share * (high - low)) if whole else (1.0 - share) * low + share * high)
        value = jnp.clip(value, low, high).reshape(vector.shape[0], *leaf.shape)
        return value.astype(jnp.int32) if whole else value

    return Port(leaf.key, leaf.shape, "int32" if whole else "float32", about), stretch
