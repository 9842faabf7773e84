"""bfloat16 where it was asked for and float32 where it matters; no silent promotion of types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.agent.behavior import behavior_loss
from jaxdreamer.agent.policy import make_policy
from jaxdreamer.agent.world_model import world_model_loss
from tests.agent import cases

VERSIONS = ("dreamer_v1", "dreamer_v2")
HALF = {"precision": "bfloat16"}


@functools.cache
def half_update(version):
    return cases.learner(version, "EVERYTHING", **HALF).update(
        cases.state(version, "EVERYTHING"), cases.batch("EVERYTHING")
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_parameters_and_optimizers_stay_float32_in_bfloat16(version):
    state, _ = half_update(version)
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert len(floats) > 50 and all(leaf.dtype == jnp.float32 for leaf in floats)


@pytest.mark.parametrize("version", VERSIONS)
def test_losses_in_bfloat16_are_near_those_in_float32(version):
    _, half = half_update(version)
    _, full = cases.learner(version, "EVERYTHING").update(cases.state(version, "EVERYTHING"), cases.batch("EVERYTHING"))
    assert all(np.isfinite(value) for value in half.values())
    for name in ("loss/model", "loss/obs/image", "loss/reward", "loss/discount"):
        np.testing.assert_allclose(half[name], full[name], rtol=0.03, err_msg=name)
        assert half[name] != full[name], f"{name}: bfloat16 changed nothing"


def test_every_matrix_product_takes_bfloat16_and_sums_in_float32():
    """Read off the loss's program, the body of its scan included."""
    config, networks = cases.config("dreamer_v1", **HALF), cases.networks("dreamer_v1", **HALF)
    batch, key = cases.batch(), jax.random.key(0)
    program = jax.make_jaxpr(lambda p: world_model_loss(networks, config, p, batch, key)[0])
    products = [
        eqn for eqn in equations(program(cases.params("dreamer_v1")["model"]).jaxpr) if "dot" in str(eqn.primitive)
    ]
    assert len(products) >= 10
    for eqn in products:
        assert all(x.aval.dtype == jnp.bfloat16 for x in eqn.invars) and eqn.outvars[0].aval.dtype == jnp.float32


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in inner_jaxprs(eqn):
            yield from equations(inner)


def inner_jaxprs(eqn):
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(item, "jaxpr"):
                yield item.jaxpr


@pytest.mark.parametrize("version", VERSIONS)
def test_losses_and_acting_promote_no_types_silently(version):
    """Of the update only optax's Adam does: it raises a float to the power of its integer count."""
    config, networks = cases.config(version), cases.networks(version, "EVERYTHING")
    params, batch, key = cases.params(version, "EVERYTHING"), cases.batch("EVERYTHING"), jax.random.key(0)
    policy = make_policy(config, cases.EVERYTHING, networks)

    def all_of_it(params):
        loss, output = world_model_loss(networks, config, params["model"], batch, key)
        behavior, _ = behavior_loss(
            networks,
            config,
            cases.HYBRID,
            params,
            model=params["model"],
            target_critic=params["critic"],
            start=jax.tree.map(lambda x: x[0], output.latent),
            start_terminal=batch.is_terminal[0],
            key=key,
        )
        obs, is_first = jax.tree.map(lambda x: x[0], (batch.obs, batch.is_first))
        action, _ = policy.act(params | {"statistics": {}}, policy.init(3), obs, is_first, key)
        return loss + behavior + action.sum()

    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(jax.grad(all_of_it), params)
