"""Activations by name. Where the derivative is a function of the output, only the output is saved for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdreamer.types import Array

# Each function, and its derivative as a function of the output. The backward pass then needs only the output, which the next
# layer keeps anyway; JAX's own save the input's sign and the exponential as well: at V1's sizes 400 MB more on a CPU.
BY_RESULT: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "linear": (lambda x: x, jnp.ones_like),
    "relu": (lambda x: jnp.maximum(x, 0), lambda y: (y > 0).astype(y.dtype)),
    "elu": (lambda x: jax.nn.elu(x), lambda y: jnp.where(y > 0, 1, y + 1)),
    "tanh": (jnp.tanh, lambda y: 1 - y * y),
}


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function of that name, to be differentiated in reverse; ValueError names the choices."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; there are: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _by_result(name: str) -> Callable[[Array], Array]:
    function, slope = BY_RESULT[name]

    def forward(x: Array) -> tuple[Array, Array]:
        y = function(x)
        return y, y

    differentiable = jax.custom_vjp(function)
    differentiable.defvjp(forward, lambda y, dy: (dy * slope(y),))
    return differentiable


def recomputed(function: Callable[..., Array]) -> Callable[..., Array]:
    """The same function of arrays, of which the backward pass keeps the arguments alone and computes the rest once more.

    In a scan each number that is kept has to be stacked, by an operation of its own.
    """
    differentiable = jax.custom_vjp(function)
    differentiable.defvjp(lambda *x: (function(*x), x), lambda x, dy: jax.vjp(function, *x)[1](dy))
    return differentiable


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": _by_result("relu"),
    "elu": _by_result("elu"),
    "silu": recomputed(lambda x: jax.nn.silu(x)),
    "tanh": _by_result("tanh"),
}
