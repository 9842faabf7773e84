"""Brax's environments as functions: what is stored is what the bare environment gives."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig

brax_env = pytest.importorskip("jaxdreamer.envs.device.brax_env")
pytest.importorskip("brax")

from jaxdreamer.envs.device.functional import make_lanes  # noqa: E402
from jaxdreamer.envs.device.hosted import host  # noqa: E402
from tests.envs.device.lane_oracle import rollout  # noqa: E402

# Brax reads MuJoCo's data in a way that is going out of use; said to Brax's authors, and shown to nobody by default.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing:DeprecationWarning")

SIZES = {"ant": (27, 8), "fast": (2, 1), "halfcheetah": (17, 6), "hopper": (11, 3), "humanoid": (244, 17),
         "humanoidstandup": (244, 17), "inverted_double_pendulum": (8, 1), "inverted_pendulum": (4, 1),
         "pusher": (23, 7), "reacher": (11, 2), "swimmer": (8, 2), "walker2d": (17, 6)}  # fmt: skip


def make(name, **settings):
    return brax_env.make_functional(configs.replace_env(EnvConfig(backend="brax", id=name), settings))


def test_every_registered_name_makes_a_spec_without_compiling_anything():
    assert set(brax_env.names()) == set(SIZES)
    for name, (numbers, action) in SIZES.items():
        env = make(name)
        assert env.spec.obs["state"].shape == (numbers,) and env.spec.action.size == action
        assert env.spec.action.is_continuous and env.time_limit == 1000
        assert (env.render is None) == (name == "fast")
    assert make("inverted_pendulum").frame_rate == pytest.approx(25) and make("ant").frame_rate == pytest.approx(20)


@pytest.mark.parametrize("physics", ["spring", "positional", "mjx"])
def test_specs_are_what_is_observed(physics):
    env = make("hopper", obs="both", image_size=(16, 20), brax_backend=physics)
    state = jax.eval_shape(env.reset, jax.eval_shape(lambda: jax.random.key(0)))
    seen = jax.eval_shape(env.observe, state)
    assert {key: (x.shape, str(x.dtype)) for key, x in seen.items()} == {
        key: (spec.shape, spec.dtype) for key, spec in env.spec.obs.items()
    }
    assert env.spec.obs["image"].shape == (16, 20, 3) and env.spec.obs["image"].kind == "image"


def test_what_brax_does_not_have_is_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"no environment 'hoper' \(did you mean hopper, .*\?\); there are: ant, fast, half"
    ):
        make("hoper")
    with pytest.raises(
        ConfigError, match=r"brax_backend: Brax's swimmer does not know mjx .*; it works with: generalized$"
    ):
        make("swimmer", brax_backend="mjx")
    with pytest.raises(ConfigError, match=r"env.obs=pixels: Brax's fast has nothing to draw; use env.obs=state"):
        make("fast", obs="pixels")


def test_importing_brax_and_making_an_environment_say_nothing():
    program = (
        "from jaxdreamer.envs import make_env; from jaxdreamer.config import EnvConfig\n"
        "make_env(EnvConfig(backend='brax', id='ant'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize("physics", ["generalized", "spring", "positional", "mjx"])
def test_fast_by_hand_on_each_backend(physics):
    """Velocity grows by 0.02 a step where the action is positive; the reward is the place."""
    env = host(make("fast", brax_backend=physics), EnvConfig(action_repeat=2, time_limit=3))
    env.reset(0)
    place = velocity = 0.0
    for action, last in [(1.0, False), (-1.0, False), (1.0, True)]:
        entry, reward = env.step(np.array([action])), 0.0
        for _ in range(2):
            velocity += 0.02 * (action > 0)
            place += velocity * 0.02
            reward += place
        np.testing.assert_allclose(entry.obs["state"], [place, velocity], rtol=1e-5)
        assert float(entry.reward) == pytest.approx(reward, rel=1e-5)
        assert (entry.is_last, entry.is_terminal) == (last, False)


@pytest.fixture(scope="module")
def pendulum():
    """inverted_pendulum under random actions, two steps at a time: entries, actions and states of 64 lanes."""
    env = make("inverted_pendulum")
    lanes = make_lanes(env, 64, action_repeat=2, time_limit=12)
    actions = jax.random.uniform(jax.random.key(1), (40, 64, 1), minval=-1, maxval=1)

    timestep, broken, states = rollout(lanes, jax.random.key(0), actions)
    return env, jax.tree.map(np.asarray, timestep), np.asarray(broken), states, np.asarray(actions)


def test_the_last_observation_is_the_bare_environments(pendulum):
    """Stepped by hand from the stored first state: to the end, and past no termination inside a repeat."""
    _, timestep, broken, states, actions = pendulum
    bare = brax_env._make(brax_env.import_brax(), "inverted_pendulum", "generalized")
    step = jax.jit(bare.step)
    assert not broken.any()
    kinds = set()
    for lane in range(6):
        end = int(np.flatnonzero(timestep.is_last[:, lane])[0])
        state = jax.tree.map(lambda x, lane=lane: x[0, lane], states.env)
        np.testing.assert_array_equal(timestep.obs["state"][0, lane], state.obs)
        for t in range(1, end + 1):
            assert not state.done
            reward = 0.0
            frames = 0
            while frames < 2 and not state.done:
                state = step(state, actions[t, lane])
                reward, frames = reward + float(state.reward), frames + 1
            np.testing.assert_allclose(timestep.obs["state"][t, lane], state.obs, rtol=1e-4, atol=1e-5)
            assert timestep.reward[t, lane] == pytest.approx(reward)
        assert timestep.is_terminal[end, lane] == bool(state.done)
        kinds.add(("terminal", frames) if state.done else "time")
    assert ("terminal", 1) in kinds and len(kinds) > 1, kinds


def test_every_reset_is_a_fresh_start(pendulum):
    _, timestep, _, _, _ = pendulum
    third = np.argmax(timestep.is_first.cumsum(0) == 3, axis=0)
    assert (timestep.is_first.sum(0) >= 3).all()
    first = [
        tuple(timestep.obs["state"][t, lane].tolist())
        for lane in range(64)
        for t in np.flatnonzero(timestep.is_first[: third[lane] + 1, lane])
    ]
    assert len(first) == 192 and len(set(first)) >= 190
    after = np.argwhere(timestep.is_last[:-1])
    gap = [np.abs(timestep.obs["state"][t, lane] - timestep.obs["state"][t + 1, lane]).max() for t, lane in after]
    assert min(gap) > 1e-4  # the final observation was not overwritten by the reset's


@pytest.mark.parametrize("obs", ["state", "pixels", "both"])
def test_what_is_seen(pendulum, obs):
    env = make("inverted_pendulum", obs=obs, image_size=(16, 16))
    state = jax.tree.map(lambda x: x[0, 0], pendulum[3].env)
    seen = jax.jit(env.observe)(state)
    assert set(seen) == {"state": {"state"}, "pixels": {"image"}, "both": {"state", "image"}}[obs] == set(env.spec.obs)
    if "image" in seen:
        image = np.asarray(seen["image"])
        assert (
            image.shape == (16, 16, 3) and image.dtype == np.uint8 and len(np.unique(image.reshape(-1, 3), axis=0)) > 5
        )
        moved = jax.tree.map(lambda x: x[1, 0], pendulum[3].env)
        assert (np.asarray(jax.jit(env.observe)(moved)["image"]) != image).any()
    if "state" in seen:
        np.testing.assert_array_equal(seen["state"], state.obs)


def test_the_camera_is_chosen(monkeypatch):
    with pytest.raises(ConfigError, match="unknown camera 'front'"):
        make("inverted_pendulum", obs="pixels", camera="front")
    asked = []
    monkeypatch.setattr(
        "jaxdreamer.envs.device.raycast.cast.make_renderer", lambda sys, **settings: asked.append(settings["camera"])
    )
    for name in ("", "-1", "track"):
        make("inverted_pendulum", camera=name)
    assert asked == [None, None, -1, -1, "track", "track"]  # what is seen, and the film


def test_the_film_is_larger_than_what_is_seen(pendulum):
    state = jax.tree.map(lambda x: x[0, 0], pendulum[3].env)
    frame = jax.jit(pendulum[0].render)(state)
    assert frame.shape == (128, 128, 3) and frame.dtype == jnp.uint8
