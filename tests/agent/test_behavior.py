"""Actor and critic losses: against NumPy on a world small enough to write down, and their gradients on real networks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.agent.behavior import actor_gradient, behavior_loss
from jaxdreamer.agent.rssm import imagine, prior_step
from jaxdreamer.nets.networks import Networks, RSSMFunctions, features, make_networks
from jaxdreamer.ops.distributions import Bernoulli, OneHot, UnitNormal
from jaxdreamer.types import ActionPart, ActionSpec, EnvSpec, Latent
from tests import oracles
from tests.agent import cases

KEY = jax.random.key(11)
ONE = ActionSpec((ActionPart("continuous", 1),))
GRADIENTS = ("dynamics", "reinforce", "both")


# --- A world by hand: a state is one number, z' = 0.8 z + a; the actor is Normal(theta * z + 0.1, 1) but always plays its
# --- centre; reward, value, critic and discount are written down below for JAX and NumPy at once.


class Centre(NamedTuple):
    """A Normal of deviation 1 whose every sample is its centre; the entropy is made up, to be told apart."""

    loc: Any

    def sample(self, key):
        return self.loc

    def log_prob(self, x):
        return jnp.sum(-0.5 * jnp.square(x - self.loc) - 0.5 * np.log(2 * np.pi), axis=-1)

    def entropy(self, key=None):
        return jnp.sum(jnp.square(self.loc), axis=-1)


class Certain(NamedTuple):
    """A latent without chance."""

    loc: Any

    def sample(self, key):
        return jnp.zeros((*self.loc.shape[:-1], 0))


REWARD = lambda z: 0.5 * z**2 - 0.2 * z  # noqa: E731
VALUE = lambda scale, z: scale * z + 0.3  # noqa: E731
LOGIT = lambda z: 1.0 - z  # noqa: E731
POLICY = lambda theta, z: theta * z + 0.1  # noqa: E731
MOVE = lambda z, a: 0.8 * z + a  # noqa: E731

START = np.array([0.4, -0.7, 1.3])
THETA, CRITIC, TARGET = -0.6, 1.2, 0.9


def toy_networks(with_discount):
    rssm = RSSMFunctions(
        initial=None,
        step=lambda params, latent, action: MOVE(latent.deter, action),
        prior=lambda params, deter: Certain(deter),
        embed_part=None,
        posterior=None,
        noise=None,
    )
    return Networks(
        **dict.fromkeys(("spec", "init", "statistics", "track", "prepare", "encode", "decode")),
        rssm=rssm,
        reward=lambda params, feat: UnitNormal(REWARD(feat[..., 0])),
        discount=(lambda params, feat: Bernoulli(LOGIT(feat[..., 0]))) if with_discount else None,
        actor=lambda theta, feat: Centre(POLICY(theta, feat)),
        critic=lambda scale, feat: UnitNormal(VALUE(scale, feat[..., 0])),
    )


@functools.cache
def compiled_toy(config, with_discount):
    """(theta, critic, target critic, terminal) -> loss, metrics."""
    return jax.jit(
        lambda theta, critic, target, terminal: behavior_loss(
            toy_networks(with_discount),
            config,
            ONE,
            {"actor": theta, "critic": critic},
            model={},
            target_critic=target,
            start=Latent(jnp.asarray(START, jnp.float32)[:, None], jnp.zeros((3, 0))),
            start_terminal=terminal,
            key=KEY,
        )
    )


def toy_loss(config, terminal=(False, False, False), theta=THETA, with_discount=True):
    """V1 has one critic, and the learner hands it over as its own target."""
    target = TARGET if config.behavior.returns_from_start else CRITIC
    return compiled_toy(config, with_discount)(theta, CRITIC, target, np.array(terminal))


def toy_dream(horizon, theta=THETA, seen=None):
    """States [H+1, N] and actions [H, N]; the policy looks at ``seen`` where given, instead of the states reached."""
    states, actions = [START], []
    for k in range(horizon):
        actions.append(POLICY(theta, states[k] if seen is None else seen[k]))
        states.append(MOVE(states[k], actions[k]))
    return np.array(states), np.array(actions)


def toy_oracle(config, terminal=(False, False, False), theta=THETA, seen=None, with_discount=True):
    """(actor loss, critic loss) in NumPy, from the sequences alone."""
    settings = config.behavior
    states, actions = toy_dream(settings.imagine_horizon, theta, seen)
    gamma = settings.discount
    discount = oracles.sigmoid(LOGIT(states)) if with_discount else np.full(states.shape, gamma)
    args = {"reward": REWARD(states), "td_lambda": settings.td_lambda}
    if not settings.returns_from_start:
        return oracles.v1_behavior_losses(value=VALUE(CRITIC, states), discount=discount, **args)
    if with_discount:
        discount[0] = gamma * (1 - np.array(terminal, float))
    centres = POLICY(theta, states[:-1])
    return oracles.v2_behavior_losses(
        value=VALUE(TARGET, states),
        critic=VALUE(CRITIC, states),
        discount=discount,
        log_prob=-0.5 * (actions - centres) ** 2 - 0.5 * np.log(2 * np.pi),
        mix={"dynamics": 1.0, "reinforce": 0.0, "both": settings.actor_gradient_mix}[settings.actor_gradient],
        entropy=centres**2,
        entropy_scale=settings.actor_entropy,
        **args,
    )


def toy_config(version, **changes):
    return cases.config(version, imagine_horizon=4, discount=0.9, td_lambda=0.7, **changes)


@pytest.mark.parametrize("with_discount", [True, False])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_losses_of_v2_equal_numpy(gradient, with_discount):
    config = toy_config("dreamer_v2", actor_gradient=gradient, actor_gradient_mix=0.3, actor_entropy=0.05)
    loss, metrics = toy_loss(config, with_discount=with_discount)
    actor, critic = toy_oracle(config, with_discount=with_discount)
    np.testing.assert_allclose(metrics["loss/actor"], actor, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/critic"], critic, rtol=1e-5)
    np.testing.assert_allclose(loss, actor + critic, rtol=1e-5)


@pytest.mark.parametrize("with_discount", [True, False])
def test_losses_of_v1_equal_numpy(with_discount):
    config = toy_config("dreamer_v1")
    _, metrics = toy_loss(config, with_discount=with_discount)
    actor, critic = toy_oracle(config, with_discount=with_discount)
    np.testing.assert_allclose(metrics["loss/actor"], actor, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/critic"], critic, rtol=1e-5)


def test_two_steps_worked_out_by_hand():
    """H = 2, one start, d = 1/2, lambda = 1/2: every number on paper."""
    config = cases.config(
        "dreamer_v2", imagine_horizon=2, discount=0.5, td_lambda=0.5, actor_gradient="dynamics", actor_entropy=0.0
    )
    rewards, values = jnp.array([1.0, 2.0, 99.0]), jnp.array([99.0, 4.0, 8.0])
    networks = toy_networks(with_discount=False)._replace(
        rssm=toy_networks(False).rssm._replace(step=lambda params, latent, action: latent.deter + 1 + 0 * action),
        reward=lambda params, feat: UnitNormal(rewards[feat[..., 0].astype(int)]),
        critic=lambda params, feat: UnitNormal(values[feat[..., 0].astype(int)] + params),
    )
    _, metrics = behavior_loss(
        networks,
        config,
        ONE,
        {"actor": jnp.array(0.0), "critic": jnp.array(1.0)},
        model={},
        target_critic=jnp.array(0.0),
        start=Latent(jnp.zeros((1, 1)), jnp.zeros((1, 0))),
        start_terminal=jnp.zeros(1, bool),
        key=KEY,
    )
    # G_1 = 2 + 1/2 (1/2 8 + 1/2 8) = 6, G_0 = 1 + 1/2 (1/2 4 + 1/2 6) = 3.5; w = 1, 1/2.
    np.testing.assert_allclose(metrics["loss/actor"], -6.0, rtol=1e-6)
    half_log = 0.5 * np.log(2 * np.pi)
    at_0, at_1 = 0.5 * (3.5 - 100.0) ** 2 + half_log, 0.5 * (6.0 - 5.0) ** 2 + half_log
    np.testing.assert_allclose(metrics["loss/critic"], (1.0 * at_0 + 0.5 * at_1) / 2, rtol=1e-6)


@pytest.mark.parametrize("with_discount", [True, False])
@pytest.mark.parametrize(
    ("version", "gradient"),
    [("dreamer_v1", "dynamics"), ("dreamer_v2", "dynamics"), ("dreamer_v2", "reinforce"), ("dreamer_v2", "both")],
)
def test_a_dream_of_one_step_learns_from_the_reward_and_the_next_value(version, gradient, with_discount):
    """H = 1: the critic's target is ``r_0 + d_0 v_1``, V1's too, and the actor's ``v_1``."""
    changes = {"actor_gradient": gradient, "actor_gradient_mix": 0.3, "actor_entropy": 0.05}
    config = cases.config(version, imagine_horizon=1, discount=0.9, td_lambda=0.7, **changes)
    terminal = (False, True, False)
    _, metrics = toy_loss(config, terminal, with_discount=with_discount)

    target = TARGET if version == "dreamer_v2" else CRITIC
    (z0, z1), (action,) = toy_dream(1)
    v0, v1 = VALUE(target, z0), VALUE(target, z1)
    goes_on = 1 - np.array(terminal, float) if with_discount else 1.0
    error = REWARD(z0) + 0.9 * goes_on * v1 - VALUE(CRITIC, z0)
    half_log = 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(metrics["loss/critic"], np.mean(0.5 * error**2 + half_log), rtol=1e-5)
    share = {"dynamics": 1.0, "reinforce": 0.0, "both": 0.3}[gradient]
    objective = share * v1 + (1 - share) * -half_log * (v1 - v0) + 0.05 * action**2  # it plays its policy's centre
    np.testing.assert_allclose(metrics["loss/actor"], -np.mean(objective), rtol=1e-5)


@pytest.mark.parametrize(("version", "scale"), [("dreamer_v1", CRITIC), ("dreamer_v2", TARGET)])
def test_in_a_dream_of_one_step_the_actors_gradient_is_the_next_values(version, scale):
    config = cases.config(version, imagine_horizon=1, actor_gradient="dynamics", actor_entropy=0.0)
    slope = jax.grad(lambda theta: toy_loss(config, theta=theta)[1]["loss/actor"])(THETA)
    # v_1 = scale (0.8 z_0 + theta z_0 + 0.1) + 0.3, so its slope in theta is scale z_0.
    np.testing.assert_allclose(slope, -np.mean(scale * START), rtol=1e-5)


def test_a_terminal_start_counts_for_its_own_reward_only_in_v2():
    config = toy_config("dreamer_v2", actor_gradient="dynamics", actor_entropy=0.0)
    terminal = (False, True, False)
    _, metrics = toy_loss(config, terminal)
    actor, critic = toy_oracle(config, terminal)
    np.testing.assert_allclose(metrics["loss/actor"], actor, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/critic"], critic, rtol=1e-5)
    assert abs(float(metrics["loss/critic"] - toy_loss(config)[1]["loss/critic"])) > 1e-2
    # All starts terminal: only the first critic term is left, its target the reward alone, and no actor term but k = 0.
    _, metrics = toy_loss(config, (True,) * 3)
    first = 0.5 * (REWARD(START) - VALUE(CRITIC, START)) ** 2 + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(metrics["loss/critic"], first.mean() / 4, rtol=1e-5)


def test_a_terminal_start_counts_for_nothing_in_v1():
    config = toy_config("dreamer_v1")
    _, metrics = toy_loss(config, (True,) * 3)
    assert metrics["loss/actor"] == 0 and metrics["loss/critic"] == 0
    _, one = toy_loss(config, (False, True, True))
    _, none = toy_loss(config)
    assert 0 != one["loss/critic"] != none["loss/critic"]


@pytest.mark.parametrize("version", ["dreamer_v1", "dreamer_v2"])
def test_the_dynamics_gradient_goes_through_actions_and_states_but_not_into_the_policys_eyes(version):
    """Finite differences in NumPy, with the states the policy looks at held where they were."""
    config = toy_config(version, actor_gradient="dynamics", actor_entropy=0.0)
    seen, _ = toy_dream(4)
    found = jax.grad(lambda theta: toy_loss(config, theta=theta, with_discount=False)[0])(THETA)
    up, down = (toy_oracle(config, theta=THETA + e, seen=seen, with_discount=False)[0] for e in (1e-5, -1e-5))
    np.testing.assert_allclose(found, (up - down) / 2e-5, rtol=1e-3)


@pytest.mark.parametrize("version", ["dreamer_v1", "dreamer_v2"])
def test_with_the_input_gradient_the_policys_eyes_move_too(version):
    config = toy_config(version, actor_gradient="dynamics", actor_entropy=0.0, actor_input_gradient=True)
    found = jax.grad(lambda theta: toy_loss(config, theta=theta, with_discount=False)[0])(THETA)
    up, down = (toy_oracle(config, theta=THETA + e, with_discount=False)[0] for e in (1e-5, -1e-5))
    np.testing.assert_allclose(found, (up - down) / 2e-5, rtol=1e-3)


def test_weights_carry_no_gradient():
    """The discount head's path into the weights is cut: only returns depend on the action."""
    config = toy_config("dreamer_v2", actor_gradient="dynamics", actor_entropy=0.0)
    seen, _ = toy_dream(4)
    found = jax.grad(lambda theta: toy_loss(config, theta=theta)[0])(THETA)

    def loss(theta):
        states, _ = toy_dream(4, theta, seen)
        discount, fixed = (oracles.sigmoid(LOGIT(s)) for s in (states, toy_dream(4)[0]))
        discount[0] = fixed[0] = 0.9
        total = 0.0
        for n in range(3):
            returns = oracles.lambda_return(REWARD(states)[:, n], VALUE(TARGET, states)[:, n], discount[:, n], 0.7)
            total -= np.sum(oracles.discount_weights(fixed[:3, n]) * returns[1:])
        return total / 9

    np.testing.assert_allclose(found, (loss(THETA + 1e-5) - loss(THETA - 1e-5)) / 2e-5, rtol=1e-3)


def test_the_reinforce_gradient_is_that_of_the_expected_return():
    """Three choices, each with its own reward: E[grad of the loss] over many starts is the exact gradient."""
    starts, prizes, logits = 40_000, jnp.array([1.0, -0.5, 2.0]), jnp.array([0.3, -0.2, 0.1])
    toy = toy_networks(with_discount=False)
    networks = toy._replace(
        rssm=toy.rssm._replace(step=lambda params, latent, action: action),
        reward=lambda params, feat: UnitNormal(feat @ prizes),
        actor=lambda params, feat: OneHot(jnp.broadcast_to(params, feat.shape)),
        critic=lambda params, feat: UnitNormal(jnp.zeros(feat.shape[:-1]) + params),
    )
    config = cases.config("dreamer_v2", imagine_horizon=2, discount=0.5, actor_gradient="reinforce", actor_entropy=0.0)

    def loss(logits):
        return behavior_loss(
            networks,
            config,
            cases.DISCRETE,
            {"actor": logits, "critic": jnp.array(0.0)},
            model={},
            target_critic=jnp.array(0.4),
            start=Latent(jnp.zeros((starts, 3)), jnp.zeros((starts, 0))),
            start_terminal=jnp.zeros(starts, bool),
            key=KEY,
        )[0]

    # a_0 leads to z_1, whose return is its prize and a bootstrap that does not depend on a_0.
    expected = jax.grad(lambda logits: -jnp.sum(jax.nn.softmax(logits) * prizes))(logits)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(logits), expected, atol=0.02)


@pytest.mark.parametrize("version", ["dreamer_v1", "dreamer_v2"])
def test_no_axis_is_broadcast_by_accident(version):
    """[H, N] times [N] or [N, 1] would be a number too."""
    with jax.numpy_rank_promotion("raise"):
        toy_loss(toy_config(version), (False, True, False))


# --- Real networks.

ACTORS = {
    "tanh_normal": ("dreamer_v1", "CONTINUOUS"),
    "truncated_normal": ("dreamer_v2", "CONTINUOUS"),
    "discrete": ("dreamer_v2", "DISCRETE"),
    "multi_discrete": ("dreamer_v1", "MULTI_DISCRETE"),
    "hybrid": ("dreamer_v2", "HYBRID"),
}


@functools.cache
def setting(actor, **changes):
    version, action = ACTORS[actor]
    spec = EnvSpec({"state": cases.STATE}, getattr(cases, action))
    networks = make_networks(cases.config(version).model, spec)
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(networks.init, KEY)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(scale=0.3, size=s.shape), jnp.float32), shapes)
    zeros = networks.rssm.initial((8,))
    start = Latent(*(jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in zeros))
    return version, spec.action, networks, params, start


@functools.cache
def gradients(actor):
    """{(gradient, loss): with respect to (all parameters, target critic, start)}, entropy bonus off."""
    version, spec, networks, params, start = setting(actor)
    rng = np.random.default_rng(3)
    target = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(scale=0.1, size=x.shape), jnp.float32), params["critic"])

    def all_gradients(params, target):
        found = {}
        for gradient in GRADIENTS:
            config = cases.config(version, actor_gradient=gradient, actor_entropy=0.0)

            def losses(p, target, start, config=config):
                _, metrics = behavior_loss(
                    networks,
                    config,
                    spec,
                    {"actor": p["actor"], "critic": p["critic"]},
                    model=p["model"],
                    target_critic=target,
                    start=start,
                    start_terminal=jnp.zeros(8, bool),
                    key=KEY,
                )
                return metrics["loss/actor"], metrics["loss/critic"]

            _, pull = jax.vjp(losses, params, target, start)
            found[gradient, "actor"] = pull((1.0, 0.0))
            if gradient == "both":
                found["both", "critic"] = pull((0.0, 1.0))
        return found

    return jax.jit(all_gradients)(params, target)


def is_zero(tree):
    return all(not leaf.any() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("actor", ACTORS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_gradient_reaches_every_layer_of_every_actor(actor, gradient):
    params, _, _ = gradients(actor)[gradient, "actor"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["actor"]):
        assert np.isfinite(leaf).all() and leaf.any(), path
    # Every part of the action is trained, not only the first.
    assert (np.abs(params["actor"]["out"]["bias"]) > 0).all()


@pytest.mark.parametrize("actor", ACTORS)
def test_actor_and_critic_losses_do_not_reach_each_other(actor):
    found = gradients(actor)
    for gradient in GRADIENTS:
        assert is_zero(found[gradient, "actor"][0]["critic"])
    of_critic, _, _ = found["both", "critic"]
    assert is_zero(of_critic["actor"]) and not is_zero(of_critic["critic"])


@pytest.mark.parametrize("actor", ACTORS)
def test_the_critics_loss_reaches_neither_model_nor_target_nor_start(actor):
    params, target, start = gradients(actor)["both", "critic"]
    assert is_zero(params["model"]) and is_zero(target) and is_zero(start)


@pytest.mark.parametrize("actor", ACTORS)
def test_only_reinforce_needs_no_gradient_of_the_model(actor):
    params, target, _ = gradients(actor)["reinforce", "actor"]
    assert is_zero(params["model"]) and is_zero(target)
    params, _, _ = gradients(actor)["dynamics", "actor"]
    assert not is_zero(params["model"]["reward"])


@pytest.mark.parametrize("actor", ACTORS)
def test_no_actor_loss_reaches_back_beyond_the_start(actor):
    for gradient in GRADIENTS:
        assert is_zero(gradients(actor)[gradient, "actor"][2])


def test_both_is_the_mix_of_the_two_for_choices():
    """For continuous actions ln pi is differentiated by the action as well; test_released_parity.py compares that."""
    dynamics, reinforce, both = (gradients("discrete")[name, "actor"][0]["actor"] for name in GRADIENTS)
    mixed = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, dynamics, reinforce)
    cases.assert_trees_close(both, mixed, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("actor", ["truncated_normal", "discrete", "hybrid"])
def test_the_entropy_bonus_raises_the_entropy(actor):
    version, spec, networks, params, start = setting(actor)
    config = cases.config(version, actor_gradient="reinforce", actor_entropy=1e4)

    @jax.jit
    def entropy_and_gradient(actor_params):
        loss = lambda p: behavior_loss(  # noqa: E731
            networks,
            config,
            spec,
            {"actor": p, "critic": params["critic"]},
            model=params["model"],
            target_critic=params["critic"],
            start=start,
            start_terminal=jnp.zeros(8, bool),
            key=KEY,
        )[0]
        entropy = jnp.mean(networks.actor(actor_params, features(start)).entropy(KEY))
        return entropy, jax.grad(loss)(actor_params)

    before, slope = entropy_and_gradient(params["actor"])
    size = np.sqrt(sum(float(np.sum(np.square(g))) for g in jax.tree.leaves(slope)))
    after, _ = entropy_and_gradient(jax.tree.map(lambda p, g: p - 0.1 * g / size, params["actor"], slope))
    assert after > before + 1e-3


def test_reinforce_scores_the_actions_that_were_dreamed():
    """On real networks: the loss from the dream made anew with the same key, entry by entry."""
    version, spec, networks, params, start = setting("discrete")
    config = cases.config(version, actor_gradient="reinforce", actor_entropy=0.01)
    _, metrics = behavior_loss(
        networks,
        config,
        spec,
        {"actor": params["actor"], "critic": params["critic"]},
        model=params["model"],
        target_critic=params["critic"],
        start=start,
        start_terminal=jnp.zeros(8, bool),
        key=KEY,
    )
    dream = imagine(
        policy=lambda latent, key: networks.actor(params["actor"], features(latent)).sample(key),
        step=prior_step(networks.rssm, params["model"]),
        start=start,
        horizon=config.behavior.imagine_horizon,
        key=jax.random.split(KEY)[0],
    )
    feat = features(dream.latent)
    policy = networks.actor(params["actor"], feat[:-1])
    value = networks.critic(params["critic"], feat).mode()
    discount = networks.discount(params["model"], feat).mean().at[0].set(config.behavior.discount)
    actor, critic = oracles.v2_behavior_losses(
        reward=networks.reward(params["model"], feat).mode(),
        value=value,
        critic=value,
        discount=discount,
        td_lambda=config.behavior.td_lambda,
        log_prob=policy.log_prob(dream.action),
        mix=0.0,
        entropy=policy.entropy(),
        entropy_scale=0.01,
    )
    np.testing.assert_allclose(metrics["loss/actor"], actor, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/critic"], critic, rtol=1e-4)


@pytest.mark.parametrize(
    ("choice", "spec", "expected"),
    [
        ("auto", cases.CONTINUOUS, "dynamics"),
        ("auto", cases.DISCRETE, "reinforce"),
        ("auto", cases.MULTI_DISCRETE, "reinforce"),
        ("auto", cases.HYBRID, "reinforce"),
        ("auto_both", cases.CONTINUOUS, "both"),
        ("auto_both", cases.DISCRETE, "reinforce"),
        ("auto_both", cases.HYBRID, "reinforce"),
        ("both", cases.DISCRETE, "both"),
        ("dynamics", cases.DISCRETE, "dynamics"),
    ],
)
def test_auto_is_decided_by_the_actions(choice, spec, expected):
    assert actor_gradient(cases.config("dreamer_v2", actor_gradient=choice), spec) == expected
