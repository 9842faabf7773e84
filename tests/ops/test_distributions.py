"""What all distributions promise alike, and Joint, stop_gradient and policy_mode."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.ops import distributions as ds
from jaxdreamer.ops.transforms import symmetric_bins


def build(first, second):
    """One of each kind, from two float [2, 3, 4] arrays."""
    std = jax.nn.softplus(second) + 0.1
    return {
        "Normal": ds.Normal(first, std),
        "UnitNormal": ds.UnitNormal(first),
        "TanhNormal": ds.TanhNormal(first, std),
        "TruncatedNormal": ds.TruncatedNormal(jnp.tanh(first), std),
        "OneHot": ds.OneHot(first),
        "Categoricals": ds.Categoricals(first),
        "Bernoulli": ds.Bernoulli(first),
        "TwoHot": ds.TwoHot(first, symmetric_bins(3.0, 4).astype(first.dtype)),
        "Joint": ds.Joint((ds.OneHot(second), ds.TanhNormal(first, std), ds.TruncatedNormal(jnp.tanh(first), std))),
    }


RNG = np.random.default_rng(0)
RAW = [jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2)]
ALL = build(*RAW)
KEY = jax.random.key(7)


def everything(dist, key):
    sample = dist.sample(key)
    return sample, dist.mode(key), dist.mean(), dist.log_prob(sample), dist.entropy(key), ds.policy_mode(dist, key)


def test_kinds_of_equal_fields_are_told_apart_by_jit():
    # jit looks programs up by tree structure: were two kinds equal there, one would be given the other's program.
    structures = {name: jax.tree.structure(dist) for name, dist in ALL.items()}
    for (one, first), (other, second) in itertools.permutations(structures.items(), 2):
        assert first != second, (one, other)
    again = jax.tree.structure(build(*RAW)["Normal"])
    assert again == structures["Normal"] and hash(again) == hash(structures["Normal"])
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(ALL["Normal"])]
    assert paths == [".loc", ".std"]


@pytest.mark.parametrize("name", ALL)
def test_jit_and_vmap_equal_plain(name):
    def call(dist, noise):
        sample = dist.from_noise(noise)
        return sample, dist.mode(), dist.mean(), dist.log_prob(sample)

    dist = ALL[name]
    noise = dist.noise(KEY)  # drawn beforehand, so that all see the same
    plain = call(dist, noise)
    axes = ds.TwoHot(0, None) if name == "TwoHot" else 0
    for found, expected in zip(jax.jit(jax.vmap(call, in_axes=(axes, 0)))(dist, noise), plain):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_sample_is_from_noise_of_noise(name):
    dist = ALL[name]
    np.testing.assert_array_equal(dist.sample(KEY), dist.from_noise(dist.noise(KEY)))
    assert (np.asarray(dist.sample(KEY)) != np.asarray(dist.sample(jax.random.key(8)))).any()


@pytest.mark.parametrize("name", ALL)
def test_float32_comes_out_of_bfloat16_under_strict_promotion(name):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        dist = build(*(x.astype(jnp.bfloat16) for x in RAW))[name]
        for array in jax.eval_shape(everything, dist, KEY):
            assert array.dtype == jnp.float32


@pytest.mark.parametrize("name", ["Normal", "TanhNormal", "TruncatedNormal", "OneHot", "Categoricals", "Joint"])
def test_size_is_the_width_of_a_sample_and_the_last_axis_is_one_event(name):
    dist = ALL[name]
    sample, mode, mean, log_prob, entropy, best = jax.eval_shape(everything, dist, KEY)
    assert sample.shape[-1] == dist.size
    assert sample.shape == mode.shape == mean.shape == best.shape
    assert log_prob.shape == entropy.shape == sample.shape[:-1]


def test_distributions_pass_through_scan():
    def step(carry, x):
        dist = ds.TanhNormal(carry + x, jnp.ones(3))
        return carry + 1.0, dist

    _, stacked = jax.lax.scan(step, jnp.zeros(3), jnp.zeros((4, 3)))
    assert isinstance(stacked, ds.TanhNormal)
    assert stacked.log_prob(jnp.zeros((4, 3))).shape == (4,)


def test_joint_is_its_parts_side_by_side():
    choice, number = ds.OneHot(RAW[0]), ds.Normal(RAW[1][..., :2], jnp.ones((2, 3, 2)))
    joint = ds.Joint((choice, number))
    assert joint.size == 6
    sample = joint.sample(KEY)
    first, second = sample[..., :4], sample[..., 4:]
    assert (np.asarray(first).sum(-1) == 1).all()
    np.testing.assert_allclose(joint.log_prob(sample), choice.log_prob(first) + number.log_prob(second), rtol=1e-6)
    np.testing.assert_allclose(joint.entropy(), choice.entropy() + number.entropy(), rtol=1e-6)
    np.testing.assert_array_equal(joint.mode(), jnp.concatenate([choice.mode(), number.mode()], -1))
    np.testing.assert_array_equal(joint.mean(), jnp.concatenate([choice.mean(), number.mean()], -1))
    with pytest.raises(ValueError, match="6"):
        joint.log_prob(sample[..., :5])


def test_joint_parts_do_not_share_randomness():
    twin = ds.Normal(jnp.zeros(5), jnp.ones(5))
    sample = np.asarray(ds.Joint((twin, twin)).sample(KEY))
    assert (sample[:5] != sample[5:]).all()


def test_joint_asks_for_a_key_only_where_a_part_needs_one():
    with pytest.raises(ValueError, match="key"):
        ALL["Joint"].entropy()


@pytest.mark.parametrize("name", ALL)
def test_stop_gradient_makes_a_constant_of_the_same_kind(name):
    def total(first, second, wrap):
        dist = wrap(build(first, second)[name])
        return sum(x.sum() for x in (dist.mean(), dist.log_prob(jax.lax.stop_gradient(dist.mode()))))

    assert type(ds.stop_gradient(ALL[name])) is type(ALL[name])
    gradient = jax.jit(jax.grad(total), static_argnums=2)
    stopped, free = gradient(*RAW, ds.stop_gradient), gradient(*RAW, lambda dist: dist)
    assert (np.asarray(stopped) == 0).all() and (np.asarray(free) != 0).any()


def test_policy_mode_is_the_best_of_100_for_tanh_normal_and_the_mode_for_others():
    tanh = ALL["TanhNormal"]
    np.testing.assert_array_equal(ds.policy_mode(tanh, KEY), tanh.best_of(KEY, samples=100))
    np.testing.assert_array_equal(ds.policy_mode(ALL["OneHot"], KEY), ALL["OneHot"].mode())
    joint = ALL["Joint"]
    action = ds.policy_mode(joint, KEY)
    np.testing.assert_array_equal(action[..., :4], joint.parts[0].mode())
    assert (np.asarray(action[..., 4:8]) != np.asarray(joint.parts[1].mode())).any()
    np.testing.assert_array_equal(action[..., 8:], joint.parts[2].mode())


def test_the_released_gradient_is_that_of_an_unbounded_normal_and_leaves_choices_alone():
    loc, std, logits = jnp.array([0.4, -0.7]), jnp.array([0.5, 1.3]), jnp.array([0.2, -0.1, 0.5])
    noise = (jnp.array([0.3, 0.8]), jnp.array([0.1, 0.9, 0.0]))

    def action(released, loc, std, logits):
        dist = ds.Joint((ds.TruncatedNormal(loc, std), ds.OneHot(logits)))
        sample = dist.from_noise(noise)
        return ds.released_gradient(dist, sample) if released else sample

    exact, released = (action(flag, loc, std, logits) for flag in (False, True))
    np.testing.assert_array_equal(exact, released)
    of_loc, of_std, of_logits = jax.jacobian(action, (1, 2, 3))(True, loc, std, logits)
    np.testing.assert_allclose(of_loc[:2], np.eye(2), rtol=1e-6)
    np.testing.assert_allclose(of_std[:2], np.diag((exact[:2] - loc) / std), rtol=1e-5)
    np.testing.assert_allclose(of_logits, jax.jacobian(action, 3)(False, loc, std, logits), rtol=1e-6)
    assert (np.diag(jax.jacobian(action, 1)(False, loc, std, logits)) < 0.9).all()
