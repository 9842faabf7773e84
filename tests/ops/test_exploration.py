"""Exploration noise goes where it belongs, in the right amount."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.ops.exploration import additive_gaussian, epsilon_greedy, explore
from jaxdreamer.types import ActionPart, ActionSpec

HYBRID = ActionSpec((ActionPart("discrete", 3), ActionPart("continuous", 2), ActionPart("discrete", 4)))


def hybrid_actions(count):
    rng = np.random.default_rng(0)
    return jnp.asarray(
        np.concatenate(
            [
                np.eye(3)[rng.integers(3, size=count)],
                rng.uniform(-1, 1, size=(count, 2)),
                np.eye(4)[rng.integers(4, size=count)],
            ],
            axis=-1,
        ),
        jnp.float32,
    )


def test_gaussian_has_the_amount_and_stays_inside():
    noisy = np.asarray(additive_gaussian(jax.random.key(0), jnp.zeros((4000, 2)), 0.1))
    assert abs(noisy.std() - 0.1) < 0.005 and abs(noisy.mean()) < 0.005
    edge = np.asarray(additive_gaussian(jax.random.key(0), jnp.ones((4000, 2)), 0.3))
    assert edge.max() == 1.0 and 0.4 < (edge == 1.0).mean() < 0.6
    wild = np.asarray(additive_gaussian(jax.random.key(0), jnp.zeros((100, 2)), 50.0))
    assert wild.min() == -1.0 and wild.max() == 1.0


def test_epsilon_greedy_replaces_that_share_uniformly():
    action = jnp.tile(jnp.array([0.0, 1.0, 0.0, 0.0]), (8000, 1))
    changed = np.asarray(epsilon_greedy(jax.random.key(0), action, 0.4))
    assert set(np.unique(changed)) == {0.0, 1.0}
    assert (changed.sum(-1) == 1).all()
    np.testing.assert_allclose(changed.mean(0), [0.1, 0.7, 0.1, 0.1], atol=0.02)
    everything = np.asarray(epsilon_greedy(jax.random.key(0), action, 1.0))
    np.testing.assert_allclose(everything.mean(0), 0.25, atol=0.025)


def test_no_amount_changes_nothing():
    action = hybrid_actions(50)
    compiled = jax.jit(explore, static_argnums=2)
    np.testing.assert_array_equal(compiled(jax.random.key(0), action, HYBRID, gaussian=0.0, epsilon=0.0), action)


def test_each_part_gets_its_own_kind_of_noise():
    action = hybrid_actions(400)
    only_gaussian = np.asarray(explore(jax.random.key(0), action, HYBRID, gaussian=0.3, epsilon=0.0))
    np.testing.assert_array_equal(only_gaussian[:, [0, 1, 2, 5, 6, 7, 8]], action[:, jnp.array([0, 1, 2, 5, 6, 7, 8])])
    assert (only_gaussian[:, 3:5] != action[:, 3:5]).all(axis=-1).mean() > 0.95
    only_epsilon = np.asarray(explore(jax.random.key(0), action, HYBRID, gaussian=0.0, epsilon=1.0))
    np.testing.assert_array_equal(only_epsilon[:, 3:5], action[:, 3:5])
    first, second = only_epsilon[:, :3], only_epsilon[:, 5:]
    assert (first.sum(-1) == 1).all() and (second.sum(-1) == 1).all()
    np.testing.assert_allclose(second.mean(0), 0.25, atol=0.1)
    # The parts must not share their randomness.
    agree = (first.argmax(-1) == second.argmax(-1)).mean()
    assert 0.15 < agree < 0.35


def test_the_key_decides():
    action = hybrid_actions(20)
    compiled = jax.jit(explore, static_argnums=2)
    once, again, other = (
        np.asarray(compiled(jax.random.key(k), action, HYBRID, gaussian=0.3, epsilon=0.5)) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="9"):
        explore(jax.random.key(0), jnp.zeros((2, 4)), HYBRID)
