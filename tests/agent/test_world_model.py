"""The world model's loss: its terms against NumPy, its targets read off its gradients, and who is trained by the KL."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.agent.world_model import learned_reward, world_model_loss
from jaxdreamer.nets.networks import features, make_networks
from jaxdreamer.ops.distributions import Bernoulli, UnitNormal
from jaxdreamer.types import EnvSpec
from tests import oracles
from tests.agent import cases

KEY = jax.random.key(3)
VERSIONS = ("dreamer_v1", "dreamer_v2")


@functools.cache
def compiled_loss(version, spec_name="VECTOR", **changes):
    """(params["model"], batch) -> loss, output."""
    networks, config = cases.networks(version, spec_name, **changes), cases.config(version, **changes)
    return jax.jit(lambda model, batch: world_model_loss(networks, config, model, batch, KEY))


def numpy_terms(version, spec_name, batch, **changes):
    """Every term in float64, one entry at a time, from the networks' outputs."""
    networks, config = cases.networks(version, spec_name, **changes), cases.config(version, **changes)
    model = cases.noisy_params(version, spec_name)["model"]
    is_first = batch.is_first.at[0].set(True) if config.loss.mask_first_action else batch.is_first
    embed = networks.encode(model, networks.prepare({}, batch.obs))
    latent, posterior, prior = cases.compiled_observe(version, spec_name)(model, embed, batch.action, is_first, KEY)
    feat = features(latent)
    decoded, wide = networks.decode(model, feat), functools.partial(np.asarray, dtype=np.float64)
    steps, lanes = batch.reward.shape
    terms = {}

    def mean(term):
        return float(np.mean([term(t, b) for t in range(steps) for b in range(lanes)]))

    def gaussian(target, loc):
        return oracles.normal_log_prob(np.ravel(target), np.ravel(loc), np.ones(np.size(loc)))

    for name, s in cases.__dict__[spec_name].obs.items():
        x = wide(batch.obs[name])
        if s.kind == "image":
            loc = wide(decoded[name].loc)
            terms[f"obs/{name}"] = mean(lambda t, b, x=x, loc=loc: -gaussian(x[t, b] / 255 - 0.5, loc[t, b]))
        elif s.kind == "vector":
            loc = wide(decoded[name].loc)
            scale = config.loss.vector_loss_coeff
            terms[f"obs/{name}"] = mean(lambda t, b, x=x, loc=loc, scale=scale: -scale * gaussian(x[t, b], loc[t, b]))
        else:
            logits = wide(decoded[name].logits)
            terms[f"obs/{name}"] = mean(
                lambda t, b, x=x, logits=logits: (
                    -config.loss.vector_loss_coeff
                    * sum(math.log(oracles.softmax(logits[t, b, g])[int(c)]) for g, c in enumerate(np.ravel(x[t, b])))
                )
            )
    reward, loc = wide(batch.reward) * config.loss.reward_scale, wide(networks.reward(model, feat).loc)
    reward = np.tanh(reward) if config.loss.reward_transform == "tanh" else reward
    terms["reward"] = mean(lambda t, b: -config.loss.reward_loss_coeff * gaussian(reward[t, b], loc[t, b]))
    logit = wide(networks.discount(model, feat).logits)
    goes_on = config.behavior.discount * (1 - wide(batch.is_terminal))
    terms["discount"] = mean(
        lambda t, b: -config.loss.discount_loss_coeff * oracles.bernoulli_log_prob(goes_on[t, b], logit[t, b])
    )
    if version == "dreamer_v1":
        q, p = (wide(posterior.loc), wide(posterior.std)), (wide(prior.loc), wide(prior.std))
        kl = mean(lambda t, b: oracles.normal_kl(q[0][t, b], q[1][t, b], p[0][t, b], p[1][t, b]))
    else:
        q, p = wide(posterior.logits), wide(prior.logits)
        kl = mean(lambda t, b: sum(oracles.categorical_kl(*pair) for pair in zip(q[t, b], p[t, b])))
    terms["kl"] = config.loss.kl_loss_coeff * max(kl, config.loss.free_nats)
    return terms


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("spec_name", ["VECTOR", "EVERYTHING"])
def test_loss_is_the_sum_of_its_terms_in_numpy(version, spec_name):
    changes = {"kl_loss_coeff": 0.7, "reward_loss_coeff": 1.5, "vector_loss_coeff": 0.5, "reward_scale": 2.0}
    changes |= {"reward_transform": "tanh"} if version == "dreamer_v2" else {}
    batch = cases.batch(spec_name)
    loss, output = compiled_loss(version, spec_name, **changes)(cases.noisy_params(version, spec_name)["model"], batch)
    expected = numpy_terms(version, spec_name, batch, **changes)
    found = {name.removeprefix("loss/"): value for name, value in output.metrics.items() if name.startswith("loss/")}
    np.testing.assert_allclose(found.pop("model"), loss, rtol=1e-6)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_sequence_of_one_entry_is_a_posterior_and_its_prior(version, is_first):
    batch = cases.batch(steps=1, lanes=1)._replace(is_first=jnp.array([[is_first]]), action=jnp.array([[[0.3, -0.7]]]))
    loss, output = compiled_loss(version)(cases.noisy_params(version)["model"], batch)
    np.testing.assert_allclose(loss, sum(numpy_terms(version, "VECTOR", batch).values()), rtol=1e-4)
    assert output.latent.deter.shape[:2] == (1, 1)


@pytest.mark.parametrize("name", ["reward", "kl", "model"])
def test_an_observation_key_named_like_a_term_hides_none(name):
    spec = EnvSpec({name: cases.STATE}, cases.CONTINUOUS)
    config = cases.config("dreamer_v1")
    named, batch = make_networks(config.model, spec), cases.batch()
    renamed = jax.eval_shape(named.init, KEY)["model"]
    model = cases.params("dreamer_v1")["model"]
    decoder = dict(model["decoder"]["vector"])
    decoder[f"out_{name}"] = decoder.pop("out_state")
    model_named = model | {"decoder": {"vector": decoder}}
    assert jax.tree.structure(model_named) == jax.tree.structure(renamed)
    expected, _ = compiled_loss("dreamer_v1")(model, batch)
    run = jax.jit(lambda model, batch: world_model_loss(named, config, model, batch, KEY))
    found, output = run(model_named, batch._replace(obs={name: batch.obs["state"]}))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(output.metrics["loss/model"], expected, rtol=1e-6)


def test_reward_targets_belong_to_their_entry_and_are_scaled_and_squashed():
    """The loss's slope in a prediction is prediction - target, over T * B: read every target off it."""
    config = cases.config("dreamer_v1", reward_scale=0.5, reward_transform="tanh")
    networks, model, batch = cases.networks("dreamer_v1"), cases.params("dreamer_v1")["model"], cases.batch()

    def loss(prediction):
        spied = networks._replace(reward=lambda params, feat: UnitNormal(prediction))
        return world_model_loss(spied, config, model, batch, KEY)[0]

    slope = jax.grad(loss)(jnp.zeros(batch.reward.shape))
    targets = -slope * batch.reward.size
    np.testing.assert_allclose(targets, np.tanh(0.5 * np.asarray(batch.reward)), rtol=1e-4, atol=1e-6)


def test_discount_target_is_gamma_but_after_a_failure_zero():
    """The slope in a logit is (sigmoid - target) over T * B; a time limit is no failure."""
    config = cases.config("dreamer_v1", discount=0.9, discount_loss_coeff=1.0)
    networks, model, batch = cases.networks("dreamer_v1"), cases.params("dreamer_v1")["model"], cases.batch()

    def loss(logits):
        spied = networks._replace(discount=lambda params, feat: Bernoulli(logits))
        return world_model_loss(spied, config, model, batch, KEY)[0]

    slope = jax.grad(loss)(jnp.zeros(batch.reward.shape))
    targets = 0.5 - np.asarray(slope) * batch.reward.size
    expected = np.full(batch.reward.shape, 0.9)
    expected[2, 0] = 0.0  # the failure; the time limit at [3, 1] keeps 0.9
    assert batch.is_last[3, 1] and not batch.is_terminal[3, 1]
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["reward", "discount", "decode"])
def test_an_entry_is_predicted_from_its_own_latent(head):
    """The features the heads get are those of the returned latents, entry by entry: spied on where they are called."""
    networks, model, batch = cases.networks("dreamer_v1"), cases.params("dreamer_v1")["model"], cases.batch()
    seen = []

    def spy(params, feat):
        seen.append(feat)
        return getattr(networks, head)(params, feat)

    _, output = world_model_loss(networks._replace(**{head: spy}), cases.config("dreamer_v1"), model, batch, KEY)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], features(output.latent))


def test_an_entrys_latent_has_seen_its_own_observation():
    model, batch = cases.params("dreamer_v1")["model"], cases.batch()
    run = compiled_loss("dreamer_v1")
    changed = batch._replace(obs={"state": batch.obs["state"].at[2, 2].add(1.0)})
    before, after = (run(model, b)[1].latent.stoch for b in (batch, changed))
    np.testing.assert_array_equal(after[:2], before[:2])
    assert (np.abs(after - before)[2, 2] > 1e-6).any()


def test_learned_reward():
    reward = np.array([-4.0, 0.0, 1.0])
    np.testing.assert_array_equal(learned_reward(reward, cases.config("dreamer_v1")), reward)
    np.testing.assert_array_equal(
        learned_reward(reward, cases.config("dreamer_v1", reward_scale=0.1)), reward.astype("f") * 0.1
    )
    squashed = learned_reward(reward, cases.config("dreamer_v1", reward_scale=0.5, reward_transform="tanh"))
    np.testing.assert_allclose(squashed, np.tanh(0.5 * reward), rtol=1e-6)


@functools.cache
def kl_gradients(version, **changes):
    """Gradient of the KL term alone on sequences of one entry, where no layer reaches the loss by two ways."""
    networks, config = cases.networks(version, **changes), cases.config(version, **changes)
    batch = cases.batch(steps=1, lanes=4)
    batch = batch._replace(action=batch.action + 0.5, is_first=jnp.zeros_like(batch.is_first))

    def kl_loss(model):
        return world_model_loss(networks, config, model, batch, KEY)[1].metrics["loss/kl"]

    return jax.jit(jax.grad(kl_loss))(cases.noisy_params(version)["model"])


@pytest.mark.parametrize("version", VERSIONS)
def test_kl_balance_is_the_priors_share_of_the_gradient(version):
    plain = kl_gradients(version, kl_balance=None)["rssm"]
    balanced = kl_gradients(version, kl_balance=0.8)["rssm"]
    assert np.abs(plain["prior_out"]["kernel"]).max() > 1e-4
    assert np.abs(plain["posterior_out"]["kernel"]).max() > 1e-4
    for layer in ("prior_out", "prior_hidden"):
        expected = jax.tree.map(lambda g: 0.8 * g, plain[layer])
        cases.assert_trees_close(balanced[layer], expected, rtol=1e-4, atol=1e-7)
    cases.assert_trees_close(
        balanced["posterior_out"], jax.tree.map(lambda g: 0.2 * g, plain["posterior_out"]), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize(("version", "balance"), [("dreamer_v1", None), ("dreamer_v2", 0.8)])
def test_below_the_free_nats_the_kl_trains_nothing(version, balance):
    assert all(not g.any() for g in jax.tree.leaves(kl_gradients(version, kl_balance=balance, free_nats=1e3)))


def test_the_first_action_of_a_sequence_counts_for_v1_and_not_for_v2():
    """V1's sequences start in an unknown state but with a known action; V2 treats their first entry as a reset."""
    for version, counts in (("dreamer_v1", True), ("dreamer_v2", False)):
        batch = cases.batch()
        batch = batch._replace(is_first=batch.is_first.at[0].set(False))
        changed = batch._replace(action=batch.action.at[0].add(0.5))
        latents = [compiled_loss(version)(cases.params(version)["model"], b)[1].latent for b in (batch, changed)]
        assert cases.trees_equal(*latents) != counts, version


def test_pixels_are_summed_over_an_entry_not_averaged():
    model, batch = cases.params("dreamer_v1", "EVERYTHING")["model"], cases.batch("EVERYTHING")
    _, output = compiled_loss("dreamer_v1", "EVERYTHING")(model, batch)
    # The density of a perfect prediction is the least the term can be.
    assert output.metrics["loss/obs/image"] > 0.5 * 16 * 16 * 3 * math.log(2 * math.pi)
