"""A loaded agent: from the run's folder alone, in the environment's units, each lane by itself."""

import io
import json
import shutil
import subprocess
import sys

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console

import jaxdreamer
from jaxdreamer.config import ConfigError, preset
from jaxdreamer.deploy.agent import Agent, load_agent
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.gymnasium_env import wrap
from jaxdreamer.envs.host.spaces import restore_space
from jaxdreamer.envs.interpreter.gym_api import describe_space
from jaxdreamer.files import read_json
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec
from tests.envs.toy import CountingEnv

SMALL = {
    "time_limit": 20,
    "frames": 200,
    "prefill": 40,
    "pretrain": 1,
    "train_every": 40,
    "updates": 1,
    "eval_every": 0,
    "eval_episodes": 1,
    "checkpoint_every": 50,
    "video": False,
}
# An action depends on the rounding of matrix products, whose order differs with the number of lanes.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def trained(folder):
    config = preset("dreamer_v1,tiny", id="Pendulum-v1", **SMALL)
    return jaxdreamer.train_agent(config, folder, console=Console(file=io.StringIO())).logdir


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("pendulum") / "run")


def observations(count, lanes, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, lanes, 3)).astype(np.float32)


def untrained(task, settings=(), with_spaces=True, preset_words="dreamer_v1,tiny", **options):
    """An agent for a task, with the spaces as a run's folder would hold them."""
    config = preset(preset_words, "action_repeat=1", *settings)
    env = wrap(task, config.env)
    kept = json.loads(json.dumps({name: space and describe_space(space) for name, space in env.spaces.items()}))
    restored = {name: data and restore_space(data) for name, data in kept.items()} if with_spaces else None
    spec = EnvSpec.from_dict(json.loads(json.dumps(env.spec.to_dict())))
    params = make_networks(config.model, spec).init(jax.random.key(3)) | {"statistics": {}}
    return Agent(config, spec, params, spaces=restored, **options), env


CHILD = """
import sys, json
import numpy as np
from jaxdreamer import load_agent
agent = load_agent(sys.argv[1])
actions = [agent.act(obs).tolist() for obs in np.array(json.loads(sys.argv[2]), np.float32)]
bad = [name for name in sys.modules if name.startswith((
    "pygame", "gymnasium.envs.", "jaxdreamer.replay", "jaxdreamer.train", "torch", "tensorflow", "matplotlib"))]
print(json.dumps({"actions": actions, "bad": sorted(set(bad) - {"gymnasium.envs.registration"})}))
"""


def test_acts_in_a_process_without_replay_and_environment(pendulum, tmp_path):
    alone = shutil.copytree(pendulum, tmp_path / "alone")
    shutil.rmtree(alone / "replay")
    (alone / "metrics.jsonl").unlink()
    obs = observations(5, 1)[:, 0]
    command = [sys.executable, "-c", CHILD, str(alone), json.dumps(obs.tolist())]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr
    result = json.loads(child.stdout)
    assert result["bad"] == []
    here = load_agent(pendulum)
    np.testing.assert_allclose(result["actions"], [here.act(item) for item in obs], **CLOSE)


def test_actions_are_of_the_environments_space(pendulum):
    agent, env = load_agent(pendulum), gymnasium.make("Pendulum-v1")
    assert agent.action_space == env.action_space and agent.observation_space == env.observation_space
    obs, _ = env.reset(seed=0)
    for step in range(10):
        action = agent.act(obs, first=step == 0, explore=step % 2 == 1)
        assert env.action_space.contains(action) and action.dtype == np.float32
        obs, *_ = env.step(action)
    env.close()
    assert agent.config.env.id == "Pendulum-v1" and agent.spec.action.size == 1
    assert "Pendulum-v1" in repr(agent) and str(agent.step) in repr(agent)


def test_discrete_actions_are_ints():
    task = gymnasium.make("CartPole-v1")
    agent, _ = untrained(task)
    obs, _ = task.reset(seed=0)
    for _ in range(5):
        action = agent.act(obs, explore=True)
        assert type(action) is int and task.action_space.contains(action)
        obs, *_ = task.step(action)
    task.close()
    many, _ = untrained(gymnasium.make("CartPole-v1"), lanes=4)
    actions = many.act(np.zeros((4, 4), np.float32), explore=True)
    assert actions.shape == (4,) and actions.dtype == np.int64


def test_a_lane_does_not_depend_on_the_others(pendulum):
    obs = observations(6, 8)
    first = np.zeros((6, 8), bool)
    first[3, ::2] = True
    # Not V1's: greedy, it takes the likeliest of 100 samples, and rounding decides between two that are equally likely.
    task = gymnasium.make("Pendulum-v1")
    make = lambda **lanes: untrained(task, preset_words="dreamer_v2,tiny", **lanes)[0]  # noqa: E731
    agents, single = {count: make(lanes=count) for count in (8, 3, 1)}, make()
    for explore in (False, True):
        for t in range(6):
            actions = {n: agent.act(obs[t, :n], first[t, :n], explore) for n, agent in agents.items()}
            alone = single.act(obs[t, 0], first[t, 0], explore)
            assert actions[8].shape == (8, 1) and alone.shape == (1,)
            np.testing.assert_allclose(actions[3], actions[8][:3], **CLOSE)
            np.testing.assert_allclose(actions[1], actions[8][:1], **CLOSE)
            np.testing.assert_allclose(alone, actions[8][0], **CLOSE)
    many = load_agent(pendulum, lanes=8)
    many.act(np.repeat(obs[0, :1], 8, axis=0))
    assert len(np.unique(many.state.latent.stoch[:, 0])) == 8  # the same observation, but random numbers of their own


def test_the_past_counts_until_an_episode_begins(pendulum):
    one, other = load_agent(pendulum, lanes=2), load_agent(pendulum, lanes=2)
    now, past = observations(1, 2)[0], observations(2, 2, seed=1)
    one.act(past[0])
    other.act(past[1])
    latents = [np.concatenate(jax.tree.leaves(agent.state), -1) for agent in (one, other)]
    assert not np.allclose(*latents)
    actions = [agent.act(now, first=np.array([True, False])) for agent in (one, other)]
    deters = [np.asarray(agent.state.latent.deter) for agent in (one, other)]
    np.testing.assert_array_equal(actions[0][0], actions[1][0])
    np.testing.assert_array_equal(deters[0][0], deters[1][0])
    assert not np.allclose(deters[0][1], deters[1][1])


def test_reset_begins_anew_and_a_seed_repeats(pendulum):
    agent = load_agent(pendulum, seed=5)
    obs = observations(3, 1)[:, 0]
    played = [agent.act(item, explore=True) for item in obs]
    agent.reset(seed=5)
    np.testing.assert_array_equal([agent.act(item, explore=True) for item in obs], played)
    agent.reset(seed=6)
    assert not np.array_equal([agent.act(item, explore=True) for item in obs], played)
    deter = np.asarray(agent.state.latent.deter)
    agent.reset()
    agent.act(obs[-1])
    assert not np.allclose(agent.state.latent.deter, deter)


def test_lists_of_float64_are_fine(pendulum):
    obs = np.array([0.5, -0.25, 3.0])
    action = load_agent(pendulum).act(obs.tolist())
    np.testing.assert_array_equal(action, load_agent(pendulum).act(obs.astype(np.float32)))
    np.testing.assert_array_equal(action, load_agent(pendulum).act({"state": obs}))


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros(4), r"'state'.*\(3,\).*\(4,\)"),
        (np.zeros((1, 3)), r"'state'.*\(3,\).*\(1, 3\)"),
        ({"position": np.zeros(3)}, r"expected.*'state'.*found.*'position'"),
        ("up", r"'state'.*\(3,\).*found str"),
        ([[1.0], [1.0, 2.0]], r"'state'.*\(3,\).*found a list of"),
        (np.array([0.0, np.nan, 0.0]), r"'state' holds numbers that are not finite"),
        (np.array([0.0, np.inf, 0.0]), r"'state' holds numbers that are not finite"),
        (np.array([0.0, 1e300, 0.0]), r"'state' holds numbers that are not finite"),
        (None, r"'state'.*\(3,\).*found NoneType"),
        ([0.0, None, 1.0], r"'state'.*\(3,\).*found a list of"),
        (["0", "1", "2"], r"'state'.*\(3,\).*found a list of"),
    ],
)
def test_a_wrong_observation_says_what_was_expected_and_leaves_no_trace(pendulum, obs, message):
    agent, untouched = load_agent(pendulum), load_agent(pendulum)
    good = observations(2, 1)[:, 0]
    agent.act(good[0]), untouched.act(good[0])
    with pytest.raises(EnvError, match=message):
        agent.act(obs)
    np.testing.assert_array_equal(agent.act(good[1]), untouched.act(good[1]))


@pytest.mark.parametrize("words", ["dreamer_v1,tiny", "dreamer_v2,tiny"])
def test_nothing_that_is_not_finite_is_remembered(words):
    """Choices and categorical latents are one-hot whatever they are drawn from: no action tells of the nan."""
    task = gymnasium.make("CartPole-v1")
    agent, untouched = (untrained(task, lanes=2, preset_words=words)[0] for _ in range(2))
    for one in (agent, untouched):
        one.params = jax.tree.map(lambda x: 20 * x, one.params)  # what is large overflows
    good, bad = np.full((2, 4), 0.1, np.float32), np.full((2, 4), 0.1, np.float32)
    agent.act(good), untouched.act(good)
    for value in (np.nan, -np.inf, 3e38):
        bad[1, 2] = value
        for explore in (False, True):
            with pytest.raises(EnvError, match="not finite in lane 1: ") as caught:
                agent.act(bad, explore=explore)
            assert "observation 'state' holds" in str(caught.value)
    np.testing.assert_array_equal(agent.act(good, explore=True), untouched.act(good, explore=True))
    for one, other in zip(jax.tree.leaves(agent.state), jax.tree.leaves(untouched.state)):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


def test_pictures_are_read_as_in_training_and_nan_in_them_is_an_error():
    class Board(gymnasium.Env):
        observation_space = spaces.Dict(
            {"board": spaces.Box(0, 10, (2, 9, 9), np.float32), "ram": spaces.Box(0, 255, (5,), np.uint8)}
        )
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"board": np.full((2, 9, 9), 5.0, np.float32), "ram": np.full(5, 51, np.uint8)}, {}

    agent, env = untrained(Board(), ("image_size=9,9",))
    raw, _ = Board().reset()
    arrays = agent._observations(raw, None)
    for key, value in env.reset(0).obs.items():
        np.testing.assert_array_equal(arrays[key][0], value)
    assert arrays["board"].max() == arrays["board"].min() == 128 and arrays["ram"].max() == np.float32(0.2)
    agent.act(raw)
    raw["board"][1, 2, 3] = np.nan
    with pytest.raises(EnvError, match="observation 'board' holds numbers that are not finite"):
        agent.act(raw)
    many, _ = untrained(Board(), ("image_size=9,9",), lanes=2)
    both = {"board": np.stack([np.zeros((2, 9, 9)), raw["board"]]), "ram": np.zeros((2, 5))}
    with pytest.raises(EnvError, match=r"observation 'board' .* not finite \(in lane 1\)"):
        many.act(both)


def test_wrong_lanes_are_refused(pendulum):
    agent = load_agent(pendulum, lanes=3)
    with pytest.raises(EnvError, match=r"'state': expected 3 along the leading axis, found.*\(2, 3\)"):
        agent.act(np.zeros((2, 3)))
    with pytest.raises(EnvError, match=r"'state': expected 3 along the leading axis, found float"):
        agent.act(1.0)
    with pytest.raises(EnvError, match=r"first: expected .* each of 3 lanes, found.*\(2,\)"):
        agent.act(np.zeros((3, 3)), first=[True, False])
    with pytest.raises(EnvError, match="first: expected one bool"):
        load_agent(pendulum).act(np.zeros(3), first=[True])
    with pytest.raises(ConfigError, match=r"lanes.*found 0"):
        load_agent(pendulum, lanes=0)


def test_what_is_not_there_is_named(pendulum, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere holds no run: there is no such folder"):
        load_agent(tmp_path / "nowhere")
    empty = shutil.copytree(pendulum, tmp_path / "empty")
    shutil.rmtree(empty / "checkpoints")
    with pytest.raises(checkpoint.CheckpointMissing, match=r"empty has no checkpoint"):
        load_agent(empty)
    steps = checkpoint.steps(RunDir(pendulum).checkpoints)
    assert len(steps) == 2
    with pytest.raises(checkpoint.CheckpointMissing, match=f"step 7 .*{steps[0]}, {steps[1]}"):
        load_agent(pendulum, step=7)
    old, new = load_agent(pendulum, step=steps[0]), load_agent(pendulum)
    assert (old.step, new.step) == tuple(steps)
    differs = jax.tree.map(lambda a, b: not np.array_equal(a, b), old.params, new.params)
    assert any(jax.tree.leaves(differs))


def test_the_spec_file_holds_spaces_and_resumes(pendulum, tmp_path):
    stored = read_json(RunDir(pendulum).spec)
    assert EnvSpec.from_dict(stored) == load_agent(pendulum).spec
    assert restore_space(stored["spaces"]["action"]) == spaces.Box(-2.0, 2.0, (1,), np.float32)
    more = shutil.copytree(pendulum, tmp_path / "more")
    RunDir(more).spec.write_text(json.dumps({key: stored[key] for key in ("obs", "action")}))  # without spaces
    agent = load_agent(more)
    assert agent.action_space is None
    action = agent.act({"state": np.zeros(3)})
    np.testing.assert_allclose(2 * action, load_agent(pendulum).act(np.zeros(3)), rtol=1e-6)
    trained(more)
    assert read_json(RunDir(more).spec) == stored


@pytest.mark.parametrize(
    ("kind", "obs", "lanes"),
    [
        ("vector", "auto", 2),
        ("image", "auto", None),
        ("dict", "auto", 2),
        ("vector", "pixels", None),
        ("image", "pixels", 2),
        ("vector", "both", 2),
    ],
)
def test_raw_observations_are_read_as_the_environment_adapter_reads_them(kind, obs, lanes):
    settings = (f"obs={obs}", "image_size=16,16")
    action_space = spaces.Dict({"gear": spaces.Discrete(3, start=1), "force": spaces.Box(-3.0, 5.0, (2,))})
    task = CountingEnv(kind, action=action_space, image_shape=(24, 20, 3))
    agent, env = untrained(task, settings, lanes=lanes)
    units, _ = untrained(CountingEnv(kind, action=action_space), settings, with_spaces=False, lanes=lanes)
    timestep = env.reset(0)
    for _ in range(3):
        raw, arrays = task._observe(), timestep.obs
        if obs == "pixels":
            raw = {"image": task.render()} if lanes else task.render()
        elif obs == "both":
            raw = {"state": raw, "image": task.render()}
        if lanes:
            raw, arrays = (jax.tree.map(lambda x: np.stack([x] * lanes), tree) for tree in (raw, arrays))
        action, vector = agent.act(raw), units.act(arrays)
        if lanes:
            assert action["force"].shape == (2, 2) and action["gear"].shape == (2,)
            action, vector = {name: part[0] for name, part in action.items()}, vector[0]
        expected = env.simulator.to_env(vector)
        assert action_space.contains(action)
        np.testing.assert_allclose(action["force"], expected["force"], **CLOSE)
        assert action["gear"] == expected["gear"]
        timestep = env.step(vector)


def test_frames_of_any_size_and_their_errors():
    agent, _ = untrained(CountingEnv("vector"), ("obs=pixels", "image_size=16,16"))
    frame = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    action = agent.act(frame)
    agent.reset(0)
    opaque = np.full((64, 48, 1), 255, np.uint8)
    np.testing.assert_array_equal(agent.act({"image": np.concatenate([frame, opaque], -1)}), action)
    with pytest.raises(EnvError, match=r"'image'.*uint8 \[H, W, 3\], found float64"):
        agent.act(frame / 255)
    with pytest.raises(EnvError, match=r"'image'.*expected.*keys \['image'\], found.*'pixels'"):
        agent.act({"pixels": frame})
    both, _ = untrained(CountingEnv("vector"), ("obs=both", "image_size=16,16"))
    with pytest.raises(EnvError, match=r"keys \['state', 'image'\], found ndarray of shape \(3,\)"):
        both.act(np.zeros(3))


def test_missing_keys_and_left_out_ones():
    nested, _ = untrained(CountingEnv("dict"), ("exclude=image,mode", "image_size=16,16"))
    obs = {"pos": np.zeros(3), "nested": {"imu": [0.0] * 6}, "more": "than was asked for"}
    assert nested.action_space.contains(nested.act(obs))
    with pytest.raises(EnvError, match=r"'nested\.imu'.*expected an entry 'imu', found.*'gyro'"):
        nested.act({**obs, "nested": {"gyro": [0.0] * 6}})
    with pytest.raises(EnvError, match=r"'pos'.*\(3,\).*\(2,\)"):
        nested.act({**obs, "pos": [0.0, 1.0]})


def test_spaces_that_are_not_the_specs_are_refused_before_anything_is_made_of_them():
    spec = EnvSpec({"state": ArraySpec((3,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 1),)))
    config = preset("classic,tiny")
    for wrong, told in (
        ({"observation": spaces.Box(-1, 1, (4,))}, "observation 'state' is"),
        ({"observation": spaces.Dict(other=spaces.Box(-1, 1, (3,)))}, "observation 'other' is"),
        ({"action": spaces.Discrete(10**9)}, "the action is"),
    ):
        with pytest.raises(ConfigError, match=told):
            Agent(config, spec, None, spaces=wrong)
