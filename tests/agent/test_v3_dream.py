"""What V3's dream does beyond the released numbers: gradients through it, and starts from the last entries only."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdreamer.agent import dreamer_v3
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.agent.behavior import starts
from jaxdreamer.config import preset, replace
from jaxdreamer.ops import scan
from jaxdreamer.ops.across import ALONE
from jaxdreamer.ops.continuous import Normal
from jaxdreamer.ops.distributions import UnitNormal
from jaxdreamer.ops.returns import Range
from jaxdreamer.types import Latent
from tests.agent import cases

HORIZON, GAMMA, LAMBDA, START = 6, 0.9, 0.8, np.array([[0.5], [-1.0], [0.2]])
CONFIG = preset(
    "dreamer_v3", discount=GAMMA, td_lambda=LAMBDA, imagine_horizon=HORIZON, actor_entropy=0.0, return_limit=2.5
)
# z' = 0.8 z + a, r = -z^2, v = -3 z + z^2, a = weight z + bias, all known by heart. Latents have no random part.
WORLD = SimpleNamespace(
    rssm=SimpleNamespace(
        step=lambda params, latent, action: 0.8 * latent.deter + action,
        prior=lambda params, deter: SimpleNamespace(sample=lambda key: jnp.zeros_like(deter)),
        sample=lambda dist, key: dist.sample(key),
    ),
    actor=lambda p, feat: Normal(p["weight"] * feat[..., 1:] + p["bias"], jnp.full_like(feat[..., 1:], 1e-12)),
    reward=lambda p, feat: UnitNormal(-(feat[..., 1] ** 2)),
    critic=lambda p, feat: UnitNormal(p * (-3 * feat[..., 1] + feat[..., 1] ** 2)),
    discount=None,
    across=ALONE,
)


WEIGHT, BIAS = -0.3, 0.1


def states_of(weight, bias, read=None):
    """z_0 .. z_H in float64, of actions that read ``read`` in place of the states themselves."""
    states = [START[:, 0].astype(float)]
    for k in range(HORIZON):
        states.append(0.8 * states[k] + weight * (states if read is None else read)[k] + bias)
    return states


def objective(weight, bias):
    """mean of gamma^k (G_k - v_k) over k and starts; the actor reads the states as constants."""
    states = states_of(weight, bias, read=states_of(WEIGHT, BIAS))
    value = [-3 * z + z**2 for z in states]
    returns, total = value[HORIZON], 0.0
    for k in reversed(range(HORIZON)):
        returns = -(states[k + 1] ** 2) + GAMMA * ((1 - LAMBDA) * value[k + 1] + LAMBDA * returns)
        total += GAMMA**k * (returns - value[k]).mean()
    return total / HORIZON


def test_an_update_as_a_gpu_computes_it_is_the_same(monkeypatch):
    """With an actor that learns through the dynamics, too."""
    config = preset("classic,tiny", "replay.context=none", "replay.batch_size=3", "replay.batch_length=6")
    algorithm = make_algorithm(config, cases.VECTOR)
    state, batch = jax.jit(algorithm.init)(jax.random.key(0)), cases.batch()
    assert config.behavior.actor_gradient == "auto_both"
    expected, metrics = jax.jit(lambda *given: algorithm.update(*given))(state, batch)
    monkeypatch.setattr(scan, "on_gpu", lambda: True)
    new, found = jax.jit(lambda *given: algorithm.update(*given))(state, batch)
    cases.assert_trees_close(found, metrics, rtol=1e-4, atol=1e-5)
    for part in ("model", "actor", "critic"):
        squares = [optax.tree_utils.tree_get(after.optimizers[part], "nu") for after in (new, expected)]
        assert np.abs(squares[1]).max() > 0
        cases.assert_trees_close(*squares, rtol=1e-3, atol=1e-9)


def actor_gradients(config, gradient):
    latent = Latent(jnp.asarray(START[None], jnp.float32), jnp.zeros((1, 3, 1)))

    def loss(actor):
        params = {"model": {}, "critic": jnp.ones(())}
        known = jax.lax.stop_gradient(actor) if gradient == "reinforce" else actor
        dream = dreamer_v3.dream_ahead(
            WORLD, config, params | {"actor": known}, latent, jnp.zeros((1, 3), bool), jax.random.key(0)
        )
        found = dreamer_v3.behavior_loss(
            WORLD, config, params | {"actor": actor}, dream, jnp.ones(()), Range(0.0, 1.0), gradient=gradient
        )
        return found[1]["loss/actor"]

    return jax.grad(loss)({"weight": jnp.float32(WEIGHT), "bias": jnp.float32(BIAS)})


def test_the_dynamics_gradient_is_that_of_the_scaled_returns():
    found = actor_gradients(CONFIG, "dynamics")
    for name, (weight, bias) in {"weight": (1e-6, 0.0), "bias": (0.0, 1e-6)}.items():
        slope = (objective(WEIGHT + weight, BIAS + bias) - objective(WEIGHT - weight, BIAS - bias)) / 2e-6
        assert float(found[name]) == pytest.approx(-slope / 2.5, rel=1e-4)


def test_both_mixes_the_two():
    mix = CONFIG.behavior.actor_gradient_mix
    dynamics, both, reinforce = (actor_gradients(CONFIG, name) for name in ("dynamics", "both", "reinforce"))
    for name in dynamics:
        # log pi of a deviation of 1e-12 is enormous: to the rounding of its gradient.
        expected = mix * dynamics[name] + (1 - mix) * reinforce[name]
        assert float(both[name]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("last", "kept"), [(0, range(5)), (2, [3, 4]), (5, range(5)), (9, range(5))])
def test_dreams_start_from_the_last_entries(last, kept):
    sequences = {"x": jnp.arange(5)[:, None] * jnp.ones((1, 3))}
    found = starts(preset("dreamer_v3", imagine_last=last).behavior, sequences)
    np.testing.assert_array_equal(found["x"][:, 0], list(kept))


@pytest.mark.parametrize("version", ["dreamer_v1", "dreamer_v2"])
def test_a_whole_sequence_is_all_of_it(version):
    """What stands in the way of the last two only would also stand in the way of all."""
    batch, state = cases.batch(), cases.state(version)
    losses = {
        last: float(cases.learner(version, imagine_last=last).update(state, batch)[1]["loss/critic"])
        for last in (0, batch.reward.shape[0], 2)
    }
    assert losses[0] == losses[batch.reward.shape[0]] != losses[2]


def test_v3_learns_the_replayed_values_of_where_it_dreamed():
    """The loss on replayed states reads the returns of the dreams from them, whichever these are."""
    config = preset("dreamer_v3", deter_size=16, hidden_size=8, units=8, stoch_size=4, classes=4, context="none")
    batch, values = cases.batch(), {}
    for last in (0, batch.reward.shape[0], 2):
        algorithm = dreamer_v3.make(replace(config, {"imagine_last": last}), cases.VECTOR)
        _, metrics = jax.jit(algorithm.update)(algorithm.init(jax.random.key(0)), batch)
        values[last] = float(metrics["loss/replay_value"])
    assert values[0] == values[batch.reward.shape[0]] != values[2]


def test_the_policy_acts_with_an_average_of_what_was_learned():
    """By hand: the mean of the first updates while these are few, then a running average; the loops act with it."""
    config = preset(
        "dreamer_v3", deter_size=16, hidden_size=8, units=8, stoch_size=4, classes=4, context="none", warmup=0
    )
    algorithm = dreamer_v3.make(replace(config, {"acting_rate": 0.4}), cases.VECTOR)
    state, update, seen, average = algorithm.init(jax.random.key(0)), jax.jit(algorithm.update), [], np.zeros(())
    for step in range(5):
        state, _ = update(state, cases.batch())
        seen.append(np.asarray(state.params["actor"]["mean"]["kernel"], np.float64))
        average = np.mean(seen, axis=0) if step < 2 else average + 0.4 * (seen[-1] - average)
        found = algorithm.acting(state.params, state.aux)
        np.testing.assert_allclose(found["actor"]["mean"]["kernel"], average, rtol=1e-5, atol=1e-7)
    assert not np.allclose(seen[-1], average, atol=1e-6)
    plain = dreamer_v3.make(config, cases.VECTOR)
    assert "acting" not in plain.init(jax.random.key(0)).aux
    assert plain.acting(state.params, state.aux)["actor"] is state.params["actor"]
