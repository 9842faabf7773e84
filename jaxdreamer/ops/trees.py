"""Questions and choices over whole pytrees of arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

PyTree = Any


def all_finite(tree: PyTree) -> Array:
    """Whether no floating-point number in the tree is NaN or infinite: bool []. Other leaves are passed over."""
    floats = [leaf for leaf in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in floats]
    return jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)


def select(pred: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Take one of two trees as a whole: ``on_true`` where ``pred`` (bool []) holds, else ``on_false``.

    Values come through untouched, so a tree full of NaN that is not taken leaves no trace. The trees have one
    structure, the same shapes and dtypes; typed keys are welcome.
    """
    return jax.tree.map(lambda a, b: jnp.where(pred, a, b), on_true, on_false)


def tree_norm(tree: PyTree) -> Array:
    """Euclidean norm of all numbers of the tree as one vector: ``sqrt(sum x^2)``, float32 []; zero for no leaves."""
    squares = [jnp.sum(jnp.square(jnp.asarray(leaf, jnp.float32))) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(jnp.sum(jnp.stack(squares))) if squares else jnp.asarray(0.0, jnp.float32)
