"""The dream as an environment: it is the world model's, in the task's own units, alone, in a vector and as functions."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import jaxdreamer
from jaxdreamer import DreamEnv, DreamVectorEnv
from jaxdreamer.agent.rssm import imagine, prior_step
from jaxdreamer.config import ConfigError
from jaxdreamer.deploy.dream import DreamState, make_dream, open_dream
from jaxdreamer.envs.device.functional import check_functional, make_lanes
from jaxdreamer.nets.networks import features, make_networks
from jaxdreamer.types import Latent
from tests.deploy.test_agent import untrained

HORIZON = 4


def some_agent(task, *settings, words="dreamer_v2,tiny", scale=1.0):
    agent, env = untrained(task, settings, preset_words=words)
    agent.params = jax.tree.map(lambda x: scale * x, agent.params)
    return agent, env


def zeros(agent, count=None):
    latent = agent.algorithm.policy.init(1).latent
    return jax.tree.map(lambda x: np.zeros(x.shape[1:] if count is None else (count, *x.shape[1:]), np.float32), latent)


@pytest.mark.filterwarnings("ignore:.*A Box observation space m..imum value is:UserWarning")  # CartPole's own have none
@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend:UserWarning")  # Pendulum's own are +-2
def test_gymnasiums_checker_finds_nothing_wrong(run):
    check_env(DreamEnv(run, horizon=5), skip_render_check=True)
    task = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    agent, _ = some_agent(task, "obs=both", "image_size=16,16")
    task.close()
    obs = {"state": np.zeros(4, np.float32), "image": np.zeros((20, 30, 3), np.uint8)}
    check_env(DreamEnv(agent, start=obs, horizon=5, render_mode="rgb_array"), skip_render_check=True)


@pytest.mark.parametrize("words", ["dreamer_v1,tiny", "dreamer_v2,tiny"])  # Gaussian latents and categorical ones
def test_it_is_what_imagine_dreams(words):
    """From one state, with the same actions and the same key. To the last bit, where no compiler reorders sums."""
    agent, _ = some_agent(gymnasium.make("Pendulum-v1"), words=words, scale=2.0)
    networks, model = make_networks(agent.config.model, agent.spec), agent.params["model"]
    start = jax.tree.map(lambda x: np.random.default_rng(1).normal(size=x.shape).astype(np.float32), zeros(agent))
    env = DreamEnv(agent, start=start, horizon=HORIZON)
    env.reset(seed=3)
    state = env.state
    actions = np.random.default_rng(2).uniform(-2, 2, (HORIZON, 1)).astype(np.float32)
    found = [env.step(action) for action in actions]
    assert [x[3] for x in found] == [False] * (HORIZON - 1) + [True]
    with jax.disable_jit():
        dream = imagine(
            policy=lambda state, _: jnp.asarray(actions / 2)[state[1]][None],
            step=lambda state, action, k: (prior_step(networks.rssm, model)(state[0], action, k), state[1] + 1),
            start=(jax.tree.map(lambda x: jnp.asarray(x)[None], start), jnp.zeros((), jnp.int32)),
            horizon=HORIZON,
            key=jax.random.wrap_key_data(state.key),
        )
        seen = jax.tree.map(lambda x: x[1:, 0], dream.latent[0])
        for k in range(HORIZON):
            state, reward, _ = env.dream.env.step(state, jnp.asarray(actions[k] / 2))
            for one, other in zip(state.latent, jax.tree.map(lambda x: x[k], seen)):  # noqa: B023
                np.testing.assert_array_equal(one, other)
            assert found[k][1] == pytest.approx(float(reward), rel=1e-4, abs=1e-6)
    assert np.abs(state.latent.stoch - start.stoch).max() > 0.1
    for one, other in zip(env.state.latent, state.latent):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)  # compiled, a last digit may differ
    feat = features(seen)
    np.testing.assert_allclose([x[1] for x in found], networks.reward(model, feat).mode(), rtol=1e-4, atol=1e-5)
    decoded = networks.decode(model, feat)["state"].mode()
    if agent.config.model.symlog_inputs:
        decoded = np.sign(decoded) * np.expm1(np.abs(decoded))
    space = env.observation_space
    np.testing.assert_allclose([x[0] for x in found], np.clip(decoded, space.low, space.high), rtol=1e-4, atol=1e-5)


def test_an_open_loop_of_the_runs_own_experience_begins_where_the_model_watched(run):
    dream = open_dream(run, horizon=3)
    states = jax.jit(jax.vmap(dream.env.reset))(jax.random.split(jax.random.key(0), 64))
    assert len(np.unique(states.start)) > 8 and np.isfinite(states.latent.deter).all()
    assert np.std(states.latent.deter, axis=0).max() > 1e-3
    observed = jax.jit(jax.vmap(dream.env.observe))(states)["state"]
    assert observed.shape == (64, 3)


def test_a_given_observation_is_encoded_and_a_seed_decides_all(run):
    env = DreamEnv(run, start=[1.0, 0.0, 0.5], horizon=4)
    agent = jaxdreamer.load_agent(run)
    agent.act([1.0, 0.0, 0.5], first=True)
    env.reset(seed=0)
    np.testing.assert_allclose(env.state.latent.deter, agent.state.latent.deter[0], atol=1e-5)
    plays = []
    for seed in (5, 5, 6):
        env.reset(seed=seed)
        plays.append([env.step(np.array([1.0], np.float32))[0] for _ in range(4)])
    np.testing.assert_array_equal(plays[0], plays[1])
    assert not np.array_equal(plays[0], plays[2])
    env.reset(seed=0, options={"start": zeros(agent)})
    np.testing.assert_array_equal(env.state.latent.deter, np.zeros_like(env.state.latent.deter))
    env.reset(seed=0, options={"start": [0.0, 1.0, -3.0]})
    assert np.abs(env.state.latent.stoch).max() > 0


def test_ends_are_those_that_the_model_predicts():
    agent, _ = some_agent(gymnasium.make("CartPole-v1"), words="classic,tiny")
    heads = agent.params["model"]["discount"]["out"]
    gamma = agent.config.behavior.discount
    for probability, ends, expected in ((0.3, 0.5, True), (0.7, 0.5, False)):
        mean = probability * gamma
        heads["kernel"] = np.zeros_like(heads["kernel"])
        heads["bias"] = np.full_like(heads["bias"], np.log(mean / (1 - mean)))
        env = DreamEnv(agent, start=zeros(agent), ends=ends)
        env.reset(seed=0)
        *_, terminated, truncated, info = env.step(1)
        assert (terminated, truncated) == (expected, False)
        assert info["goes_on"] == pytest.approx(probability, abs=1e-5)
    drawn = make_dream(agent, start=zeros(agent), ends="sample")
    play = jax.jit(jax.vmap(lambda key: drawn.step(drawn.reset(key), jnp.array([1.0, 0.0]))[2]))
    ended = play(jax.random.split(jax.random.key(0), 1000))
    assert 250 <= np.sum(ended) <= 350  # 300, and three deviations


def test_many_dreams_are_one_step(run):
    envs = DreamVectorEnv(run, 5, horizon=3, ends=0.0)
    assert envs.observation_space.shape == (5, 3) and envs.action_space.shape == (5, 1)
    obs, _ = envs.reset(seed=1)
    assert envs.observation_space.contains(obs) and len(np.unique(obs, axis=0)) == 5
    for t in range(1, 8):
        obs, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(obs) and reward.shape == (5,)
        ends = t % 4 == 3  # the entry after an end is a reset, of no reward
        assert truncated.tolist() == [ends] * 5 and not terminated.any()
        assert (reward == 0).all() == (t % 4 == 0)
    alone = gymnasium.make("jaxdreamer/Dream-v0", run=run, horizon=3)
    many = gymnasium.make_vec("jaxdreamer/Dream-v0", 2, vectorization_mode="vector_entry_point", run=run, horizon=3)
    assert alone.observation_space == many.unwrapped.single_observation_space
    alone.reset(seed=0)
    assert alone.step(alone.action_space.sample())[4]["goes_on"] <= 1
    assert many.reset(seed=0)[0].shape == (2, 3)


def test_a_lane_dreams_what_one_alone_dreams(run):
    env = make_dream(run, horizon=HORIZON, ends=0.0)
    check_functional(env)
    lanes = make_lanes(env, 3)
    state = jax.jit(lanes.init)(jax.random.key(0))
    action = np.full((3, 1), 0.5, np.float32)
    step, step_alone, observe = jax.jit(lanes.step), jax.jit(env.step), jax.jit(env.observe)
    state, first, _ = step(state, action)
    alone = DreamState(*jax.tree.map(lambda x: x[1], tuple(state.env)))
    assert first.is_first.all() and (state.steps == 0).all()
    for _ in range(HORIZON):
        state, entry, broken = step(state, action)
        alone, reward, _ = step_alone(alone, action[1])
        assert not broken.any()
        np.testing.assert_allclose(entry.reward[1], reward, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(entry.obs["state"][1], observe(alone)["state"], rtol=1e-3, atol=1e-4)
    assert entry.is_last.all()


def test_pictures_of_a_dream_are_rendered_and_the_agent_acts_on_them():
    task = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    agent, _ = some_agent(task, "obs=pixels", "image_size=16,16", words="classic,tiny")
    task.close()
    ones = jax.tree.map(np.ones_like, zeros(agent, 3))
    env = DreamEnv(agent, start=ones, horizon=4, render_mode="rgb_array")
    assert env.observation_space == spaces.Box(0, 255, (16, 16, 3), np.uint8)
    obs, _ = env.reset(seed=0)
    assert obs.std() > 0 and np.array_equal(env.render(), obs)
    for t in range(4):
        obs, *_, truncated, _ = env.step(agent.act(obs, first=t == 0))
        assert env.observation_space.contains(obs)
    assert truncated


def test_what_cannot_be_dreamed_is_said(run, tmp_path):
    agent, _ = some_agent(gymnasium.make("Pendulum-v1"))
    with pytest.raises(ConfigError, match="an agent has no replay to begin from; give start="):
        DreamEnv(agent)
    with pytest.raises(ConfigError, match=r"ends must be a probability, or 'sample', found 1\.5"):
        DreamEnv(run, ends=1.5)
    with pytest.raises(ConfigError, match="horizon must be at least 1, or 0 for none, found -1"):
        DreamEnv(run, horizon=-1)
    with pytest.raises(ConfigError, match=r"start: a Latent of this run has deter \[\d+\].*found \(3,\) and \(3,\)"):
        DreamEnv(run, start=Latent(np.zeros(3), np.zeros(3)))
    with pytest.raises(ConfigError, match=r"render_mode must be one of \[\] or None, found 'rgb_array'"):
        DreamEnv(run, render_mode="rgb_array")
    with pytest.raises(ConfigError, match="step was called before the first reset"):
        DreamEnv(run).step(np.zeros(1))
    with pytest.raises(jaxdreamer.EnvError, match=r"action: expected finite numbers of shape \(1,\)"):
        env = DreamEnv(run)
        env.reset()
        env.step(np.zeros(2))
    agent.algorithm = agent.algorithm._replace(world=None)
    with pytest.raises(ConfigError, match="has no world model to dream in"):
        DreamEnv(agent, start=zeros(agent))


@pytest.mark.filterwarnings("default")
def test_stable_baselines_learns_in_it(run):
    """Where Stable-Baselines3 is installed; it wants torch, so the tests' own environment is without it."""
    library = pytest.importorskip("stable_baselines3")
    env = gymnasium.make("jaxdreamer/Dream-v0", run=run, horizon=50)
    agent = library.PPO("MlpPolicy", env, n_steps=250, batch_size=50, n_epochs=2, seed=0)
    before = {name: x.clone() for name, x in agent.policy.state_dict().items()}
    agent.learn(1000)
    assert agent.num_timesteps == 1000
    assert all((x != before[name]).any() for name, x in agent.policy.state_dict().items())
