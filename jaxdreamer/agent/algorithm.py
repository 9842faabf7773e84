"""What a learning algorithm is to the loops: a record of pure functions, found by name or handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxdreamer.agent.world import World
from jaxdreamer.config import ConfigError
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.ops.trees import all_finite, select, tree_norm
from jaxdreamer.types import Batch, Metrics, Observation, PyTree, TrainState

Mode = Literal["explore", "sample", "greedy", "random"]
Parts = Literal["all", "world_model"]
"""As in ``run.start_parts``."""


class OpenLoop(NamedTuple):
    """Truth and model side by side, time-major; the first ``context`` entries of ``model`` are reconstructions."""

    truth: Observation  # per key [T, B, ...]: images uint8, vectors as the networks see them
    model: Observation  # likewise
    error: Observation  # per key float32 [T]: mean squared error, images in [0, 1]


def nothing_to_show(params: PyTree, batch: Batch, *, context: int, key: Array) -> OpenLoop:
    """The open loop of an algorithm without a model that predicts observations."""
    del params, batch, context, key
    return OpenLoop({}, {}, {})


def nothing_to_keep(state: PyTree) -> dict[str, Array]:
    """What an algorithm keeps of its policy's state that learns from entries alone."""
    del state
    return {}


def kept_layout(algorithm: Algorithm) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of what an algorithm keeps with one entry, by name."""
    shapes = jax.eval_shape(lambda: algorithm.keep(algorithm.policy.init(1)))
    return {key: (item.shape[1:], np.dtype(item.dtype)) for key, item in shapes.items()}


def take_over(state: TrainState, params: PyTree, aux: PyTree, parts: Parts) -> TrainState:
    """The fresh ``state`` with all that another run of an algorithm has learned, which has no parts to choose from."""
    if parts != "all":
        raise ConfigError(
            f"run.start_parts={parts}: this algorithm does not say which of its parameters these are: use all"
        )
    return state._replace(params=params, aux=aux)


class Policy(NamedTuple):
    """Acting, as pure functions for anyone's own ``jit``.

    ``act(params, state, obs, is_first, key, mode="explore") -> (action [B, A], state)``, where ``params`` is what
    :attr:`Algorithm.acting` returns, ``obs`` holds raw observations [B, ...] and ``is_first`` (bool [B]) is true where an
    episode begins. Mode ``"explore"`` samples and adds exploration, ``"sample"`` samples, ``"greedy"`` takes the
    distribution's mode, ``"random"`` draws uniformly without looking.
    """

    init: Callable[[int], PyTree]  # lanes B -> the state before any observation, leaves [B, ...]
    act: Callable[..., tuple[Array, PyTree]]
    # (params, state, obs) -> what act has drawn this state and its action from. A choice is one-hot whatever it was drawn
    # from, so only here is it seen that the networks gave no finite numbers. None: the state and the action say it all.
    drawn_from: Callable[[PyTree, PyTree, Observation], PyTree] | None = None
    # (params, state, obs, is_first, draw_latent, draw_action) -> (action, state): act with the two samples that these
    # functions of a distribution give, such as from noise at hand. None: the policy cannot be taken apart so, nor exported.
    decide: Callable[..., tuple[Array, PyTree]] | None = None


class Algorithm(NamedTuple):
    """An agent that learns from sequences of experience, as pure functions over a :class:`~jaxdreamer.types.TrainState`.

    The loops know nothing else of it: they collect with ``policy``, sample batches and call ``update``.
    """

    init: Callable[[Array], TrainState]  # key -> fresh state
    update: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]  # (state, batch [T, B, ...]) -> (state, metrics)
    policy: Policy
    acting: Callable[[PyTree, PyTree], PyTree]  # (state.params, state.aux) -> the params that ``policy`` acts with
    # (acting params, batch [T, B, ...], *, context, key) -> what the model predicts beside what happened
    open_loop: Callable[..., OpenLoop] = nothing_to_show
    # the policy's state after it decided on an action -> what replay keeps with the entry that the action leads to, leaves
    # [B, ...]; it comes back as ``Batch.kept``
    keep: Callable[[PyTree], dict[str, Array]] = nothing_to_keep
    # the world model by itself, for those who dream in it; None: there is none that predicts observations
    world: World | None = None
    # (fresh state, another run's params, its aux, parts) -> the state with these parts of what that one has learned
    begin: Callable[[TrainState, PyTree, PyTree, Parts], TrainState] = take_over


Make = Callable[..., Algorithm]
"""``make(config, spec, networks=None) -> Algorithm``; one that takes ``across=`` as well is trained on several devices."""


def commit(
    state: TrainState,
    metrics: Metrics,
    *,
    key: Array,
    params: PyTree,
    optimizers: PyTree,
    aux: PyTree,
    across: Across = ALONE,
) -> tuple[TrainState, Metrics]:
    """End an update: take over what it computed where all of its losses and gradient norms are finite, else nothing of it.

    Every update is counted in ``updates``, one that is not taken over also in ``skipped``; ``metrics`` (scalars by name)
    gain ``skipped`` and ``skipped_in_a_row``, which lets a loop stop on a run of them. ``key`` is the next update's.

    ``metrics`` are means over this device's part of the batch and become means over all of it: what is not finite on one
    device is skipped on all.
    """
    metrics = across.mean(metrics)
    # A norm is not finite exactly where one of its gradients is not (or is too large to square, as bad a sign).
    good = all_finite({name: value for name, value in metrics.items() if name.startswith(("loss/", "grad_norm/"))})
    params, optimizers, aux = select(good, (params, optimizers, aux), (state.params, state.optimizers, state.aux))
    bad = 1 - good.astype(jnp.int32)
    in_a_row = jnp.where(good, 0, state.skipped_in_a_row + 1)
    state = TrainState(params, optimizers, aux, state.updates + 1, state.skipped + bad, in_a_row, key)
    metrics = metrics | {"skipped": state.skipped, "skipped_in_a_row": in_a_row}
    return state, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}


def descend(
    optimizers: Mapping[str, optax.GradientTransformation],
    loss: Callable[[PyTree], tuple[Array, Any]],
    params: dict[str, PyTree],
    states: Mapping[str, PyTree],
    across: Across = ALONE,
) -> tuple[dict[str, PyTree], dict[str, PyTree], Any, Metrics]:
    """One step of each part of ``params`` down the loss, each by the optimizer of its name.

    The loss is a mean over this device's part of the batch; the gradient is that of the mean over all.

    Returns new parameters, optimizer states, what ``loss`` returns beside the loss, and ``grad_norm/NAME`` of each part.
    """
    (_, output), grads = jax.value_and_grad(loss, has_aux=True)(params)
    grads = across.mean(grads)
    found = {name: optimizers[name].update(grads[name], states[name], params[name]) for name in params}
    new = {name: optax.apply_updates(params[name], updates) for name, (updates, _) in found.items()}
    norms = {f"grad_norm/{name}": tree_norm(grads[name]) for name in params}
    return new, {name: state for name, (_, state) in found.items()}, output, norms


def fresh(params: PyTree, optimizers: PyTree, aux: PyTree, key: Array) -> TrainState:
    """The state before the first update."""
    zero: Any = jnp.zeros((), jnp.int32)
    return TrainState(params, optimizers, aux, zero, zero, zero, key)
