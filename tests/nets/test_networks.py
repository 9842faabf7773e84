"""Cells, heads and the networks as a whole: sizes, and equality with NumPy and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.config import ModelConfig, preset
from jaxdreamer.nets.cells import BlockGRUCell, GRUCell, LayerNormGRUCell
from jaxdreamer.nets.heads import Actor, ScalarHead
from jaxdreamer.nets.layers import BlockDense, RMSNorm, Style, in_blocks, side_by_side, trunc_normal
from jaxdreamer.nets.networks import features, make_networks
from jaxdreamer.ops.distributions import Bernoulli, Categoricals, Joint, OneHot, TanhNormal, TruncatedNormal, TwoHot
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec, Latent
from tests import oracles
from tests.agent import cases

MUJOCO_PIXELS = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ActionSpec((ActionPart("continuous", 6),)))
# Of the released code: V1 from the table in its paper's repository, V2 by hand from its layers.
SIZES = {
    "dreamer_v1": {
        "rssm": 557_920,
        "encoder": 690_144,
        "decoder": 3_795_555,
        "reward": 253_201,
        "critic": 413_601,
        "actor": 578_412,
    },
    "dreamer_v2": {
        "rssm": 1_247_248,
        "encoder": 1_551_312,
        "decoder": 9_886_611,
        "reward": 971_601,
        "critic": 971_601,
        "actor": 976_012,
    },
}


@pytest.mark.parametrize("version", SIZES)
def test_parameter_counts_are_those_of_the_released_code(version):
    networks = make_networks(preset(version).model, MUJOCO_PIXELS)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    parts = shapes["model"] | {"actor": shapes["actor"], "critic": shapes["critic"]}
    assert {name: cases.count(part) for name, part in parts.items()} == SIZES[version]


def test_parameters_of_v1_add_up_to_six_million():
    networks = make_networks(preset("dreamer_v1").model, MUJOCO_PIXELS)
    assert cases.count(jax.eval_shape(networks.init, jax.random.key(0))) == 6_288_833


@pytest.mark.parametrize("version", SIZES)
def test_parameters_are_float32_and_biases_start_at_zero(version):
    for path, leaf in jax.tree_util.tree_leaves_with_path(cases.params(version)):
        assert leaf.dtype == jnp.float32, path
        name = path[-1].key
        if "bias" in name:
            assert not leaf.any(), path
        elif name != "scale":
            assert leaf.std() > 0, path


def randomised(cell, h, x, seed):
    """Parameters with every number random, biases included."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0), h, x)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.normal(scale=0.5, size=s.shape).astype(np.float32), shapes)


@pytest.fixture
def cell_inputs():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)


def test_gru_equals_numpy(cell_inputs):
    h, x = cell_inputs
    p = randomised(GRUCell(4), h, x, seed=1)
    expected = [oracles.gru(h[i], x[i], p["kernel_x"], p["kernel_h"], p["bias_x"], p["bias_h"]) for i in range(5)]
    np.testing.assert_allclose(GRUCell(4).apply({"params": p}, h, x), expected, rtol=1e-5, atol=1e-6)


def test_gru_equals_torch_with_weights_carried_over(cell_inputs):
    torch = pytest.importorskip("torch")
    h, x = cell_inputs
    p = randomised(GRUCell(4), h, x, seed=2)
    cell = torch.nn.GRUCell(3, 4)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.tensor(p["kernel_x"].T.copy()))
        cell.weight_hh.copy_(torch.tensor(p["kernel_h"].T.copy()))
        cell.bias_ih.copy_(torch.tensor(p["bias_x"]))
        cell.bias_hh.copy_(torch.tensor(p["bias_h"]))
        expected = cell(torch.tensor(x), torch.tensor(h)).numpy()
    np.testing.assert_allclose(GRUCell(4).apply({"params": p}, h, x), expected, rtol=1e-5, atol=1e-6)


def test_layer_norm_gru_equals_numpy(cell_inputs):
    h, x = cell_inputs
    p = randomised(LayerNormGRUCell(4), h, x, seed=3)
    args = p["gates"]["kernel"], p["gates"]["bias"], p["norm"]["scale"], p["norm"]["bias"]
    expected = [oracles.layer_norm_gru(h[i], x[i], *args) for i in range(5)]
    np.testing.assert_allclose(LayerNormGRUCell(4).apply({"params": p}, h, x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
def test_blocks_read_their_own_numbers_and_those_that_all_share(lead):
    blocks, own, more, width = 4, 3, 7, 6
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(*lead, blocks * own)), rng.normal(size=(*lead, more))
    layer = BlockDense(blocks * width, trunc_normal(), parts=2)
    params = layer.init(jax.random.key(0), in_blocks(jnp.float32(x), blocks), jnp.float32(z))["params"]
    params["bias"] = jnp.arange(24.0)
    kernel = np.float64(params["kernel"])
    assert kernel.shape == (blocks, own + more, width)
    first, second = layer.apply({"params": params}, in_blocks(jnp.float32(x), blocks), jnp.float32(z))
    for g in range(blocks):
        y = (
            np.concatenate([x[..., g * own : (g + 1) * own], z], axis=-1) @ kernel[g]
            + np.arange(24.0)[6 * g : 6 * g + 6]
        )
        np.testing.assert_allclose(np.concatenate([first[g], second[g]], axis=-1), y, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(side_by_side(in_blocks(x, blocks)), np.float32(x))


def test_v3_keeps_for_the_backward_pass_what_norm_and_gates_read():
    """Each number kept in a scan is stacked by an operation of its own."""
    x, scale = jax.random.normal(jax.random.key(0), (2, 3)), jnp.ones(3)
    kept = jax.tree.leaves(jax.vjp(lambda x, scale: RMSNorm().apply({"params": {"scale": scale}}, x), x, scale)[1])
    assert sorted(one.shape for one in kept) == [x.shape, scale.shape]
    cell = BlockGRUCell(size=4, hidden=3, blocks=2, style=Style("silu", "rms", "trunc_normal"))
    inputs = jnp.ones((1, 4)), jnp.ones((1, 2)), jnp.ones((1, 1))
    params = cell.init(jax.random.key(0), *inputs)
    traced = jax.make_jaxpr(lambda *inputs: cell.apply(params, *inputs))(*inputs)
    names = [equation.primitive.name for equation in traced.eqns]
    assert "logistic" not in names and "tanh" not in names
    assert sum(name.startswith("custom_vjp") for name in names) == 5 + 4


def test_gru_starts_with_an_orthogonal_recurrent_kernel():
    kernel = cases.params("dreamer_v1")["model"]["rssm"]["recurrent"]["kernel_h"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(len(kernel)), atol=1e-5)


def test_features_are_stoch_then_deter():
    latent = Latent(deter=jnp.full((2, 3), 7.0), stoch=jnp.zeros((2, 1)))
    np.testing.assert_array_equal(features(latent), [[0, 7, 7, 7]] * 2)


def scalar_head(kind, seed=0):
    head = ScalarHead(2, 8, kind, Style("elu"))
    feat = np.random.default_rng(seed).normal(size=(3, 2, 5)).astype(np.float32)
    p = jax.tree.map(lambda x: x + 0.1, head.init(jax.random.key(seed), feat)["params"])
    return head.apply({"params": p}, feat), p, feat


def test_scalar_heads_equal_a_numpy_mlp():
    dist, p, feat = scalar_head("normal")
    x = feat.astype(np.float64)
    for name in ("dense_0", "dense_1"):
        x = oracles.elu(oracles.dense(x, p["mlp"][name]))
    expected = oracles.dense(x, p["out"])[..., 0]
    np.testing.assert_allclose(dist.mode(), expected, rtol=1e-5, atol=1e-6)
    assert dist.log_prob(jnp.zeros((3, 2))).shape == (3, 2)


def test_bernoulli_head_gives_probabilities():
    dist, _, _ = scalar_head("bernoulli")
    assert isinstance(dist, Bernoulli) and dist.mean().shape == (3, 2)
    assert (dist.mean() > 0).all() and (dist.mean() < 1).all()


def test_two_hot_head_first_predicts_exactly_zero():
    head = ScalarHead(1, 8, "two_hot", Style("elu"))
    feat = np.ones((4, 5), np.float32)
    dist = head.apply(head.init(jax.random.key(0), feat), feat)
    assert isinstance(dist, TwoHot)
    np.testing.assert_array_equal(dist.mode(), np.zeros(4))


@pytest.mark.parametrize(
    ("spec", "continuous", "kinds"),
    [
        (cases.CONTINUOUS, "tanh_normal", (TanhNormal,)),
        (cases.CONTINUOUS, "truncated_normal", (TruncatedNormal,)),
        (cases.DISCRETE, "tanh_normal", (OneHot,)),
        (cases.MULTI_DISCRETE, "tanh_normal", (OneHot, OneHot)),
        (cases.HYBRID, "truncated_normal", (TruncatedNormal, OneHot)),
    ],
)
def test_actor_has_one_distribution_for_each_part(spec, continuous, kinds):
    actor = Actor(spec, ModelConfig(actor_layers=1, units=8, actor_distribution=continuous))
    feat = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    dist = actor.apply(actor.init(jax.random.key(0), feat), feat)
    parts = dist.parts if isinstance(dist, Joint) else (dist,)
    assert tuple(type(part) for part in parts) == kinds
    assert [part.size for part in parts] == [part.size for part in spec.parts]
    sample = dist.sample(jax.random.key(1))
    assert sample.shape == (6, spec.size) and dist.log_prob(sample).shape == (6,)
    for part, where in zip(spec.parts, spec.slices):
        if part.kind == "discrete":
            np.testing.assert_array_equal(np.sort(sample[:, where])[:, -1], 1)
            np.testing.assert_array_equal(sample[:, where].sum(-1), 1)
        else:
            assert (np.abs(sample[:, where]) <= 1).all()


def test_parts_of_an_actor_read_disjoint_outputs():
    """Every output number reaches exactly the part it belongs to: shifting it changes that part's log_prob only."""
    actor = Actor(cases.HYBRID, ModelConfig(actor_layers=1, units=8, actor_distribution="truncated_normal"))
    feat = np.ones((1, 5), np.float32)
    p = actor.init(jax.random.key(0), feat)["params"]
    for index in range(2 * 2 + 3):
        moved = jax.tree.map(lambda x: x, p) | {"out": p["out"] | {"bias": p["out"]["bias"].at[index].add(1.0)}}
        old, new = (actor.apply({"params": q}, feat) for q in (p, moved))
        changed = [not cases.trees_equal(a, b) for a, b in zip(old.parts, new.parts)]
        assert changed == [index < 4, index >= 4]


def test_encoder_sees_and_decoder_predicts_every_key():
    networks, model = cases.networks("dreamer_v1", "EVERYTHING"), cases.params("dreamer_v1", "EVERYTHING")["model"]
    rng = np.random.default_rng(0)
    obs = cases.random_obs(rng, cases.EVERYTHING, (2, 3))
    encode = jax.jit(lambda model, obs: networks.encode(model, networks.prepare({}, obs)))
    embed = encode(model, obs)
    assert embed.shape[:2] == (2, 3)
    for name, x in cases.random_obs(rng, cases.EVERYTHING, (2, 3)).items():
        assert not np.allclose(encode(model, obs | {name: x}), embed), f"{name} is not seen"
    feat = jnp.zeros((2, 3, model["reward"]["mlp"]["dense_0"]["kernel"].shape[0]))
    dists, targets = jax.jit(networks.decode)(model, feat), networks.prepare({}, obs)
    assert dists.keys() == targets.keys() == obs.keys()
    assert isinstance(dists["gear"], Categoricals)
    for name in obs:
        assert dists[name].mode().shape == targets[name].shape


def test_leading_axes_are_free():
    networks, model = cases.networks("dreamer_v1", "EVERYTHING"), cases.params("dreamer_v1", "EVERYTHING")["model"]
    obs = cases.random_obs(np.random.default_rng(0), cases.EVERYTHING, (2, 3))
    seen = networks.prepare({}, obs)
    whole = jax.jit(networks.encode)(model, seen)
    one = networks.encode(model, networks.prepare({}, jax.tree.map(lambda x: x[1, 2], obs)))
    np.testing.assert_allclose(whole[1, 2], one, rtol=1e-4, atol=1e-5)


def test_targets_are_what_the_networks_see():
    spec = EnvSpec({"state": ArraySpec((2,), "float32", "vector"), "gear": cases.GEAR}, cases.CONTINUOUS)
    obs = {"state": np.array([[1.0, -2.0], [0.0, 100.0]]), "gear": np.array([[2, 0], [3, 3]])}
    plain = make_networks(ModelConfig(units=4), spec).prepare({}, obs)
    np.testing.assert_array_equal(plain["state"], obs["state"])
    np.testing.assert_array_equal(plain["gear"], [[0, 0, 1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 1]])
    squashed = make_networks(ModelConfig(units=4, symlog_inputs=True), spec).prepare({}, obs)
    np.testing.assert_allclose(squashed["state"], [[oracles.symlog(x) for x in row] for row in obs["state"]], rtol=1e-6)
    np.testing.assert_array_equal(squashed["gear"], plain["gear"])


def test_normalized_inputs_have_zero_mean_and_unit_deviation_once_tracked():
    spec = EnvSpec({"state": ArraySpec((2,), "float32", "vector"), "gear": cases.GEAR}, cases.CONTINUOUS)
    networks = make_networks(cases.config("dreamer_v1", normalize_inputs=True).model, spec)
    statistics = networks.statistics
    rng = np.random.default_rng(0)
    batches = [
        {"state": rng.normal([50.0, 0.01], [20.0, 0.02], (7, 5, 2)), "gear": rng.integers(0, 4, (7, 5, 2))}
        for _ in range(3)
    ]
    before = networks.prepare(statistics, batches[0])["state"]
    np.testing.assert_allclose(before, np.clip(batches[0]["state"], -10, 10))
    for obs in batches:
        statistics = networks.track(statistics, obs)
    targets = [networks.prepare(statistics, obs) for obs in batches]
    seen = np.concatenate([target["state"].reshape(-1, 2) for target in targets])
    np.testing.assert_allclose(seen.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(seen.std(axis=0), 1.0, atol=1e-3)
    assert targets[0]["gear"].max() == 1.0  # choices stay one-hot
    untracked = make_networks(cases.config("dreamer_v1").model, spec)
    assert untracked.statistics == untracked.track({}, batches[0]) == {}


def test_scalar_and_matrix_observations_are_flattened():
    spec = EnvSpec(
        {"height": ArraySpec((), "float32", "vector"), "rays": ArraySpec((2, 3), "float32", "vector")}, cases.CONTINUOUS
    )
    networks = make_networks(cases.config("dreamer_v1").model, spec)
    obs = {"height": jnp.ones((4, 2)), "rays": jnp.ones((4, 2, 2, 3))}
    targets = networks.prepare({}, obs)
    assert targets["height"].shape == (4, 2, 1) and targets["rays"].shape == (4, 2, 6)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))["model"]
    assert shapes["encoder"]["vector"]["dense_0"]["kernel"].shape[0] == 7
