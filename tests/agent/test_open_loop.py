"""Open-loop prediction: seen while there is context, dreamed from the batch's actions after it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.agent.open_loop import open_loop
from jaxdreamer.nets.networks import features
from tests.agent import cases

CONTEXT, STEPS, LANES = 2, 6, 3
KEY = jax.random.key(17)
VERSIONS = ("dreamer_v1", "dreamer_v2")


@functools.cache
def compiled(version, spec_name="EVERYTHING"):
    networks = cases.networks(version, spec_name)
    return jax.jit(
        lambda model, batch: open_loop(networks, {"model": model, "statistics": {}}, batch, context=CONTEXT, key=KEY)
    )


@functools.cache
def report(version, spec_name="EVERYTHING"):
    model = cases.noisy_params(version, spec_name)["model"]
    return compiled(version, spec_name)(model, cases.batch(spec_name))


def test_shapes_and_units():
    found, batch = report("dreamer_v1"), cases.batch("EVERYTHING")
    for name, shape in (("image", (16, 16, 3)), ("state", (3,)), ("gear", (8,))):
        assert found.truth[name].shape == found.model[name].shape == (STEPS, LANES, *shape)
        assert found.error[name].shape == (STEPS,) and found.error[name].dtype == jnp.float32
    assert found.model["image"].dtype == jnp.uint8
    np.testing.assert_array_equal(found.truth["image"], batch.obs["image"])
    np.testing.assert_array_equal(found.truth["state"], batch.obs["state"])


def test_error_is_the_mean_square_of_the_difference():
    found = report("dreamer_v1")
    for name in ("state", "gear"):
        expected = [np.mean((found.truth[name][t] - found.model[name][t]) ** 2) for t in range(STEPS)]
        np.testing.assert_allclose(found.error[name], expected, rtol=1e-5)
    truth, model = (np.asarray(x["image"], np.float64) / 255 for x in (found.truth, found.model))
    expected = [np.mean((truth[t] - model[t]) ** 2) for t in range(STEPS)]
    np.testing.assert_allclose(found.error["image"], expected, rtol=0.05)  # the picture is rounded and clipped


@pytest.mark.parametrize("version", VERSIONS)
def test_the_context_is_what_observe_reconstructs(version):
    networks, batch = cases.networks(version), cases.batch()
    model = cases.noisy_params(version)["model"]
    seen = jax.tree.map(lambda x: x[:CONTEXT], batch)
    embed = networks.encode(model, networks.prepare({}, seen.obs))
    latent, _, _ = cases.compiled_observe(version)(model, embed, seen.action, seen.is_first, jax.random.split(KEY)[0])
    expected = networks.decode(model, features(latent))["state"].mode()
    np.testing.assert_allclose(report(version, "VECTOR").model["state"][:CONTEXT], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_prediction_does_not_see(version):
    model, batch = cases.noisy_params(version)["model"], cases.batch()
    before = report(version, "VECTOR").model["state"]
    for entry, same in ((CONTEXT, True), (CONTEXT - 1, False)):
        changed = batch._replace(obs={"state": batch.obs["state"].at[entry:].add(1.0)})
        after = compiled(version, "VECTOR")(model, changed).model["state"]
        assert np.array_equal(before[entry:], after[entry:]) == same
        np.testing.assert_array_equal(before[:entry], after[:entry])


@pytest.mark.parametrize("entry", [CONTEXT, CONTEXT + 1, STEPS - 1])
def test_the_prediction_follows_the_action_that_led_to_an_entry_from_that_entry_on(entry):
    model, batch = cases.noisy_params("dreamer_v1")["model"], cases.batch()
    changed = batch._replace(action=batch.action.at[entry].add(1.0))
    before, after = (
        report("dreamer_v1", "VECTOR").model["state"],
        compiled("dreamer_v1", "VECTOR")(model, changed).model["state"],
    )
    np.testing.assert_array_equal(before[:entry], after[:entry])
    assert (np.abs(after - before)[entry:].max(-1) > 1e-7).all()


@pytest.mark.parametrize("context", [0, STEPS, STEPS + 1])
def test_a_context_must_leave_something_to_predict(context):
    with pytest.raises(ValueError, match="context must lie between 1 and 5"):
        open_loop(
            cases.networks("dreamer_v1"), cases.params("dreamer_v1")["model"], cases.batch(), context=context, key=KEY
        )
