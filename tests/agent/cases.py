"""Small worlds, batches and compiled functions that the tests of agent/ share."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.learner import make_learner
from jaxdreamer.agent.rssm import observe
from jaxdreamer.config import preset
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, Batch, EnvSpec

CONTINUOUS = ActionSpec((ActionPart("continuous", 2),))
DISCRETE = ActionSpec((ActionPart("discrete", 3),))
MULTI_DISCRETE = ActionSpec((ActionPart("discrete", 3), ActionPart("discrete", 2)))
HYBRID = ActionSpec((ActionPart("continuous", 2), ActionPart("discrete", 3)))

STATE = ArraySpec((3,), "float32", "vector")
IMAGE = ArraySpec((16, 16, 3), "uint8", "image")
GEAR = ArraySpec((2,), "int32", "discrete", 4)

VECTOR = EnvSpec({"state": STATE}, CONTINUOUS)
PIXELS = EnvSpec({"image": IMAGE}, CONTINUOUS)
EVERYTHING = EnvSpec({"image": IMAGE, "state": STATE, "gear": GEAR}, HYBRID)

# One set of settings for nearly all tests, so that they share compiled functions. No free nats: below them the prior
# would rightly learn nothing. Learning rates at which something is learned within a test.
SETTINGS = {
    "discount_head": True,
    "free_nats": 0.0,
    "kl_loss_coeff": 0.3,
    "discount_loss_coeff": 5.0,
    "discount": 0.9,
    "model_learning_rate": 4e-3,
    "critic_learning_rate": 4e-3,
}
VERSION_SETTINGS = {"dreamer_v1": {}, "dreamer_v2": {"classes": 4, "target_critic_every": 20}}


@functools.cache
def config(version, **changes):
    """``dreamer_v1`` or ``dreamer_v2``, tiny, with the settings above."""
    return preset(f"{version},tiny", **(SETTINGS | VERSION_SETTINGS[version] | changes))


@functools.cache
def networks(version, spec_name="VECTOR", **changes):
    return make_networks(config(version, **changes).model, globals()[spec_name])


@functools.cache
def params(version, spec_name="VECTOR", **changes):
    return jax.jit(networks(version, spec_name, **changes).init)(jax.random.key(0))


@functools.cache
def noisy_params(version, spec_name="VECTOR", **changes):
    """Parameters away from their start, where all biases are zero."""
    rng = np.random.default_rng(5)
    noisy = lambda x: x + rng.normal(scale=0.1, size=x.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(noisy, params(version, spec_name, **changes))


@functools.cache
def learner(version, spec_name="VECTOR", **changes):
    """The learner with both functions compiled, without donation: states may be used again."""
    made = make_learner(config(version, **changes), globals()[spec_name])
    return made._replace(init=jax.jit(made.init), update=jax.jit(made.update))


@functools.cache
def state(version, spec_name="VECTOR", **changes):
    return learner(version, spec_name, **changes).init(jax.random.key(1))


@functools.cache
def compiled_observe(version, spec_name="VECTOR", unroll=1):
    """(params, embed, action, is_first, key) -> latents, posterior, prior."""
    rssm = networks(version, spec_name).rssm

    def run(model, embed, action, is_first, key, initial=None):
        return observe(
            rssm, model, embed=embed, action=action, is_first=is_first, key=key, initial=initial, unroll=unroll
        )

    return jax.jit(run)


def one_hot(rng, shape, size):
    return np.eye(size, dtype=np.float32)[rng.integers(size, size=shape)]


def random_actions(rng, spec, shape):
    parts = [
        rng.uniform(-1, 1, (*shape, part.size)) if part.kind == "continuous" else one_hot(rng, shape, part.size)
        for part in spec.parts
    ]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def random_obs(rng, spec, shape):
    obs = {}
    for name, s in spec.obs.items():
        if s.kind == "image":
            obs[name] = rng.integers(0, 256, (*shape, *s.shape), dtype=np.uint8)
        elif s.kind == "discrete":
            obs[name] = rng.integers(0, s.classes, (*shape, *s.shape), dtype=np.int32)
        else:
            obs[name] = rng.normal(size=(*shape, *s.shape)).astype(np.float32)
    return obs


def batch(spec_name="VECTOR", steps=6, lanes=3, seed=0):
    """Random sequences: lane 0 ends by failure at entry 2, lane 1 by a time limit at entry 3."""
    spec = globals()[spec_name]
    rng = np.random.default_rng(seed)
    is_first, is_last, is_terminal = (np.zeros((steps, lanes), bool) for _ in range(3))
    is_first[0] = True
    if steps > 4 and lanes > 1:
        is_last[2, 0] = is_terminal[2, 0] = is_first[3, 0] = True
        is_last[3, 1] = is_first[4, 1] = True
    keep = ~is_first
    return Batch(
        obs=jax.tree.map(jnp.asarray, random_obs(rng, spec, (steps, lanes))),
        action=jnp.asarray(random_actions(rng, spec.action, (steps, lanes)) * keep[..., None]),
        reward=jnp.asarray(rng.normal(size=(steps, lanes)) * keep, jnp.float32),
        is_first=jnp.asarray(is_first),
        is_last=jnp.asarray(is_last),
        is_terminal=jnp.asarray(is_terminal),
    )


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def trees_equal(a, b):
    """Whether two trees hold the same numbers bit for bit; typed keys are welcome."""
    same = jax.tree.map(lambda x, y: np.array_equal(raw(x), raw(y), equal_nan=True), a, b)
    return all(jax.tree.leaves(same))


def raw(x):
    return np.asarray(jax.random.key_data(x)) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
