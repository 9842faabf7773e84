"""torchwm's own numbers: modules to 1e-5, and its two full updates, by the views and the agent of the facade."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jaxdreamer import ActionPart, ActionSpec, ArraySpec, EnvSpec, make_networks, preset  # noqa: E402
from jaxdreamer.agent import behavior, rssm  # noqa: E402
from jaxdreamer.ops.distributions import tanh_normal_from_raw  # noqa: E402
from jaxdreamer.ops.kl import kl_divergence  # noqa: E402
from tests.torchwm_compat import cases  # noqa: E402
from torchwm_compat.agent import dreamer_utils  # noqa: E402
from torchwm_compat.agent.core import Dreamer, old_batch, preprocess_obs  # noqa: E402
from torchwm_compat.config.settings import DreamerConfig  # noqa: E402
from torchwm_compat.files import weights  # noqa: E402
from torchwm_compat.files.checkpoint import moments  # noqa: E402

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SMALL = {"deter_size": 32, "stoch_size": 8, "obs_embed_size": 64, "num_units": 64, "buffer_size": 50, "batch_size": 3,
         "train_seq_len": 6, "imagine_horizon": 4}  # fmt: skip


def close(found, expected, **tolerance):
    found = {k: np.asarray(v) for k, v in found.items()} if isinstance(found, dict) else np.asarray(found)
    if isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name in found:
            np.testing.assert_allclose(found[name], expected[name], err_msg=name, **(tolerance or CLOSE))
    else:
        np.testing.assert_allclose(found, expected, **(tolerance or CLOSE))


@pytest.fixture(scope="module")
def small():
    """An agent of three actions with the weights of torchwm's small modules."""
    data = cases.numbers("parity_small")
    dreamer = Dreamer(DreamerConfig(**SMALL, use_disc_model=True), (3, 64, 64), 3)
    states = {"rssm": "rssm_small", "actor": "actor_small", "obs_encoder": "encoder_embed64",
              "reward_model": "dense_reward_normal", "value_model": "dense_value_normal",
              "discount_model": "dense_discount_binary"}  # fmt: skip
    dreamer.load_state_dicts({module: cases.part(data, f"{case}/w/") for module, case in states.items()})
    return dreamer


def recorded(monkeypatch, view, *noises):
    """Let the latent's noise be what torchwm drew, in its order."""
    rest = iter(noises)
    monkeypatch.setattr(view, "_draw", lambda shape: jnp.asarray(next(rest)).reshape(*shape, -1), raising=False)


def rssm_case(name, dreamer, data, monkeypatch):
    view, given = dreamer.rssm, cases.part(data, f"{name}/in/")
    out, noise = cases.part(data, f"{name}/out/"), cases.part(data, f"{name}/noise/")
    state = lambda prefix, source: cases.part(source, f"{prefix}.")  # noqa: E731
    recorded(monkeypatch, view, *noise["imagine"])
    found = view.imagine_step(state("imagine_state", given), given["imagine_action"], given["imagine_nonterm"])
    close(found, state("imagine", out))
    recorded(monkeypatch, view, *noise["observe_prior_then_posterior"])
    posterior, prior = view.observe_step(
        state("observe_state", given), given["observe_action"], given["observe_embed"], given["observe_nonterm"]
    )
    close(posterior, state("observe_posterior", out))
    close(prior, state("observe_prior", out))
    recorded(monkeypatch, view, *(x for pair in zip(noise["rollout_prior"], noise["rollout_posterior"]) for x in pair))
    steps, batch = given["rollout_nonterms"].shape[:2]
    prior, posterior = view.observe_rollout(
        given["rollout_embeds"], given["rollout_actions"], given["rollout_nonterms"], view.init_state(batch), steps
    )
    close(posterior, state("rollout_posterior", out))
    close(prior, state("rollout_prior", out))
    dists = [rssm_normal(x) for x in (posterior, prior)]
    close(kl_divergence(*dists), out["rollout_kl_post_prior"], rtol=1e-5, atol=1e-4)


def rssm_normal(state):
    from jaxdreamer import Normal

    return Normal(jnp.asarray(state["mean"]), jnp.asarray(state["std"]))


def test_the_rssm(small, monkeypatch):
    rssm_case("rssm_small", small, cases.numbers("parity_small"), monkeypatch)


def test_an_imagined_rollout(small, monkeypatch):
    data = cases.numbers("parity_small")
    actions = iter(data["rssm_small/noise/imagine_rollout_action"])
    recorded(monkeypatch, small.rssm, *data["rssm_small/noise/imagine_rollout_prior"])

    def policy(feat, deter):
        assert deter is False
        dist = small.programs.networks.actor(small.params["actor"], jnp.asarray(feat))
        return np.asarray(dist.from_noise(next(actions)))

    start = cases.part(data, "rssm_small/in/imagine_rollout_state.")
    close(small.rssm.imagine_rollout(policy, start, 5), cases.part(data, "rssm_small/out/imagine_rollout."))


def test_the_rssm_and_the_actor_at_the_default_sizes(monkeypatch):
    with np.load(cases.whole("parity.npz")) as data:
        data = {key: data[key] for key in data.files if "default" in key}
    dreamer = Dreamer(DreamerConfig(buffer_size=50), (3, 64, 64), 6)
    torch_states = {"rssm": cases.part(data, "rssm_default/w/"), "actor": cases.part(data, "actor_default/w/")}
    dreamer.load_state_dicts(torch_states)
    # The encoder has no linear layer here: the embedding's order is torchwm's all the same.
    rssm_case("rssm_default", dreamer, data, monkeypatch)
    actor_case("actor_default", dreamer, data)


def actor_case(name, dreamer, data):
    dist = dreamer.programs.networks.actor(dreamer.params["actor"], jnp.asarray(data[f"{name}/in/features"]))
    out, noise = cases.part(data, f"{name}/out/"), cases.part(data, f"{name}/noise/")
    close(dist.loc, out["action_mean"])
    close(dist.std, out["action_std"])
    close(dist.mode(), out["tanh_of_mean"])
    close(dist.from_noise(noise["sample"]), out["sample"])
    close(jnp.clip(out["sample"] + 0.3 * noise["exploration"], -1, 1), out["explored"])
    raw = tanh_normal_from_raw(*np.split(out["raw"], 2, axis=-1))
    close(raw.loc, out["action_mean"])
    # The best of 100: the one of highest density, as torchwm's draws have it.
    candidates = jnp.tanh(dist.loc + dist.std * noise["mode_100"])
    best = jnp.argmax(dist.log_prob(candidates), axis=0)
    close(candidates[best, jnp.arange(len(best))], out["mode_of_100"])


def test_the_actor(small):
    actor_case("actor_small", small, cases.numbers("parity_small"))


def test_the_encoder_with_and_without_a_last_layer(small):
    data = cases.numbers("parity_small")
    raw = data["encoder_embed64/in/obs_uint8"]
    image = preprocess_obs(raw)
    close(np.mean(image), data["encoder_embed64/out/preprocessed_mean"])
    close(small.obs_encoder(image), data["encoder_embed64/out/embed"])
    close(small.obs_encoder({"image": raw}), data["encoder_embed64/out/embed"])
    identity = Dreamer(DreamerConfig(**{**SMALL, "obs_embed_size": 1024}), (3, 64, 64), 3)
    layers = {k: v for k, v in cases.part(data, "encoder_embed64/w/").items() if not k.startswith("fc")}
    identity.load_state_dicts({"obs_encoder": layers})
    close(identity.obs_encoder(image), data["encoder_embed1024_same_conv_identity_fc/out/embed"])


def test_the_decoder():
    """Of depth 8, which only jaxdreamer offers; the carrying of the weights is the facade's."""
    data = cases.numbers("parity_small")
    config = preset("dreamer_v1", cnn_depth=8, stoch_size=8, deter_size=32, hidden_size=32, units=16)
    spec = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ActionSpec((ActionPart("continuous", 3),)))
    networks = make_networks(config.model, spec)
    params = jax.jit(networks.init)(jax.random.key(0))
    states = weights.to_torch(params, spec)
    states["obs_decoder"] = cases.part(data, "decoder_depth8/w/")
    params = weights.to_jax(states, params, spec)
    dist = jax.jit(networks.decode)(params["model"], data["decoder_depth8/in/features"])["image"]
    close(np.moveaxis(dist.mean(), -1, -3), data["decoder_depth8/out/mean"])
    target = np.moveaxis(preprocess_obs(data["encoder_embed64/in/obs_uint8"]), -3, -1)
    close(dist.log_prob(target, event_ndim=3), data["decoder_depth8/out/log_prob_of_encoder_obs"], rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "module"),
    [
        ("dense_reward_normal", "reward_model"),
        ("dense_value_normal", "value_model"),
        ("dense_discount_binary", "discount_model"),
    ],
)
def test_the_dense_heads(small, case, module):
    data = cases.part(cases.numbers("parity_small"), f"{case}/")
    dist = getattr(small, module)(data["in/features"])
    close(dist.mean, data["out/mean"])
    close(dist.log_prob(data["in/target"]), data["out/log_prob"])
    assert dist.batch_shape == (5, 4) and dist.event_shape == (1,)


def test_the_helper_functions():
    data = cases.numbers("parity_small")
    given = cases.part(data, "compute_return/in/")
    found = dreamer_utils.compute_return(
        given["rewards"], given["values"], given["discounts"], float(given["td_lambda"]), given["last_value"]
    )
    close(found, data["compute_return/out/returns"])
    close(dreamer_utils.symlog(data["symlog/in/x"]), data["symlog/out/symlog"])
    close(dreamer_utils.symexp(data["symlog/in/x"] / 10), data["symlog/out/symexp_of_x_over_10"])
    encoder = dreamer_utils.TwoHotEncoder()
    close(encoder.encode(data["twohot/in/target"]), data["twohot/out/encoded"], atol=1e-4)
    close(encoder.decode(data["twohot/in/logits"]), data["twohot/out/decoded"], rtol=1e-4, atol=1e-4)
    tensor = dreamer_utils.symlog(torch.tensor([-1.0, 3.0]))
    assert isinstance(tensor, torch.Tensor)


# ---- the two full updates ---------------------------------------------------------------------------------------------


def first_weights():
    """The weights that torchwm's run began with: torch's own initialisation in the order torchwm makes its modules."""
    torch.manual_seed(27)
    stoch, deter, embed, units, action = 8, 32, 64, 64, 6
    nn = torch.nn

    def named(layers, prefix):
        return {f"{prefix}{i}.{k}": v for i, layer in layers for k, v in layer.state_dict().items()}

    def dense(prefix, hidden, outputs):
        widths = [stoch + deter] + [units] * hidden
        layers = [nn.Linear(i, o) for i, o in zip(widths, [*widths[1:], outputs])]
        return named(((2 * i, layer) for i, layer in enumerate(layers)), prefix)

    cell = nn.GRUCell(deter, deter)
    sizes = {"fc_state_action": (action + stoch, deter), "fc_embed_prior": (deter, deter),
             "fc_state_prior": (deter, 2 * stoch), "fc_embed_posterior": (embed + deter, deter),
             "fc_state_posterior": (deter, 2 * stoch)}  # fmt: skip
    rssm_layers = [("rnn", cell), *((name, nn.Linear(*size)) for name, size in sizes.items())]
    actor = dense("action_model.", 4, 2 * action)
    convs = [nn.Conv2d(i, o, 4, 2) for i, o in ((3, 32), (32, 64), (64, 128), (128, 256))]
    encoder = named(((2 * i, layer) for i, layer in enumerate(convs)), "conv_block.") | named(
        [("fc", nn.Linear(1024, embed))], ""
    )
    decoder = named([("dense", nn.Linear(stoch + deter, 1024))], "")
    channels = ((1024, 128, 5), (128, 64, 5), (64, 32, 6), (32, 3, 6))
    decoder |= named(((2 * i, nn.ConvTranspose2d(*c, 2)) for i, c in enumerate(channels)), "convtranspose.")
    reward, value = dense("model.", 2, 1), dense("model.", 3, 1)
    return {"rssm": named(rssm_layers, ""), "actor": actor, "obs_encoder": encoder, "obs_decoder": decoder,
            "reward_model": reward, "value_model": value}  # fmt: skip


class Tape:
    """Recorded noise, found again by the key that would have drawn it: a scan's body knows its step by its key alone."""

    def __init__(self, keys, noises):
        self._keys, self._noises = jnp.stack([jax.random.key_data(key) for key in keys]), jnp.asarray(noises)

    def __call__(self, key):
        return self._noises[jnp.argmax(jnp.all(self._keys == jax.random.key_data(key), axis=-1))]


class Played:
    """A distribution whose samples come off a tape."""

    def __init__(self, dist, tape):
        self._dist, self._tape = dist, tape

    def sample(self, key):
        return self._dist.from_noise(self._tape(key))

    def __getattr__(self, name):
        return getattr(self._dist, name)


def played_networks(networks, key, noise, horizon):
    """The networks with torchwm's recorded draws for the update that begins with ``key``."""
    _, _, key_behavior = jax.random.split(key, 3)
    key_dream, _ = jax.random.split(key_behavior)
    pairs = [jax.random.split(k) for k in jax.random.split(key_dream, horizon)]
    actions = Tape([policy for policy, _ in pairs], noise["imagine_action"])
    priors = Tape([step for _, step in pairs], noise["imagine_prior"])
    posterior = jnp.asarray(noise["observe_posterior"])
    return networks._replace(
        rssm=networks.rssm._replace(
            noise=lambda key, shape: posterior,
            prior=lambda params, deter: (
                networks.rssm.prior(params, deter)
                if deter.ndim == 3
                else Played(networks.rssm.prior(params, deter), priors)
            ),
        ),
        actor=lambda params, feat: (
            networks.actor(params, feat) if feat.ndim == 3 else Played(networks.actor(params, feat), actions)
        ),
    )


def test_two_full_updates_in_torchwms_order(monkeypatch):
    """Losses, returns, discounts, dreams, posteriors, and every parameter's gradient after clipping."""
    from jaxdreamer import make_learner

    data = cases.numbers("ckpt_expected")
    args = DreamerConfig(**SMALL, seed=7, update_order="torchwm")
    dreamer = Dreamer(args, (3, 64, 64), 6)
    dreamer.load_state_dicts(first_weights())
    given = cases.part(data, "train/in/")
    batch = old_batch(given["obs_uint8"], given["actions"], given["rewards"], 1 - given["terminals"])

    # torchwm forgets the state where an episode begins, and not the action.
    monkeypatch.setattr(
        rssm, "forget", lambda latent, action, first: (jax.tree.map(lambda x: x * ~first[..., None], latent), action)
    )
    seen = {}
    spy_on(monkeypatch, behavior, "lambda_return", seen, "returns", lambda x: x[1:])
    spy_on(monkeypatch, behavior, "discount_weights", seen, "discounts", lambda x: x)
    spy_on(
        monkeypatch,
        behavior,
        "imagine",
        seen,
        "dream",
        lambda x: jnp.concatenate([x.latent.stoch, x.latent.deter], -1)[1:],
    )

    state, before = dreamer.state, None
    networks = dreamer.programs.networks

    @jax.jit
    def update(state, batch, noise):
        played = played_networks(networks, state.key, noise, args.imagine_horizon)
        return make_learner(dreamer.config, dreamer.spec, played).update(state, batch)

    for step in range(2):
        noise, out = (cases.part(data, f"train/step{step}/{kind}/") for kind in ("noise", "out"))
        played = played_networks(networks, state.key, noise, args.imagine_horizon)
        model = state.params["model"]
        latent, posterior, _ = rssm.observe(
            played.rssm, model, embed=networks.encode(model, networks.prepare({}, batch.obs)), action=batch.action,
            is_first=batch.is_first, key=state.key,
        )  # fmt: skip
        found = {"mean": posterior.loc, "std": posterior.std, "stoch": latent.stoch, "deter": latent.deter}
        close(found, cases.part(out, "posterior."), rtol=1e-4, atol=1e-5)

        state, metrics = update(state, batch, noise)
        jax.effects_barrier()
        losses = [float(metrics[f"loss/{name}"]) for name in ("model", "actor", "critic")]
        np.testing.assert_allclose(losses, out["losses_model_actor_value"], rtol=1e-4)
        close(seen["returns"], out["returns"][..., 0], rtol=1e-4, atol=1e-6)
        close(seen["discounts"], out["discounts"][..., 0], rtol=1e-5)
        close(seen["dream"], out["imag_feat"], rtol=1e-3, atol=1e-4)

        after = moments(state, "mu", dreamer.spec)
        check_gradients(out, before, after)
        before = after


def check_gradients(out, before, after):
    """Adam's first moment is ``0.9 m + 0.1 g``: what each parameter's gradient was, after clipping."""
    norms = cases.part(out, "grad_norm_after_clip/")
    assert len(norms) == 40 + 10 + 8
    for name, norm in norms.items():
        module, _, key = name.partition("/")[2].partition(".")
        gradient = after[module][key] - (0 if before is None else 0.9 * before[module][key])
        np.testing.assert_allclose(np.linalg.norm(gradient / 0.1), norm, rtol=1e-3, atol=1e-6, err_msg=name)
        whole = out.get(f"grad_after_clip/{name}")
        if whole is not None:
            np.testing.assert_allclose(gradient / 0.1, whole, rtol=1e-3, atol=1e-3 * float(norm), err_msg=name)


def spy_on(monkeypatch, module, name, seen, key, pick):
    real = getattr(module, name)

    def spy(*args, **kwargs):
        result = real(*args, **kwargs)
        jax.debug.callback(lambda x: seen.__setitem__(key, np.array(x)), pick(result))
        return result

    monkeypatch.setattr(module, name, spy)


# ---- torchwm's checkpoint ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded():
    return Dreamer.from_pretrained(cases.whole("model.pt"), buffer_size=50)


@pytest.mark.parametrize("kind", ["zero_noise", "recorded_noise"])
def test_torchwms_checkpoint_loads_and_acts_alike(loaded, monkeypatch, kind):
    data = cases.numbers("ckpt_expected")
    out, given = cases.part(data, f"eval/{kind}/out/"), cases.part(data, "eval/in/")
    noise = cases.part(data, f"eval/{kind}/noise/") or {
        k: np.zeros((10, 8), np.float32) for k in ("prior", "posterior")
    }
    recorded(monkeypatch, loaded.rssm, *(x for pair in zip(noise["prior"], noise["posterior"]) for x in pair))
    state = loaded.rssm.init_state(1)
    embed = loaded.obs_encoder(preprocess_obs(given["obs_uint8"]))
    close(embed, data["eval/out/embed"])
    features = []
    for t in range(10):
        state, prior = loaded.rssm.observe_step(state, given["prev_actions"][t][None], embed[t][None])
        close(state["mean"][0], out["post_mean"][t])
        close(state["std"][0], out["post_std"][t])
        close(prior["mean"][0], out["prior_mean"][t])
        close(state["deter"][0], out["deter"][t])
        features.append(np.concatenate([state["stoch"][0], state["deter"][0]]))
    features = np.stack(features)
    dist = loaded.programs.networks.actor(loaded.params["actor"], jnp.asarray(features))
    close(dist.mode(), out["tanh_action"])
    close(loaded.reward_model(features).mean, out["reward"])
    close(loaded.obs_decoder(features[:2]).mean, out["decoded_mean_first2"])


def test_the_absent_value_model_is_told(caplog):
    with caplog.at_level("WARNING", "torchwm_compat"):
        Dreamer.from_pretrained(cases.whole("model.pt"), buffer_size=50)
    assert "the value model, which torchwm does not save, is absent" in caplog.text


def test_torchwms_checkpoint_comes_back_out_as_it_was(loaded, tmp_path):
    loaded.save(tmp_path / "again.pt")
    old = torch.load(cases.whole("model.pt"), weights_only=True)
    new = torch.load(tmp_path / "again.pt", weights_only=True)
    assert set(new) == {*old, "value_model", "jaxdreamer"}
    for module in ("rssm", "actor", "reward_model", "obs_encoder", "obs_decoder"):
        assert list(new[module]) == list(old[module])
        assert all(torch.equal(new[module][key], old[module][key]) for key in old[module])
    for name in ("actor_optimizer", "value_optimizer", "world_model_optimizer"):
        groups = [{k: v for k, v in data[name]["param_groups"][0].items() if k != "eps"} for data in (new, old)]
        assert groups[0] == groups[1] and new[name]["state"] == {}
