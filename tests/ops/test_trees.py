"""Questions over pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.ops.trees import all_finite, select, tree_norm


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_number_anywhere_is_found(bad):
    tree = {"a": jnp.ones((2, 3)), "b": (jnp.zeros(4), jnp.arange(3)), "key": jax.random.key(0)}
    assert jax.jit(all_finite)(tree)
    assert not jax.jit(all_finite)({**tree, "b": (jnp.zeros(4).at[2].set(bad), jnp.arange(3))})
    assert not jax.jit(all_finite)({**tree, "a": jnp.ones((2, 3), jnp.bfloat16).at[1, 2].set(bad)})


def test_a_tree_without_floats_is_finite():
    assert all_finite({}) and all_finite({"n": jnp.arange(3), "k": jax.random.key(0)})


def test_select_takes_whole_trees_keys_included():
    old = {"w": jnp.arange(3.0), "n": jnp.int32(1), "key": jax.random.key(1)}
    new = {"w": jnp.full(3, jnp.nan), "n": jnp.int32(2), "key": jax.random.key(2)}
    chosen = jax.jit(select)(jnp.array(False), new, old)
    np.testing.assert_array_equal(chosen["w"], old["w"])
    assert chosen["n"] == 1 and chosen["n"].dtype == jnp.int32
    np.testing.assert_array_equal(jax.random.key_data(chosen["key"]), jax.random.key_data(old["key"]))
    chosen = jax.jit(select)(jnp.array(True), new, old)
    assert chosen["n"] == 2 and np.isnan(chosen["w"]).all()
    np.testing.assert_array_equal(jax.random.key_data(chosen["key"]), jax.random.key_data(new["key"]))


def test_norm():
    assert tree_norm({"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}) == 5.0
    assert tree_norm({}) == 0.0
