"""DreamerV3 against numbers computed by the authors' code (danijar/dreamerv3 e3f0224, float32, on a CPU).

``fixtures/dreamer_v3.npz`` holds pure pieces, layers and two whole agents: inputs, parameters, every loss, all gradients and
four training steps. Theirs is batch-major, features are concat(deter, stoch) and tokens concat(vectors, images).

Not reproduced: ``normalize/perc_debias_*`` and ``normalize/meanstd_*``, ways to scale returns that no published agent uses;
metrics that only restate compared numbers; and where it says so, a count that begins elsewhere.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdreamer.agent import dreamer_v3
from jaxdreamer.agent.dreamer_v3 import Dream, behavior_loss, replay_value_loss
from jaxdreamer.agent.optim import clip_by_ratio, laprop, make_optimizers
from jaxdreamer.agent.world_model import world_model_loss
from jaxdreamer.config import OptimizerConfig, RunConfig, preset
from jaxdreamer.nets.convolutions import SameConv
from jaxdreamer.nets.layers import MLP, BlockDense, Dense, RMSNorm, Style, in_blocks, side_by_side, trunc_normal
from jaxdreamer.nets.networks import features, make_networks
from jaxdreamer.ops.across import ALONE
from jaxdreamer.ops.discrete import SymexpTwoHot, unimix
from jaxdreamer.ops.distributions import (
    Bernoulli,
    Categoricals,
    Joint,
    Normal,
    OneHot,
    UnitNormal,
    bounded_normal_from_raw,
)
from jaxdreamer.ops.kl import balanced_kl
from jaxdreamer.ops.returns import Range, lambda_return, no_range, track_range
from jaxdreamer.ops.transforms import symexp, symexp_bins, symlog
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.train.schedule import Segments
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, Batch, EnvSpec, Latent, Timestep

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@functools.cache
def data():
    with np.load(Path(__file__).parent / "fixtures" / "dreamer_v3.npz") as found:
        return {key: found[key] for key in found.files}


def part(prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: value for key, value in data().items() if key.startswith(prefix)}


def close(found, expected, **tolerance):
    np.testing.assert_allclose(np.asarray(found), expected, **(CLOSE | tolerance))


# ---- pure pieces -------------------------------------------------------------------------------------------------------


def test_symlog():
    d = part("symlog/")
    close(symlog(d["x"]), d["y"])
    close(symexp(d["y"]), d["symexp_y"], rtol=1e-5)


@pytest.mark.parametrize("count", [255, 41, 16])
def test_two_hot(count):
    d = part(f"twohot{count}/")
    bins = symexp_bins(count)
    close(bins, d["bins"], rtol=2e-6)
    scale = np.sum(jax.nn.softmax(d["logits"], -1) * np.abs(d["bins"]), -1)  # what rounding is relative to
    bins = jnp.asarray(d["bins"])
    close(SymexpTwoHot(d["logits"], bins).mean() / scale, d["pred"] / scale)
    loss = lambda logits: -SymexpTwoHot(logits, bins).log_prob(d["target"])  # noqa: E731
    close(loss(d["logits"]), d["loss"])
    close(jax.grad(lambda x: loss(x).sum())(d["logits"]), d["loss_grad"])
    found = jax.grad(lambda x: SymexpTwoHot(x, bins).mean().sum())(d["logits"])
    close(found / scale[:, None], d["pred_grad"] / scale[:, None])


def test_a_head_of_zero_logits_predicts_exactly_zero_when_compiled():
    zeros = jnp.zeros((3, 255))
    assert not jax.jit(lambda x: SymexpTwoHot(x, symexp_bins(255)).mean())(zeros).any()


def test_bounded_normal():
    d = part("bounded_normal/")
    dist = bounded_normal_from_raw(d["raw_mean"], d["raw_std"], 0.1, 1.0)
    close(dist.loc, d["mean"])
    close(dist.std, d["std"])
    # Theirs are per number, ours summed over the action; or summed already.
    close(dist.log_prob(d["action"]), d["logp"].reshape(5, -1).sum(-1))
    close(dist.entropy(), d["entropy"].reshape(5, -1).sum(-1))

    def objective(mean, std):
        dist = bounded_normal_from_raw(mean, std, 0.1, 1.0)
        return jnp.sum(dist.log_prob(d["action"]) + 0.1 * dist.entropy())

    for found, name in zip(jax.grad(objective, (0, 1))(d["raw_mean"], d["raw_std"]), ("grad_mean", "grad_std")):
        close(found, d[name])


def test_categorical_with_and_without_unimix():
    d = part("categorical/")
    event = np.eye(5, dtype=np.float32)[d["event"]] if d["event"].ndim == 1 else d["event"]
    for name, amount in (("plain", 0.0), ("unimix", 0.01)):
        dist = OneHot(unimix(jnp.asarray(d["logits"]), amount))
        close(jax.nn.log_softmax(dist.logits), jax.nn.log_softmax(d[f"{name}_logits"]))
        close(dist.log_prob(event), d[f"{name}_logp"])
        close(dist.entropy(), d[f"{name}_entropy"])


def test_binary():
    d = part("binary/")
    close(-Bernoulli(d["logit"]).log_prob(d["target"]), d["loss"])
    close(Bernoulli(d["logit"]).mean(), d["prob1"])


def test_squared_errors_are_twice_a_unit_normals_log_density():
    d = part("symlog_mse/")
    constant = 0.5 * np.log(2 * np.pi) * d["mean"].shape[-1]
    found = -2 * (UnitNormal(d["mean"]).log_prob(symlog(d["target"]), event_ndim=1) + constant)
    close(found, d["loss"])


def test_kl_with_free_nats_of_every_state():
    d = part("kl/")

    def loss(post, prior):
        dists = [Categoricals(unimix(x, 0.01)) for x in (post, prior)]
        found, _ = balanced_kl(*dists, balance=1 / 1.1, free_nats=1.0, per_element=True)
        return 1.1 * found

    close(loss(d["post"], d["prior"]), d["loss"])
    for found, name in zip(jax.grad(loss, (0, 1))(d["post"], d["prior"]), ("grad_post", "grad_prior")):
        close(found, d[name])
    close(Categoricals(unimix(d["post"], 0.01)).entropy(), d["post_entropy"])


def test_lambda_return_of_real_sequences():
    d = {key: v.T.astype(np.float32) for key, v in part("lambda_return/").items() if v.ndim == 2}
    disc, lam = part("lambda_return/")["disc_lam"]
    ahead = lambda x: np.roll(x, -1, axis=0)  # noqa: E731
    found = lambda_return(
        reward=ahead(d["rew"]), value=d["boot"], discount=disc * (1 - ahead(d["term"])),
        td_lambda=jnp.asarray(lam * (1 - ahead(d["last"])))[:-1],
    )  # fmt: skip
    close(found, d["ret"])


def test_the_range_of_returns():
    d = part("normalize/")
    assert list(d["perc_state_names"]) == sorted(d["perc_state_names"])
    found = no_range()
    for x, (offset, scale, *state) in zip(d["x"], d["perc_stats"]):
        found = track_range(found, x, rate=0.01, low=5, high=95)
        close(found.low, offset)
        close(jnp.maximum(1.0, found.high - found.low), scale)
        close(sorted([float(found.low), float(found.high)]), sorted(state))


# ---- optimizer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "warmup", "decay"),
    [("default", 4e-5, 1000, 0), ("fast", 1e-2, 3, 0), ("nowarm", 1e-2, 0, 0), ("wd", 1e-2, 0, 0.1)],
)
def test_laprop_behind_clipping_by_ratio(name, rate, warmup, decay):
    """Their decay is a share of the learning rate, of kernels alone; ours is of every parameter, so kernels are compared."""
    params, grads, expected = (part(f"optimizer/{x}/") for x in ("params", "grads", name))
    config = OptimizerConfig(
        kind="laprop",
        grad_clip_ratio=0.3,
        grad_clip_norm=0,
        adam_epsilon=1e-20,
        warmup=warmup,
        model_learning_rate=rate,
        weight_decay=rate * decay,
    )
    optimizer = make_optimizers(config)["model"]
    state, now = optimizer.init(params), params
    compared = [key for key in params if not decay or key.endswith("kernel")]
    for step in range(12):
        updates, state = optimizer.update({k: v[step] for k, v in grads.items()}, state, now)
        now = optax.apply_updates(now, updates)
        for key in compared:
            close(now[key], expected[key][step], rtol=1e-6, atol=1e-6)


def test_clipping_by_ratio_alone():
    params, grads, expected = (part(f"optimizer/{x}/") for x in ("params", "grads", "agc_of_grads3"))
    found, _ = clip_by_ratio(0.3).update({k: v[3] for k, v in grads.items()}, optax.EmptyState(), params)
    for key in params:
        close(found[key], expected[key], rtol=1e-6, atol=1e-6)


def test_clipping_by_ratio_says_what_it_needs():
    with pytest.raises(ValueError, match="needs the parameters"):
        clip_by_ratio(0.3).update({}, optax.EmptyState())
    assert laprop(1e-3, 1e-8).init({"w": jnp.ones(2)})


# ---- layers ------------------------------------------------------------------------------------------------------------

SILU = Style("silu", "rms", "trunc_normal")


def test_layers():
    for name, module in (
        ("rms", RMSNorm()),
        ("linear", Dense(part("layers/linear/")["y"].shape[-1])),
        ("mlp", MLP(2, part("layers/mlp/")["y"].shape[-1], SILU)),
    ):
        d = part(f"layers/{name}/")
        params: dict = {}
        for key, value in d.items():
            if key.startswith("params/n/"):
                *where, leaf = (
                    key.removeprefix("params/n/").replace("linear", "dense_").replace("norm", "norm_").split("/")
                )
                (params.setdefault(where[0], {}) if where else params)[leaf] = value
        close(module.apply({"params": params}, d["x"]), d["y"])
    d = part("layers/blocklinear/")
    blocks = in_blocks(d["x"], d["params/n/kernel"].shape[0])
    params = {"kernel": d["params/n/kernel"], "bias": d["params/n/bias"]}
    (found,) = BlockDense(d["y"].shape[-1], trunc_normal()).apply({"params": params}, blocks)
    close(side_by_side(found), d["y"])
    d = part("layers/conv_k5_same/")
    params = {"kernel": d["params/n/kernel"], "bias": d["params/n/bias"]}
    close(SameConv(d["y"].shape[-1], SILU).apply({"params": params}, jnp.asarray(d["x"])), d["y"])


@pytest.mark.parametrize("shape", [(64, 32), (8, 40, 16), (5, 5, 8, 16)])
def test_initial_weights(shape):
    expected = data()[f"initializer/{'x'.join(map(str, shape))}_std"]
    found = np.std(trunc_normal()(jax.random.key(0), shape))
    close(found, expected, rtol=0.08)
    assert np.isclose(np.std(trunc_normal(0.01)(jax.random.key(0), shape)), 0.01 * found, rtol=1e-4)


# ---- losses of the behaviour -------------------------------------------------------------------------------------------

CONFIG = preset("dreamer_v3")


class Given:
    """Networks whose answers are given: "parameters" are the outputs themselves, [k, N, ...]."""

    across = ALONE

    @staticmethod
    def actor(raw, feat):
        continuous = bounded_normal_from_raw(raw["mean"][: len(feat)], raw["std"][: len(feat)], 0.1, 1.0)
        return Joint((continuous, OneHot(raw["disc"][: len(feat)])))

    @staticmethod
    def critic(logits, feat):
        return SymexpTwoHot(logits[: len(feat)], jnp.asarray(part("twohot255/")["bins"]))


def test_the_loss_of_a_dream():
    d = {key: np.swapaxes(v, 0, 1) if v.ndim > 1 else v for key, v in part("imag_loss/").items()}
    one_hot = np.eye(4, dtype=np.float32)[d["act_disc"].astype(int)]
    raw = {"mean": d["raw_mean"], "std": d["raw_std"], "disc": d["disc_logits"]}
    low, high = d["retnorm_before_lo_hi"]

    def loss(raw, logits):
        value = jax.lax.stop_gradient(Given.critic(logits, np.zeros(len(d["rew"]))).mode())
        weight, returns = dreamer_v3.weigh(jnp.asarray(d["rew"]), value, jnp.asarray(d["con"]), 0.95)
        action = jnp.concatenate([d["act_cont"], one_hot], -1)[:-1]
        dream = Dream(jnp.zeros(d["rew"].shape), action, value, weight, jax.lax.stop_gradient(returns))
        found = dreamer_v3.track_returns(CONFIG.behavior, Range(jnp.float32(low), jnp.float32(high)), dream.returns)
        params = {"actor": raw, "critic": logits}
        total, metrics = behavior_loss(Given, CONFIG, params, dream, d["slow_logits"], found, gradient="reinforce")
        return total, (metrics, returns, found)

    (_, (metrics, returns, found)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(raw, d["value_logits"])
    close(returns, d["ret"])
    close([found.low, found.high], d["retnorm_after_lo_hi"])
    close(metrics["loss/actor"], d["policy"].mean())
    close(metrics["loss/critic"], d["value"].mean())
    for name, grad in ({"raw_" + k: v for k, v in grads[0].items() if k != "disc"}).items():
        close(grad, d[f"grad_{name}"])
    close(grads[0]["disc"], d["grad_disc_logits"])
    close(grads[1], d["grad_value_logits"])


@pytest.mark.parametrize("variant", ["slowtar", "nocontdisc"])
def test_the_loss_of_a_dream_in_other_forms(variant):
    """With values of the slow critic; and with a head that predicts the going on alone, gamma set apart."""
    d = {key: np.swapaxes(v, 0, 1) if v.ndim > 1 else v for key, v in part("imag_loss/").items()}
    one_hot = np.eye(4, dtype=np.float32)[d["act_disc"].astype(int)]
    valued_by, gamma = ("value_logits", 1 - 1 / 333) if variant == "nocontdisc" else ("slow_logits", 1.0)
    value = Given.critic(d[valued_by], np.zeros(len(d["rew"]))).mode()
    weight, returns = dreamer_v3.weigh(jnp.asarray(d["rew"]), value, jnp.asarray(gamma * d["con"]), 0.95)
    dream = Dream(
        jnp.zeros(d["rew"].shape), jnp.concatenate([d["act_cont"], one_hot], -1)[:-1], value, weight / gamma, returns
    )
    low, high = d["retnorm_before_lo_hi"]
    found = dreamer_v3.track_returns(CONFIG.behavior, Range(jnp.float32(low), jnp.float32(high)), returns)
    params = {
        "actor": {"mean": d["raw_mean"], "std": d["raw_std"], "disc": d["disc_logits"]},
        "critic": d["value_logits"],
    }
    _, metrics = behavior_loss(Given, CONFIG, params, dream, d["slow_logits"], found, gradient="reinforce")
    close(returns, d[f"{variant}_ret"])
    close(metrics["loss/actor"], d[f"{variant}_policy"].mean())
    close(metrics["loss/critic"], d[f"{variant}_value"].mean())


def test_the_loss_on_replayed_states():
    d = {key: np.swapaxes(v, 0, 1) for key, v in part("repl_loss/").items()}
    batch = Batch({}, None, d["rew"], None, d["last"].astype(bool), d["term"].astype(bool))
    latent = Latent(np.zeros((*d["rew"].shape, 1), np.float32), np.zeros((*d["rew"].shape, 1), np.float32))

    def loss(logits):
        found, _ = replay_value_loss(
            Given, CONFIG, logits, batch, latent=latent, boot=d["boot"].reshape(-1), target_critic=d["slow_logits"]
        )
        return found / CONFIG.behavior.replay_value_coeff

    close(loss(d["value_logits"]), d["repval"].mean())
    expected = d["grad_value_logits"]
    close(jax.grad(loss)(d["value_logits"])[: len(expected)], expected)


# ---- what surrounds the agent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "every", "updates"), [("quarter", 4, 1), ("one_and_a_half", 2, 3)])
def test_updates_for_every_step(name, every, updates):
    """Theirs makes the first update at the first step, ours when it is due; the ratio is one in the long run."""
    theirs = part("ratio/")[name]
    segments = Segments(RunConfig(prefill=0, pretrain=0, train_every=every, updates=updates), 1, 0, call=updates)
    ours = [segments.next().updates for _ in theirs]
    assert (np.abs(np.cumsum(ours) - np.cumsum(theirs)) <= updates).all()
    assert sum(ours) == len(theirs) // every * updates


def test_the_order_of_the_online_queue():
    """The windows of two workers in turn, without a gap; theirs leaves the very first entry out."""
    replay = HostReplay(SPECS["vector"], capacity=100, lanes=2, length=5, cross_episodes=True)
    first = np.zeros(2, bool)
    obs = {"height": np.zeros(2, np.float32), "position": np.zeros((2, 5), np.float32)}
    for row in range(23):
        replay.add(
            Timestep(obs, np.zeros(2, np.float32), first | (row == 0), first, first), np.zeros((2, 2), np.float32)
        )
    found = replay.next_indices(np.random.default_rng(0), 8)
    expected = data()["replay/online_worker_start_length5_23adds"]
    np.testing.assert_array_equal(np.stack([found.lane, found.start + 1], axis=1), expected)


# ---- two whole agents --------------------------------------------------------------------------------------------------

SPECS = {
    "vector": EnvSpec(
        {"height": ArraySpec((), "float32", "vector"), "position": ArraySpec((5,), "float32", "vector")},
        ActionSpec((ActionPart("continuous", 2),)),
    ),
    "image": EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ActionSpec((ActionPart("discrete", 3),))),
}
TINY = preset(
    "dreamer_v3", deter_size=32, hidden_size=8, stoch_size=4, classes=6, units=16, cnn_depth=2, imagine_horizon=3,
    mask_first_action=False, model_learning_rate=1e-2, actor_learning_rate=1e-2, critic_learning_rate=1e-2, warmup=2,
    actor_unimix=0.0,  # theirs is configured and ignored
)  # fmt: skip
# Ours on the left; {} stands for a number.
MODEL = {
    "encoder/vector/dense_{}": "enc/mlp{}", "encoder/vector/norm_{}": "enc/mlp{}norm",
    "encoder/image_image/conv_{}": "enc/cnn{}", "encoder/image_image/norm_{}": "enc/cnn{}norm",
    "rssm/recurrent/from_deter/dense_0": "dyn/dynin0", "rssm/recurrent/from_deter/norm_0": "dyn/dynin0norm",
    "rssm/recurrent/from_stoch/dense_0": "dyn/dynin1", "rssm/recurrent/from_stoch/norm_0": "dyn/dynin1norm",
    "rssm/recurrent/from_action/dense_0": "dyn/dynin2", "rssm/recurrent/from_action/norm_0": "dyn/dynin2norm",
    "rssm/recurrent/hidden": "dyn/dynhid0", "rssm/recurrent/norm": "dyn/dynhid0norm", "rssm/recurrent/gates": "dyn/dyngru",
    "rssm/prior_hidden": "dyn/prior0", "rssm/prior_norm": "dyn/prior0norm", "rssm/prior_hidden_1": "dyn/prior1",
    "rssm/prior_norm_1": "dyn/prior1norm", "rssm/prior_out": "dyn/priorlogit", "rssm/posterior_norm": "dyn/obs0norm",
    "rssm/posterior_out": "dyn/obslogit",
    "decoder/vector/mlp/dense_{}": "dec/mlp/linear{}", "decoder/vector/mlp/norm_{}": "dec/mlp/norm{}",
    "decoder/vector/out_height": "dec/vec/height/pred", "decoder/vector/out_position": "dec/vec/position/pred",
    "decoder/image_image/from_deter": "dec/sp0", "decoder/image_image/from_stoch/dense_0": "dec/sp1",
    "decoder/image_image/from_stoch/norm_0": "dec/sp1norm", "decoder/image_image/grid": "dec/sp2",
    "decoder/image_image/grid_norm": "dec/spnorm", "decoder/image_image/out": "dec/imgout",
    "decoder/image_image/conv_0": "dec/conv2", "decoder/image_image/conv_1": "dec/conv1",
    "decoder/image_image/conv_2": "dec/conv0", "decoder/image_image/norm_0": "dec/conv2norm",
    "decoder/image_image/norm_1": "dec/conv1norm", "decoder/image_image/norm_2": "dec/conv0norm",
    "reward/mlp/dense_{}": "rew/mlp/linear{}", "reward/mlp/norm_{}": "rew/mlp/norm{}", "reward/out": "rew/head/logits",
    "discount/mlp/dense_{}": "con/mlp/linear{}", "discount/mlp/norm_{}": "con/mlp/norm{}", "discount/out": "con/head/logit",
}  # fmt: skip
ACTOR = {
    "mlp/dense_{}": "pol/mlp/linear{}", "mlp/norm_{}": "pol/mlp/norm{}", "mean": "pol/head/action/mean",
    "std": "pol/head/action/stddev", "logits": "pol/head/action/logits",
}  # fmt: skip
CRITIC = {"mlp/dense_{}": "val/mlp/linear{}", "mlp/norm_{}": "val/mlp/norm{}", "out": "val/head/logits"}


def translated(theirs: dict[str, np.ndarray], shapes, names: dict[str, str], root: str = ""):
    """A tree of ours, with their numbers; every array of theirs under ``root`` is used once by all trees together."""

    def find(path, shape):
        *where, leaf = (key.key for key in path)
        where = "/".join(where)
        if leaf.startswith("posterior_") and where == "rssm":
            return theirs[f"dyn/obs0/{leaf.removeprefix('posterior_')}"]
        number = next((c for c in where[::-1] if c.isdigit()), "")
        name = names.get(where) or names[where[::-1].replace(number, "}{", 1)[::-1]].format(number)
        value = theirs[f"{root + name.removeprefix('val') if root else name}/{leaf}"]
        # Their features are concat(deter, stoch), ours concat(stoch, deter).
        if name.endswith("mlp/linear0") and leaf == "kernel" and not name.startswith(("dec", "enc")):
            value = np.concatenate([value[32:], value[:32]])
        assert value.size == np.prod(shape.shape, dtype=int), (where, leaf, value.shape, shape.shape)
        return jnp.asarray(value.reshape(shape.shape))

    return jax.tree_util.tree_map_with_path(find, shapes)


def ours(theirs, shapes):
    return {
        "model": translated(theirs, shapes["model"], MODEL),
        "actor": translated(theirs, shapes["actor"], ACTOR),
        "critic": translated(theirs, shapes["critic"], CRITIC),
    }


@functools.cache
def agent(name):
    """networks, train state and batch."""
    networks = make_networks(TINY.model, SPECS[name])
    algorithm = dreamer_v3.make(TINY, SPECS[name], networks)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    theirs = part(f"agent/{name}/params/")
    params = ours(theirs, state.params)
    target = translated(theirs, state.params["critic"], CRITIC, root="slowval")
    optimizers = make_optimizers(TINY.optimizer)
    zero = jnp.zeros((), jnp.int32)
    state = state._replace(
        params=params,
        optimizers={key: optimizers[key].init(params[key]) for key in params},
        aux={"target_critic": target, "statistics": {}, "returns": no_range()},
        updates=zero, skipped=zero, skipped_in_a_row=zero, key=jax.random.key(0),
    )  # fmt: skip
    d = {key: np.swapaxes(value, 0, 1) for key, value in part(f"agent/{name}/data/").items()}
    action = d["action"][:-1]
    if SPECS[name].action.is_discrete:
        action = np.eye(3, dtype=np.float32)[action.astype(int)]
    batch = Batch(
        {key: jnp.asarray(d[key][1:]) for key in SPECS[name].obs}, jnp.asarray(action), jnp.asarray(d["reward"][1:]),
        *(jnp.asarray(d[key][1:]) for key in ("is_first", "is_last", "is_terminal")),
        kept={"deter": jnp.asarray(d["dyn/deter"][:-1]), "stoch": jnp.asarray(d["dyn/stoch"][:-1].reshape(4, 2, -1))},
    )  # fmt: skip
    return networks, state, batch


@pytest.fixture
def fixed_noise(monkeypatch):
    """The noise depends on the event's index only; and z_0's discount is predicted, as in the code of 2025."""
    latent, continuous, discrete = (
        data()[f"agent/{key}"] for key in ("latent_noise_4x6", "action_noise_cont_2", "action_noise_disc_3")
    )
    shape = lambda dist: jax.tree.leaves(dist)[0].shape  # noqa: E731
    fixed = lambda noise: lambda self, key: jnp.broadcast_to(noise, shape(self))  # noqa: E731
    for kind, noise in ((Categoricals, latent), (Normal, continuous), (OneHot, discrete)):
        monkeypatch.setattr(kind, "noise", fixed(jnp.asarray(noise)))
    dream = dreamer_v3.dream_ahead
    monkeypatch.setattr(dreamer_v3, "dream_ahead", lambda n, c, p, latent, _, key: dream(n, c, p, latent, None, key))


@pytest.mark.parametrize("name", ["vector", "image"])
def test_the_world_model_of_a_whole_agent(name, fixed_noise):
    networks, state, batch = agent(name)
    d = part(f"agent/{name}/")
    major = lambda x: np.swapaxes(x, 0, 1)  # noqa: E731
    model = state.params["model"]
    prepared = networks.prepare({}, batch.obs)
    close(major(networks.encode(model, prepared)), d["tokens"])
    _, output = world_model_loss(networks, TINY, model, batch, jax.random.key(0))
    close(major(output.latent.deter), d["repfeat/deter"])
    np.testing.assert_array_equal(np.round(major(output.latent.stoch)), d["repfeat/stoch"].reshape(2, 4, -1))
    for key, dist in networks.decode(model, features(output.latent)).items():
        found = major(dist.loc) + (0.5 if SPECS[name].obs[key].kind == "image" else 0.0)
        close(found.reshape(d[f"recon/{key}"].shape), d[f"recon/{key}"])
    for ours, theirs in (("loss/reward", "rew"), ("loss/discount", "con")):
        close(output.metrics[ours], d[f"losses/{theirs}"].mean())
    close(output.metrics["loss/kl"], d["losses/dyn"].mean() + 0.1 * d["losses/rep"].mean())
    for key, spec in SPECS[name].obs.items():
        constant = np.log(2 * np.pi) * np.prod(spec.shape, dtype=int)
        close(output.metrics[f"loss/obs/{key}"] - constant, d[f"losses/{key}"].mean(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["vector", "image"])
def test_loss_and_gradients_of_a_whole_agent(name, fixed_noise):
    networks, state, batch = agent(name)
    d = part(f"agent/{name}/")
    key = jax.random.key(0)

    @jax.jit
    def run(params):
        loss = lambda p: dreamer_v3.total_loss(networks, TINY, p, state.aux, batch, key, key)  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, (_, metrics)), grads = run(state.params)
    constant = sum(np.log(2 * np.pi) * np.prod(spec.shape, dtype=int) for spec in SPECS[name].obs.values())
    close(loss - constant, d["loss"])
    close(metrics["loss/actor"], d["losses/policy"].mean())
    close(metrics["loss/critic"], d["losses/value"].mean())
    close(metrics["loss/replay_value"], 0.3 * d["losses/repval"].mean())
    close(metrics["imagined/return"], d["imagined/ret"].mean())
    expected = ours(part(f"agent/{name}/grads/"), jax.eval_shape(lambda: state.params))
    for (path, found), wanted in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected), strict=True
    ):
        size = max(1.0, float(np.abs(wanted).max()))
        close(found / size, wanted / size, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("name", ["vector", "image"])
def test_four_updates_of_a_whole_agent(name, fixed_noise):
    networks, state, batch = agent(name)
    update = jax.jit(dreamer_v3.make(TINY, SPECS[name], networks).update)
    shapes = jax.eval_shape(lambda: state.params)
    constant = sum(np.log(2 * np.pi) * np.prod(spec.shape, dtype=int) for spec in SPECS[name].obs.values())
    for loss, low, high, norm in part(f"agent/{name}/")["train4/loss_lo_hi_gradnorm"]:
        state, metrics = update(state, batch)
        total = sum(metrics[f"loss/{key}"] for key in ("model", "actor", "critic", "replay_value"))
        close(total - constant, loss, rtol=1e-3)
        close([state.aux["returns"].low, state.aux["returns"].high], [low, high], rtol=1e-3, atol=1e-4)
        norms = [float(metrics[f"grad_norm/{key}"]) for key in ("model", "actor", "critic")]
        close(np.linalg.norm(norms), norm, rtol=1e-3)
    theirs = part(f"agent/{name}/train4/params/")
    expected = ours(theirs, shapes) | {"slow": translated(theirs, shapes["critic"], CRITIC, root="slowval")}
    found = state.params | {"slow": state.aux["target_critic"]}
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        close(x, y, rtol=1e-4, atol=1e-4, err_msg=jax.tree_util.keystr(path))
