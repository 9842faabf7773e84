"""The optimizers against Adam written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdreamer.agent.optim import decay_weights, make_optimizers
from jaxdreamer.config import OptimizerConfig

PARAMS = {"a": np.array([1.0, -2.0, 0.5], np.float32), "b": np.array([[3.0]], np.float32)}


def numpy_adam(params, gradients, rate, epsilon, clip, decay, kind):
    """Two moments, both corrected for their start at zero; the decay is a factor of its own."""
    params = {name: x.astype(np.float64) for name, x in params.items()}
    first = dict.fromkeys(params, 0.0)
    second = dict.fromkeys(params, 0.0)
    for step, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradient.values()))
        for name, g in gradient.items():
            g = g.astype(np.float64) * min(1.0, clip / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            mean, correction = first[name] / (1 - 0.9**step), np.sqrt(1 - 0.999**step)
            if kind == "keras_adam":
                move = correction * mean / (np.sqrt(second[name]) + epsilon)
            else:
                move = mean / (np.sqrt(second[name]) / correction + epsilon)
            params[name] = (1 - decay) * params[name] - rate * move
    return params


@pytest.mark.parametrize("kind", ["adam", "keras_adam"])
@pytest.mark.parametrize("part", ["model", "actor", "critic"])
@pytest.mark.parametrize(("clip", "decay"), [(100.0, 0.0), (0.5, 0.0), (0.5, 0.01)])
def test_three_steps_equal_numpy(part, clip, decay, kind):
    rates = {"model": 0.1, "actor": 0.02, "critic": 0.003}
    config = OptimizerConfig(
        **{f"{name}_learning_rate": rate for name, rate in rates.items()},
        kind=kind,
        adam_epsilon=1e-2,
        grad_clip_norm=clip,
        weight_decay=decay,
    )
    rng = np.random.default_rng(0)
    gradients = [{name: rng.normal(size=x.shape).astype(np.float32) for name, x in PARAMS.items()} for _ in range(3)]
    optimizer, params = make_optimizers(config)[part], PARAMS
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    expected = numpy_adam(PARAMS, gradients, rates[part], 1e-2, clip, decay, kind)
    for name in PARAMS:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize("learning_rate", [1e-4, 10.0])
def test_weight_decay_does_not_know_the_learning_rate(learning_rate):
    config = OptimizerConfig(model_learning_rate=learning_rate, weight_decay=0.25)
    optimizer = make_optimizers(config)["model"]
    nothing = jax.tree.map(np.zeros_like, PARAMS)
    updates, _ = optimizer.update(nothing, optimizer.init(PARAMS), PARAMS)
    for name, x in optax.apply_updates(PARAMS, updates).items():
        np.testing.assert_allclose(x, 0.75 * PARAMS[name], rtol=1e-6)


def test_weight_decay_says_what_it_needs():
    with pytest.raises(ValueError, match="needs the parameters"):
        decay_weights(0.1).update(PARAMS, optax.EmptyState())


def test_each_part_has_its_own_state():
    params = {name: {"w": jnp.ones(size)} for name, size in (("model", 2), ("actor", 3), ("critic", 4))}
    optimizers = make_optimizers(OptimizerConfig())
    assert optimizers.keys() == params.keys()
    for name, size in (("model", 2), ("actor", 3), ("critic", 4)):
        moments = [leaf for leaf in jax.tree.leaves(optimizers[name].init(params[name])) if leaf.ndim]
        assert [leaf.shape for leaf in moments] == [(size,)] * 2
