"""The loop over time of a recurrent model, differentiated in the way that the device is good at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, Literal

GPU_UNROLL = 5  # steps that follow one another share kernels where they can; more take longer to compile
PyTree = Any
Step = Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]


def scan_states(step: Step, init: PyTree, inputs: PyTree, *, unroll: int = 1) -> tuple[PyTree, PyTree]:
    """All states and outputs of a recurrence: ``z_t, y_t = step(z_{t-1}, x_t)``, t = 0 .. T - 1, with z_{-1} = init.

    Values and gradients are those of ``lax.scan``, to rounding. Its backward pass is chosen by the device: :func:`hoisted`
    on a GPU, where an operation costs more to start than to compute.

    Args:
        step: may close over weights; its gradient reaches them.
        init: z_{-1}; float arrays, where it is differentiated.
        inputs: x, arrays [T, ...].
        unroll: steps that are compiled into one iteration.

    Returns:
        z and y, [T, ...].
    """
    if on_gpu():
        return hoisted(step, init, inputs, unroll=max(unroll, GPU_UNROLL))
    return lax.scan(_stacking(step), init, inputs, unroll=unroll)[1]


def on_gpu() -> bool:
    """Whether what is traced now will run on a GPU."""
    return jax.default_backend() == "gpu"


def _stacking(step: Step) -> Step:
    """The step of a ``lax.scan`` that returns all states beside the outputs."""

    def body(state: PyTree, x: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        state, y = step(state, x)
        return state, (state, y)

    return body


def hoisted(step: Step, init: PyTree, inputs: PyTree, *, unroll: int = 1) -> tuple[PyTree, PyTree]:
    """:func:`scan_states` with as little in its loops as there can be.

    The forward loop stacks z and y alone. Backwards, all steps are linearised at once, from the stacked z; a loop then
    passes on ``dL/dz_t`` and nothing else, and the gradient of what ``step`` closes over is taken of all steps at once,
    where ``lax.scan`` adds it up step by step. The forward pass is computed once more for that, in large products.
    """
    run, shared = jax.closure_convert(step, init, _first(inputs))

    def forward(shared: Sequence[Any], init: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        return lax.scan(_stacking(lambda state, x: run(state, x, *shared)), init, inputs, unroll=unroll)[1]

    def keep(shared: Sequence[Any], init: PyTree, inputs: PyTree) -> tuple[Any, Any]:
        states, outputs = forward(shared, init, inputs)
        return (states, outputs), (shared, init, inputs, states)

    def backward(residuals: Any, gradients: tuple[PyTree, PyTree]) -> tuple[Any, PyTree, PyTree]:
        shared, init, inputs, states = residuals
        before = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest[:-1]]), init, states)
        leaves, tree = jax.tree.flatten(inputs)
        smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]  # keys and flags have no gradient
        floats, others = ([x for x, s in zip(leaves, smooth) if s is kind] for kind in (True, False))

        def pull(state: PyTree, floats: list[Any], others: list[Any]) -> Any:
            """What takes gradients by z_t and y_t to those by z_{t-1} and x_t."""
            here = lambda z, x: run(z, jax.tree.unflatten(tree, _merge(smooth, x, others)), *shared)  # noqa: E731
            # What a step computes beside its products is computed once more: kept, it would have to be stacked.
            here = jax.checkpoint(here, prevent_cse=False, policy=jax.checkpoint_policies.dots_saveable)
            return jax.vjp(here, state, floats)[1]

        moments = (before, floats, others)
        linear, restore = _linearised(pull, moments)

        def body(later: PyTree, moment: tuple[Any, ...]) -> tuple[PyTree, Any]:
            (of_state, of_output), part = moment
            of_state = jax.tree.map(jnp.add, later, of_state)
            earlier, of_input = restore(part)((of_state, of_output))
            return earlier, (of_state, of_input)

        none = jax.tree.map(jnp.zeros_like, init)
        of_init, (of_states, of_floats) = lax.scan(body, none, (gradients, linear), reverse=True, unroll=unroll)
        every = lambda shared: jax.vmap(lambda z, x: run(z, x, *shared))(before, inputs)  # noqa: E731
        (of_shared,) = jax.vjp(every, shared)[1]((of_states, gradients[1]))
        of_others = [np.zeros(x.shape, jax.dtypes.float0) for x in others]
        return of_shared, of_init, jax.tree.unflatten(tree, _merge(smooth, of_floats, of_others))

    function = jax.custom_vjp(forward)
    function.defvjp(keep, backward)
    return function(shared, init, inputs)


def _first(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[0], tree)


def _merge(choices: list[bool], chosen: list[Any], others: list[Any]) -> list[Any]:
    """One list of two: the next of ``chosen`` where a choice is true, else the next of ``others``."""
    of, rest = iter(chosen), iter(others)
    return [next(of) if choice else next(rest) for choice in choices]


def _linearised(pull: Callable[..., Any], moments: tuple[PyTree, ...]) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """``pull`` of every moment: what differs between moments, stacked, and what makes a moment's function of its part.

    The rest, such as weights, is the same for all, and is neither stacked nor computed more than once.
    """
    one = _first(moments)
    traced = jax.make_jaxpr(lambda moment: jax.tree.leaves(pull(*moment)))(one)
    structure = jax.tree.structure(jax.eval_shape(pull, *one))
    varies = _depend(traced.jaxpr)
    select = lambda moment, kind: [x for x, v in zip(jax.tree.leaves(pull(*moment)), varies) if v is kind]  # noqa: E731
    same = select(one, False)
    return (
        jax.vmap(lambda moment: select(moment, True))(moments),
        lambda part: jax.tree.unflatten(structure, _merge(varies, part, same)),
    )


def _depend(jaxpr: Jaxpr) -> list[bool]:
    """Of each output of a jaxpr, whether it depends on an input, and not on constants alone."""
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(not isinstance(x, Literal) and x in reached for x in equation.invars):
            reached.update(equation.outvars)
    return [not isinstance(x, Literal) and x in reached for x in jaxpr.outvars]
