"""DreamerV1 and V2 against numbers computed by the authors' code (danijar/dreamer 56d4d44, danijar/dreamerv2 07d906e).

``fixtures/v1_released.npz`` and ``v2_released.npz`` hold inputs, parameters and noise of three cases each, and what the
TensorFlow code makes of them in float32 on a CPU. Theirs is batch-major. Every array is read, and compared unless it is an
input; the test of a case fails where one is left over. Differences are relative to an array's largest number.

Deviations, each with its reason:

- ``kl_test/balance0.5_*``: the released V2 reads exactly 0.5 as another loss; here that is ``kl_balance=none`` with
  ``free_nats_per=state``.
- ``actor_both_constant_action``: not what the released code does, hence no setting: put together from the other two.
- V1 ``disc``: where V1 learns ends it starts no dream from a sequence's last entry; we give terminal starts weight zero.
  Its update is put together here from the same losses and optimizers.
- V1 ``metric/action_ent`` of continuous actions: an estimate from samples whose noise is not stored; to 2 %.
- V1 ``actor/log_prob``: 7e-3 between versions of TensorFlow itself, at samples that tanh rounds to +-1.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdreamer.agent import behavior
from jaxdreamer.agent.behavior import behavior_loss, dream_ahead
from jaxdreamer.agent.learner import make_learner
from jaxdreamer.agent.optim import make_optimizers
from jaxdreamer.agent.policy import make_policy
from jaxdreamer.agent.rssm import observe
from jaxdreamer.agent.world_model import learned_reward, log_likelihood, world_model_loss
from jaxdreamer.config import preset
from jaxdreamer.nets.networks import features, make_networks
from jaxdreamer.ops.distributions import Categoricals, Distribution, Normal, TanhNormal
from jaxdreamer.ops.exploration import explore
from jaxdreamer.ops.kl import balanced_kl, kl_divergence
from jaxdreamer.ops.returns import discount_weights
from jaxdreamer.ops.trees import tree_norm
from jaxdreamer.types import (
    ActionPart,
    ActionSpec,
    ArraySpec,
    Batch,
    EnvSpec,
    Imagined,
    PolicyState,
    TrainState,
)

CLOSE = 1e-5
# Compiling takes nearly all of the time: these options halve it.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
KEY = jax.random.key(0)
CONTINUOUS, DISCRETE = ActionSpec((ActionPart("continuous", 2),)), ActionSpec((ActionPart("discrete", 3),))
IMAGE = {"image": ArraySpec((64, 64, 3), "uint8", "image")}
VECTORS = {"position": ArraySpec((5,), "float32", "vector"), "velocity": ArraySpec((3,), "float32", "vector")}
V2 = {
    "deter_size": 16, "stoch_size": 4, "hidden_size": 12, "units": 16, "cnn_depth": 2, "vector_layers": 2,
    "reward_layers": 2, "discount_layers": 2, "critic_layers": 2, "actor_layers": 2, "imagine_horizon": 4,
    "target_critic_every": 2,
}  # fmt: skip
V1 = {
    "deter_size": 16,
    "stoch_size": 4,
    "hidden_size": 16,
    "units": 16,
    "cnn_depth": 2,
    "imagine_horizon": 4,
    "embed_size": 0,
}
CASES = {
    ("v2", "cont"): (preset("dreamer_v2", **V2, classes=4), EnvSpec(IMAGE | VECTORS, CONTINUOUS)),
    ("v2", "disc"): (preset("dreamer_v2_atari", **(V2 | {"deter_size": 16}), classes=4), EnvSpec(IMAGE, DISCRETE)),
    ("v2", "gauss"): (
        preset("dreamer_v2", **V2, classes=0, discount_head=True, discount=0.97, free_nats=0.3, actor_entropy=3e-3,
               actor_gradient="both"),
        EnvSpec(VECTORS, CONTINUOUS),
    ),
    ("v1", "cont"): (preset("dreamer_v1", **V1), EnvSpec(IMAGE, CONTINUOUS)),
    ("v1", "cont_free"): (
        preset("dreamer_v1", **V1, free_nats=0.1, kl_loss_coeff=0.7, reward_transform="tanh"), EnvSpec(IMAGE, CONTINUOUS),
    ),
    ("v1", "disc"): (
        preset("dreamer_v1", **V1, discount_head=True, discount=0.97, free_nats=0.1), EnvSpec(IMAGE, DISCRETE),
    ),
}  # fmt: skip


@functools.cache
def stored(version):
    with np.load(Path(__file__).parent / "fixtures" / f"{version}_released.npz") as found:
        return {key: found[key] for key in found.files}


class Numbers:
    """The arrays of one case by name, with a list of those not yet read."""

    def __init__(self, version, case):
        self.data = {
            key.removeprefix(f"{case}/"): x
            for key, x in stored(version).items()
            if key.startswith((f"{case}/", "data/"))
        }
        self.unread = {key for key in self.data if not key.startswith("data/")}

    def __getitem__(self, key):
        self.unread.discard(key)
        return self.data[key]

    def __contains__(self, key):
        return key in self.data

    def under(self, prefix):
        return {key.removeprefix(prefix): self[key] for key in self.data if key.startswith(prefix)}

    def close(self, found, key, tolerance=CLOSE):
        assert_close(found, self[key], key, tolerance)


def assert_close(found, expected, what, tolerance=CLOSE):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    scale = max(float(np.abs(expected).max()), 1e-8)
    assert np.abs(found - expected).max() <= tolerance * scale, (what, np.abs(found - expected).max() / scale)


# ---- parameters ----------------------------------------------------------------------------------------------------------

# Ours on the left, without a layer's number. It goes where {} stands, plus what is between the braces.
NAMES = {
    "v2": {
        "encoder/image_image/conv": "encoder/conv{}", "encoder/vector/dense": "encoder/dense{}", "rssm/input": "rssm/img_in",
        "rssm/recurrent/gates": "rssm/cell/gates", "rssm/recurrent/norm": "rssm/cell/norm",
        "rssm/prior_hidden": "rssm/img_out_0", "rssm/prior_out": "rssm/img_dist_0", "rssm/posterior": "rssm/obs_out",
        "rssm/posterior_out": "rssm/obs_dist", "decoder/image_image/dense": "decoder/convin",
        "decoder/image_image/deconv": "decoder/conv{}", "decoder/vector/mlp/dense": "decoder/dense{}",
        "decoder/vector/out_position": "decoder/dense_position/out",
        "decoder/vector/out_velocity": "decoder/dense_velocity/out",
        "mlp/dense": "dense{}", "out": "out/out",
    },
    "v1": {
        "encoder/image_image/conv": "encoder/h{1}", "rssm/input": "rssm/img1", "rssm/recurrent": "rssm/cell",
        "rssm/prior_hidden": "rssm/img2", "rssm/prior_out": "rssm/img3", "rssm/posterior": "rssm/obs1",
        "rssm/posterior_out": "rssm/obs2", "decoder/image_image/dense": "decoder/h1",
        "decoder/image_image/deconv": "decoder/h{2}", "mlp/dense": "h{0}", "out": "hout",
    },
}  # fmt: skip
LEAVES = {"scale": "gamma", "norm_bias": "beta", "kernel_x": "kernel", "kernel_h": "recurrent_kernel"}


def their_name(version, path):
    """The name of one of our parameters in the released code, as (layer, leaf)."""
    *where, leaf = path
    if leaf.startswith("posterior_"):
        where, leaf = [*where, "posterior"], leaf.removeprefix("posterior_")
    layer, _, number = where[-1].rpartition("_")
    where, number = ([*where[:-1], layer], int(number)) if number.isdigit() else (where, 0)
    root = where[:2] if where[0] == "model" and where[1] in ("reward", "discount") else where[:1]
    name = NAMES[version]["/".join(where[len(root) :])]
    for start in range(3):
        name = name.replace(f"{{{start}}}", str(number + start))
    leaf = "norm_bias" if where[-1] == "norm" and leaf == "bias" else leaf
    return "/".join([*root, name.replace("{}", str(number))]), LEAVES.get(leaf, leaf)


def with_our_cell(theirs):
    """V1's arrays with its cell's gates in our order, and with its two biases apart."""
    found = {}
    for key, x in theirs.items():
        if "/cell/" in key:
            update, reset, candidate = np.split(x, 3, axis=-1)
            x = np.concatenate([reset, update, candidate], axis=-1)
        found |= dict(zip((f"{key}_x", f"{key}_h"), x)) if key.endswith("cell/bias") else {key: x}
    return found


def translated(version, theirs, shapes):
    """A tree of the given shapes with their numbers, every one of which is used once."""
    left = with_our_cell(theirs) if version == "v1" else dict(theirs)

    def find(path, shape):
        path = [entry.key for entry in path]
        layer, leaf = their_name(version, path)
        value = left.pop(f"{layer}/{leaf}")
        if (std := left.pop(f"{layer.removesuffix('out')}std/{leaf}", None)) is not None:
            value = np.concatenate([value, std], axis=-1)  # they have a layer for means and one for deviations
        if "deconv" in path[-2] and leaf == "kernel":
            value = np.swapaxes(value, 2, 3)
        assert value.shape == shape.shape, (path, value.shape, shape.shape)
        return jnp.asarray(value)

    found = jax.tree_util.tree_map_with_path(find, shapes)
    assert not left, left.keys()
    return found


class Case:
    """One case: configuration, networks, parameters and batch, as ours."""

    def __init__(self, version, name):
        self.version, self.numbers = version, Numbers(version, name)
        self.config, self.spec = CASES[version, name]
        self.networks = make_networks(self.config.model, self.spec)
        self.shapes = jax.eval_shape(self.networks.init, KEY)
        n = self.numbers
        theirs = n.under("params/")
        target = {key.replace("target", "critic"): x for key, x in theirs.items() if key.startswith("target")}
        self.params = self.ours({key: x for key, x in theirs.items() if not key.startswith("target")})
        self.target = self.ours(target)["critic"] if target else self.params["critic"]
        action = n["data/action_disc" if self.spec.action.is_discrete else "data/action_cont"]
        terminal = n["data/is_terminal"] if version == "v2" else n["data/discount"] == 0
        first = n["data/is_first"] if version == "v2" else np.zeros_like(terminal)
        obs = {key: n[f"data/{key}"] for key in self.spec.obs}
        batch = Batch(obs, action, n["data/reward"], first, np.zeros_like(terminal), terminal)
        self.batch = jax.tree.map(lambda x: jnp.asarray(np.swapaxes(x, 0, 1)), batch)

    def ours(self, theirs):
        """Parameters or gradients of the parts that ``theirs`` has."""
        parts = {key.split("/")[0] for key in theirs}
        return translated(self.version, theirs, {name: x for name, x in self.shapes.items() if name in parts})

    def close_tree(self, found, prefix, tolerance=CLOSE):
        """Compare a tree with all arrays below a prefix."""
        expected = self.ours(self.numbers.under(prefix))
        for (path, x), y in zip(
            jax.tree_util.tree_leaves_with_path(expected),
            jax.tree.leaves({name: found[name] for name in expected}),
            strict=True,
        ):
            assert_close(y, x, prefix + jax.tree_util.keystr(path), tolerance)


# ---- noise ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def noise(monkeypatch):
    """Lists of noise that samples are drawn from, first come, first served: of latents and of actions."""
    queues = {"latent": [], "action": []}

    def sample(self, key):
        return self.from_noise(queues["latent" if isinstance(self, Normal | Categoricals) else "action"].pop(0))

    def imagine(*, policy, step, start, horizon, key):
        latents, actions = [start], []
        for _ in range(horizon):
            actions.append(policy(latents[-1], key))
            latents.append(step(latents[-1], actions[-1], key))
        return Imagined(jax.tree.map(lambda *x: jnp.stack(x), *latents), jnp.stack(actions))

    monkeypatch.setattr(Distribution, "sample", sample)
    monkeypatch.setattr(behavior, "imagine", imagine)
    return queues


def watching(networks, noise):
    """The networks with the noise of posteriors given, [T, B, ...]."""
    return networks._replace(rssm=networks.rssm._replace(noise=lambda key, shape: noise))


def major(x):
    """[T, B, ...] to [B, T, ...] or back."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), x)


# ---- world model ---------------------------------------------------------------------------------------------------------


def check_world_model(case):
    """Everything that is inferred and predicted on real sequences; returns the posterior's latents [B, T, ...]."""
    n, config, model = case.numbers, case.config, case.params["model"]
    networks = watching(case.networks, major(n["noise/post"]))
    batch = case.batch

    @quick_jit
    def run(model):
        targets = networks.prepare(networks.statistics, batch.obs)
        first = batch.is_first.at[0].set(True) if config.loss.mask_first_action else batch.is_first
        embed = networks.encode(model, targets)
        latent, post, prior = observe(networks.rssm, model, embed=embed, action=batch.action, is_first=first, key=KEY)
        feat = features(latent)
        decoded = networks.decode(model, feat)
        reward = networks.reward(model, feat)
        likes = {key: log_likelihood(dist, targets[key], 2) for key, dist in decoded.items()}
        likes["reward"] = reward.log_prob(learned_reward(batch.reward, config))
        discount = networks.discount(model, feat) if networks.discount else None
        target = config.behavior.discount * (1 - batch.is_terminal)
        if discount:
            likes["discount"] = discount.log_prob(target)
        found = {
            "embed": embed, "reward_pred": reward.mode(), "pre/reward": learned_reward(batch.reward, config),
            "kl": kl_divergence(post, prior), "pre/discount": target,
        }  # fmt: skip
        return major((found, targets, latent, post, prior, decoded, likes, discount and discount.mean()))

    found, targets, latent, post, prior, decoded, likes, discount = run(model)
    for key, x in found.items():
        if key in n:
            n.close(x, key)
    if discount is not None:
        n.close(discount, "discount_pred")
    for name, dist in (("post", post), ("prior", prior)):
        for ours, theirs in (("logits", "logit"), ("loc", "mean"), ("std", "std")):
            if hasattr(dist, ours):
                n.close(getattr(dist, ours), f"{name}/{theirs}")
    n.close(latent.stoch.reshape(n["post/stoch"].shape), "post/stoch")
    n.close(latent.deter, "post/deter")
    for key, x in likes.items():
        n.close(x, f"like/{key}")
    for key, dist in decoded.items():
        if key == "image":
            image = dist.loc
            n.close(targets[key][0, 0, :4, :4], "pre/image_first")
            n.close(image[0, 1], "decoded/image")
            n.close(image.mean((-3, -2, -1)), "decoded/image_mean")
            if "decoded/image_std" in n:
                n.close(image.std((-3, -2, -1)), "decoded/image_std")
        else:
            n.close(dist.loc, f"decoded/{key}")
    return latent, post, prior


def check_model_gradient(case):
    n, config = case.numbers, case.config
    networks = watching(case.networks, major(n["noise/post"]))
    loss = lambda model: world_model_loss(networks, config, model, case.batch, KEY)  # noqa: E731
    (total, output), grads = quick_jit(jax.value_and_grad(loss, has_aux=True))(case.params["model"])
    n.close(total, "loss/model")
    case.close_tree({"model": grads}, "grad_model/")
    weights = config.loss
    coefficients = {
        "reward": weights.reward_loss_coeff,
        "discount": weights.discount_loss_coeff,
        "kl": weights.kl_loss_coeff,
    }
    metrics = output.metrics
    for key, x in metrics.items():
        if key.startswith("loss/") and key != "loss/model":
            name = key.split("/")[-1]
            n.close(x / coefficients.get(name, 1.0), f"metric/{name}_loss")
    n.close(metrics["kl"], "metric/model_kl")
    n.close(metrics["posterior_entropy"], "metric/post_ent")
    n.close(metrics["prior_entropy"], "metric/prior_ent")


def check_kl(case, post, prior):
    n = case.numbers
    names = {"logits": "logit", "loc": "mean", "std": "std"}
    for balance in (0.8, 0.5):
        for nats in (0, 1, 1000):
            prefix = f"kl_test/balance{balance}_free{nats}/"
            how = {"balance": None, "per_element": True} if balance == 0.5 else {"balance": balance}
            loss = lambda pair: balanced_kl(*pair, free_nats=float(nats), **how)[0]  # noqa: B023, E731
            found, grads = jax.value_and_grad(loss)((post, prior))
            n.close(found, prefix + "loss")
            for side, grad in zip(("post", "prior"), grads):
                for ours, theirs in names.items():
                    if hasattr(grad, ours):
                        n.close(getattr(grad, ours), f"{prefix}grad_{side}_{theirs}")


# ---- behaviour of V2 -----------------------------------------------------------------------------------------------------


def check_dream(case, latent, noise):
    n, config, networks, params = case.numbers, case.config, case.networks, case.params
    start = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), latent)
    constants = {
        "model": params["model"], "target_critic": case.target, "start": start,
        "start_terminal": case.batch.is_terminal.T.reshape(-1), "key": KEY,
    }  # fmt: skip

    def fill():
        noise.update(latent=list(n["noise/imag_latent"]), action=list(n["noise/imag_action"]))

    @quick_jit
    def run(trained):
        fill()
        dream = dream_ahead(networks, config, trained["actor"], **constants)
        found = {}
        for gradient in ("dynamics", "reinforce", "both"):
            changed = replace(config, behavior=replace(config.behavior, actor_gradient=gradient))
            loss = lambda x: behavior_loss(networks, changed, case.spec.action, x, **constants)  # noqa: B023, E731
            fill()
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
            found[gradient] = (metrics, grads)
        critic = networks.critic(trained["critic"], dream.feat).mode()
        return dream, critic, discount_weights(dream.discount), networks.actor(trained["actor"], dream.feat[:3]), found

    dream, critic, weight, policy, found = run({name: params[name] for name in ("actor", "critic")})
    n.close(dream.feat, "imag/feat")
    n.close(jnp.concatenate([jnp.zeros_like(dream.action[:1]), dream.action]), "imag/action")
    for key, x in {
        "reward": dream.reward, "discount": dream.discount, "value": dream.value, "target": dream.returns, "critic": critic,
        "weight": weight, "entropy": policy.entropy(KEY), "log_prob": policy.log_prob(dream.action[:3]),
        "actor_mode": policy.mode(),
    }.items():  # fmt: skip
        n.close(x, f"imag/{key}")
    for ours, theirs in (("loc", "actor_loc"), ("std", "actor_scale"), ("logits", "actor_logits")):
        if hasattr(policy, ours):
            n.close(getattr(policy, ours), f"imag/{theirs}")
    for gradient, (metrics, grads) in found.items():
        n.close(metrics["loss/actor"], f"loss/actor_{gradient}")
        terms = metrics["actor/return_term"] + metrics["actor/entropy_bonus"]
        assert_close(-terms, metrics["loss/actor"], "the two terms")
        case.close_tree(grads, f"grad_actor_{gradient}/")
        n.close(metrics["loss/critic"], "loss/critic")
        case.close_tree(grads, "grad_critic/")
    mix = config.behavior.actor_gradient_mix
    mixed = jax.tree.map(lambda a, b: mix * a + (1 - mix) * b, found["dynamics"][1], found["reinforce"][1])
    case.close_tree(mixed, "grad_actor_both_constant_action/")
    n.close(found["both"][0]["loss/actor"], "loss/actor_both_constant_action")


def check_policy(case, latent, noise, modes):
    """Acting at entry 3 from the posterior of entry 2; ``modes`` are ours by their names."""
    n = case.numbers
    policy = make_policy(case.config, case.spec, case.networks)
    params = {"model": case.params["model"], "actor": case.params["actor"], "statistics": {}}
    obs = {key: x[3] for key, x in case.batch.obs.items()}
    before = n["policy/state_action"] if "policy/state_action" in n else case.batch.action[2]
    state = PolicyState(jax.tree.map(lambda x: x[:, 2], latent), jnp.asarray(before))
    for name, mode in modes.items():
        noise["latent"] = [n[f"{name}/noise_latent"]]
        noise["action"] = [n[f"{name}/noise_action"]] if f"{name}/noise_action" in n else []
        action, after = policy.act(params, state, obs, case.batch.is_first[3], KEY, mode)
        n.close(action, f"{name}/action")
        n.close(after.latent.stoch.reshape(n[f"{name}/stoch"].shape), f"{name}/stoch")
        n.close(after.latent.deter, f"{name}/deter")


# ---- whole updates -------------------------------------------------------------------------------------------------------

OPTIMIZED = ("model", "actor", "critic")


def fresh_state(case):
    optimizers = make_optimizers(case.config.optimizer)
    zero = jnp.zeros((), jnp.int32)
    states = {name: optimizers[name].init(case.params[name]) for name in OPTIMIZED}
    aux = {"target_critic": case.target, "statistics": {}}
    return TrainState(case.params, states, aux, zero, zero, zero, KEY)


def check_updates(case, noise, names):
    """Three whole updates, one after another; ``names`` are theirs of losses and of gradient norms, with {} for the part."""
    n = case.numbers

    @quick_jit
    def update(state, post, latent, action):
        # Their dreams start from rows b * T + t, ours from t * B + b.
        ours = lambda x: major(x.reshape(3, 6, *x.shape[1:])).reshape(x.shape)  # noqa: E731
        noise.update(latent=[ours(x) for x in latent], action=[ours(x) for x in action])
        learner = make_learner(case.config, case.spec, watching(case.networks, major(post)))
        return learner.update(state, case.batch)

    state = fresh_state(case)
    for index in range(3):
        given = (n[f"update{index}/noise/{key}"] for key in ("post", "imag_latent", "imag_action"))
        state, metrics = update(state, *map(jnp.asarray, given))
        for part in OPTIMIZED:
            for ours, theirs in zip(("loss", "grad_norm"), names):
                n.close(metrics[f"{ours}/{part}"], f"update{index}/{theirs.format(part)}")
        if any(key.startswith(f"update{index}/params") for key in n.data):
            case.close_tree(state.params, f"update{index}/params/")
    return state


@pytest.mark.parametrize("name", ["cont", "disc", "gauss"])
def test_v2(name, noise):
    case = Case("v2", name)
    latent, post, prior = check_world_model(case)
    check_model_gradient(case)
    check_kl(case, post, prior)
    check_dream(case, latent, noise)
    check_policy(case, latent, noise, {"policy_eval": "greedy", "policy_train": "sample"})
    state = check_updates(case, noise, ("{}_loss", "{}_grad_norm"))
    for found, expected in zip(jax.tree.leaves(state.aux["target_critic"]), jax.tree.leaves(state.params["critic"])):
        # Moved after updates 0 and 2. XLA computes both in fusions of their own, which may round apart by a last digit.
        np.testing.assert_allclose(found, expected, rtol=2e-7, atol=0)
    assert not case.numbers.unread, sorted(case.numbers.unread)


# ---- V1 ------------------------------------------------------------------------------------------------------------------


def check_first_update(case, noise):
    """The first update of V1 piece by piece, its dreams started where the released code starts them."""
    n, config, networks, params = case.numbers, case.config, case.networks, case.params
    watched = watching(networks, major(n["update0/noise/post"]))
    starts = 5 if networks.discount else 6  # where ends are learned, their last entries start no dream
    constants = {"model": params["model"], "target_critic": params["critic"], "key": KEY}
    constants["start_terminal"] = jnp.zeros(3 * starts, bool)
    optimizers = make_optimizers(config.optimizer)
    clip = optax.clip_by_global_norm(config.optimizer.grad_clip_norm)

    def total(params):
        model_loss, output = world_model_loss(watched, config, params["model"], case.batch, KEY)
        parts = {name: params[name] for name in ("actor", "critic")}
        noise.update(latent=list(n["update0/noise/imag_latent"]), action=list(n["update0/noise/imag_action"]))
        start = jax.tree.map(lambda x: major(x)[:, :starts].reshape(-1, x.shape[-1]), output.latent)
        loss, metrics = behavior_loss(networks, config, case.spec.action, parts, start=start, **constants)
        return model_loss + loss, (output.metrics | metrics, output.latent, start)

    @quick_jit
    def run(params):
        (_, (metrics, latent, start)), grads = jax.value_and_grad(total, has_aux=True)(params)
        clipped = {name: clip.update(grads[name], clip.init(params[name]))[0] for name in OPTIMIZED}
        new = {}
        for name, optimizer in optimizers.items():
            updates, _ = optimizer.update(grads[name], optimizer.init(params[name]), params[name])
            new[name] = optax.apply_updates(params[name], updates)
        noise.update(latent=list(n["update0/noise/imag_latent"]), action=list(n["update0/noise/imag_action"]))
        dream = dream_ahead(networks, config, params["actor"], start=start, **constants)
        policy = networks.actor(new["actor"], features(latent))  # logged after the update
        return metrics, {name: tree_norm(grads[name]) for name in OPTIMIZED}, clipped, new, dream, policy

    metrics, norms, clipped, new, dream, policy = run(params)
    for name, theirs in (("model", "model"), ("actor", "actor"), ("critic", "value")):
        for key in (f"loss/{name}", f"metric/{theirs}_loss"):
            n.close(metrics[f"loss/{name}"], f"update0/{key}")
        for key in (f"grad_norm/{name}", f"metric/{theirs}_grad_norm"):
            n.close(norms[name], f"update0/{key}")
        case.close_tree(clipped, f"update0/grad_{name}/")
    n.close(dream.feat[1:], "update0/imag/feat")
    for key, x in {"reward": dream.reward, "value": dream.value, "discount": dream.discount}.items():
        n.close(x[1:-1], f"update0/imag/{key}")
    n.close(dream.value[-1], "update0/imag/bootstrap")
    n.close(dream.returns[1:], "update0/imag/returns")
    n.close(metrics["prior_entropy"], "update0/metric/prior_ent")
    n.close(metrics["posterior_entropy"], "update0/metric/post_ent")
    n.close(metrics["loss/obs/image"], "update0/metric/image_loss")
    n.close(metrics["loss/reward"], "update0/metric/reward_loss")
    n.close(metrics["loss/kl"] / config.loss.kl_loss_coeff, "update0/metric/div")
    if networks.discount:
        n.close(metrics["loss/discount"], "update0/metric/pcont_loss")
    case.close_tree(new, "update0/params/")
    if isinstance(policy, TanhNormal):
        samples = policy.from_noise(jax.random.normal(KEY, (100, *policy.loc.shape)))
        n.close(-jnp.mean(policy.log_prob(samples)), "update0/metric/action_ent", 0.02)
    else:
        n.close(jnp.mean(policy.entropy()), "update0/metric/action_ent")


def check_actor(case, latent, monkeypatch):
    """The policy on real states: samples, densities, the evaluation's action and exploration."""
    n = case.numbers
    dist = case.networks.actor(case.params["actor"], features(latent))
    sample = dist.from_noise(n["actor/noise"])
    n.close(sample, "actor/sample")
    for ours, theirs in (("loc", "loc"), ("std", "std"), ("logits", "logits")):
        if hasattr(dist, ours):
            n.close(getattr(dist, ours), f"actor/{theirs}")
    if not isinstance(dist, TanhNormal):
        n.close(dist.log_prob(sample), "actor/log_prob")
        n.close(dist.mode(), "actor/mode")
        n.close(dist.mean(), "actor/mean")
        return
    n.close(dist.log_prob(n["actor/sample"]), "actor/log_prob", 7e-3)
    one = TanhNormal(dist.loc[0, :1], dist.std[0, :1])
    n.close(TanhNormal(one.loc[0], one.std[0]).log_prob(n["actor/edge_actions"]), "actor/edge_log_prob")
    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "split", lambda key, samples: key)
        patch.setattr(TanhNormal, "noise", lambda self, key: key)
        patch.setattr(TanhNormal, "sample", lambda self, key: self.from_noise(key))
        n.close(one.best_of(jnp.asarray(n["actor/mode_noise"])), "actor/mode_one")
    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "normal", lambda *_: jnp.asarray(n["expl/noise"]))
        n.close(explore(KEY, sample, case.spec.action, gaussian=0.3, epsilon=0.0), "expl/action")


@pytest.mark.parametrize("name", ["cont", "cont_free", "disc"])
def test_v1(name, noise, monkeypatch):
    case = Case("v1", name)
    n = case.numbers
    latent, post, prior = check_world_model(case)
    n.close(jnp.mean(post.entropy()), "metric/post_ent")
    n.close(jnp.mean(prior.entropy()), "metric/prior_ent")
    check_first_update(case, noise)
    check_actor(case, latent, monkeypatch)
    with monkeypatch.context() as patch:
        if "policy/noise_expl" in n:
            patch.setattr(jax.random, "normal", lambda *_: jnp.asarray(n["policy/noise_expl"]))
        check_policy(case, latent, noise, {"policy": "explore"})
    if name != "disc":
        check_updates(case, noise, ("loss/{}", "grad_norm/{}"))
    assert not n.unread, sorted(n.unread)
