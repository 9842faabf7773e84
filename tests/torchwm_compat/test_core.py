"""Dreamer by hand: acting, collecting, learning, evaluating; and what torchwm gets wrong there, mended."""

from __future__ import annotations

import inspect

import jax
import numpy as np
import pytest

from jaxdreamer import ConfigError, EnvError
from tests.torchwm_compat import cases
from tests.torchwm_compat.cases import ACTION_SIZE, IMAGE, OldEnv, observation
from torchwm_compat.agent.core import Dreamer, DreamerV1, DreamerV2
from torchwm_compat.agent.play import is_terminal
from torchwm_compat.networks import views


@pytest.fixture(scope="module")
def played():
    """An agent that has collected 40 random steps in episodes of 5."""
    dreamer = cases.dreamer()
    dreamer.returns = dreamer.collect_random_episodes(OldEnv(5), 40)
    return dreamer


@pytest.fixture(scope="module")
def v2():
    dreamer = cases.dreamer(algo="Dreamerv2", num_categories=4)
    dreamer.collect_random_episodes(OldEnv(5), 40)
    return dreamer


def zeros(dreamer):
    return dreamer.rssm.init_state(1), np.zeros((1, ACTION_SIZE), np.float32)


def test_the_views_are_of_torchwms_classes_and_shapes(played):
    kinds = {"rssm": views.RSSM, "actor": views.ActionDecoder, "obs_encoder": views.ConvEncoder,
             "obs_decoder": views.ConvDecoder,
             "reward_model": views.DenseDecoder, "value_model": views.DenseDecoder}  # fmt: skip
    for name, kind in kinds.items():
        view = getattr(played, name)
        assert isinstance(view, kind) and view.parameter_count > 0
        assert sum(np.prod(x.shape) for x in view.state_dict().values()) == view.parameter_count
    assert not hasattr(played, "discount_model")
    rssm = played.rssm
    assert (rssm.action_size, rssm.stoch_size, rssm.deter_size, rssm.hidden_size, rssm.embedding_size) == (
        2,
        4,
        16,
        16,
        16,
    )
    assert {k: v.shape for k, v in rssm.init_state(3).items()} == {
        "mean": (3, 4),
        "std": (3, 4),
        "stoch": (3, 4),
        "deter": (3, 16),
    }
    assert not any(v.any() for v in rssm.init_state(3).values())
    assert rssm.to("cpu").eval() is rssm and "3," not in repr(played.actor)[:5]


@pytest.mark.parametrize(
    "kind", [views.RSSM, views.ConvEncoder, views.ConvDecoder, views.DenseDecoder, views.ActionDecoder]
)
def test_a_network_alone_is_not_offered(kind):
    with pytest.raises(TypeError, match=f"{kind.__name__} alone is not offered: networks are views"):
        kind(3, 4)


def test_parameters_are_copies_to_look_at(played):
    found, states = list(played.rssm.parameters()), played.state_dicts()["rssm"]
    assert sum(np.asarray(array).size for array in found) == played.rssm.parameter_count
    for array, expected in zip(found, states.values(), strict=True):
        np.testing.assert_array_equal(array, expected)
        array[...] = 0
    assert all(array.any() == before.any() for array, before in zip(played.rssm.parameters(), states.values()))


def test_what_only_a_torch_module_can_do_is_not_offered(played):
    with pytest.raises(
        AttributeError, match="has no 'named_parameters': what only a torch module can do is not offered"
    ):
        played.actor.named_parameters()


def test_the_rssms_call_shapes(played):
    rssm, (state, action) = played.rssm, zeros(played)
    embed = played.obs_encoder(np.zeros((1, *IMAGE), np.float32))
    assert embed.shape == (1, 16) and isinstance(embed, np.ndarray)
    posterior, prior = rssm.observe_step(state, action, embed)
    assert np.array_equal(posterior["deter"], prior["deter"]) and not np.array_equal(posterior["mean"], prior["mean"])
    assert rssm.get_posterior(state, action, embed).keys() == rssm.get_prior(state, action).keys() == state.keys()
    # Where the step before ended an episode, state is forgotten and the action is not.
    busy = {name: np.ones_like(x) for name, x in state.items()}
    acted = np.ones_like(action)
    forgotten = rssm.imagine_step(busy, acted, np.zeros((1, 1), np.float32))
    fresh, kept = rssm.imagine_step(state, acted), rssm.imagine_step(busy, acted)
    np.testing.assert_allclose(forgotten["mean"], fresh["mean"], atol=1e-6)
    assert not np.allclose(forgotten["mean"], kept["mean"])
    assert not np.allclose(fresh["mean"], rssm.imagine_step(state, action)["mean"])
    embeds, actions = np.zeros((5, 2, 16), np.float32), np.zeros((5, 2, ACTION_SIZE), np.float32)
    prior, posterior = rssm.observe_rollout(embeds, actions, np.ones((5, 2, 1)), rssm.init_state(2), 5)
    assert prior["mean"].shape == posterior["stoch"].shape == (5, 2, 4)
    assert not np.array_equal(prior["mean"], posterior["mean"])
    none, _ = rssm.observe_rollout(embeds, actions, np.ones((5, 2, 1)), rssm.init_state(2), 0)
    assert none["deter"].shape == (0, 2, 16)
    flat = rssm.seq_to_batch(posterior)
    np.testing.assert_array_equal(flat["stoch"][3], posterior["stoch"][1, 1])
    dreamed = rssm.imagine_rollout(played.actor, rssm.init_state(2), 3)
    assert dreamed["deter"].shape == (3, 2, 16)
    dist = rssm.get_dist(posterior["mean"], posterior["std"])
    assert dist.batch_shape == (5, 2) and dist.event_shape == (4,) and dist.log_prob(posterior["stoch"]).shape == (5, 2)
    np.testing.assert_allclose(dist.stddev, posterior["std"])


def test_heads_and_actor(played):
    feat = np.zeros((3, 2, 20), np.float32)
    image = played.obs_decoder(feat)
    assert image.batch_shape == (3, 2) and image.event_shape == IMAGE and image.mean.shape == (3, 2, *IMAGE)
    assert image.log_prob(image.mean).shape == (3, 2) and image.sample().shape == (3, 2, *IMAGE)
    assert played.reward_model(feat).mean.shape == (3, 2, 1)
    sampled, best = played.actor(feat), played.actor(feat, deter=True)
    assert sampled.shape == best.shape == (3, 2, ACTION_SIZE) and np.abs(sampled).max() <= 1
    assert not np.array_equal(sampled, played.actor(feat))
    noisy = played.actor.add_exploration(np.zeros((4000, 2), np.float32), 0.3)
    assert 0.25 < noisy.std() < 0.35
    assert inspect.signature(views.ActionDecoder.add_exploration).parameters["action_noise"].default == 0.3


def test_arrays_are_answered_in_their_kind(played):
    torch = pytest.importorskip("torch")
    feat = np.zeros((1, 20), np.float32)
    assert isinstance(played.actor(feat), np.ndarray)
    assert isinstance(played.actor(jax.numpy.asarray(feat)), jax.Array)
    assert isinstance(played.actor(torch.as_tensor(feat)), torch.Tensor)
    state = played.rssm.init_state(1, torch.device("cpu"))
    posterior, _ = played.rssm.observe_step(state, torch.zeros(1, 2), torch.zeros(1, 16))
    assert all(isinstance(x, torch.Tensor) for x in posterior.values())
    assert isinstance(played.obs_decoder(torch.zeros(1, 20)).mean, torch.Tensor)
    assert isinstance(played.rssm.imagine_rollout(played.actor, state, 2)["deter"], torch.Tensor)
    assert all(isinstance(x, torch.Tensor) for x in played.actor.state_dict().values())


# ---- the agent sees (T1) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["played", "v2"])
def test_a_black_and_a_white_image_give_different_states_and_actions(agent, request):
    dreamer = request.getfixturevalue(agent)
    state, action = zeros(dreamer)
    key, before = dreamer._key, dreamer.state
    # As networks begin, an image says little and actions are noise: louder, and calmer.
    rssm, actor = dreamer.state_dicts()["rssm"], dreamer.state_dicts()["actor"]
    loud = {"fc_state_posterior.weight": 30 * rssm["fc_state_posterior.weight"]}
    calm = {"action_model.8.bias": np.array([0, 0, -8, -8], np.float32)}
    dreamer.load_state_dicts({"rssm": rssm | loud, "actor": actor | calm})
    (dark, left), (bright, right) = (act_from(dreamer, key, observation(value), state, action) for value in (0, 255))
    statistics = "mean" if "mean" in dark else "logits"
    assert not np.allclose(dark[statistics], bright[statistics])
    assert not np.allclose(left, right)
    dreamer.state = before


def act_from(dreamer, key, *args):
    """With the same random draws, whatever was drawn before."""
    dreamer._key = key
    return dreamer.act_with_world_model(*args)


def test_acting_carries_the_posterior(played, monkeypatch):
    seen = {}
    real = played.rssm.observe_step

    def spy(*args):
        seen["posterior"], seen["prior"] = real(*args)
        return seen["posterior"], seen["prior"]

    monkeypatch.setattr(played.rssm, "observe_step", spy, raising=False)
    state, action = played.act_with_world_model(observation(200), *zeros(played), explore=True)
    assert state is seen["posterior"] and action.shape == (1, ACTION_SIZE)


# ---- collecting -----------------------------------------------------------------------------------------------------


def test_random_episodes_are_stored_with_their_final_observations(played):
    assert played.returns.tolist() == [5.0] * 8
    buffer = played.data_buffer
    assert (buffer.steps, buffer.episodes, buffer.full, buffer.idx) == (40, 8, False, 48)
    times = buffer.observations[:, 0, 0, 0] // 40
    np.testing.assert_array_equal(times[:12], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(buffer.terminals, times == 5)  # T7, T8: the end is flagged where it was seen
    np.testing.assert_array_equal(buffer.rewards, times > 0)
    assert not buffer.actions[times == 0].any()


class Breaking(OldEnv):
    """Its rewards at the steps in ``bad``, counted over its life from 1, are nan."""

    def __init__(self, length, bad):
        super().__init__(length)
        self.bad = bad

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, np.nan if len(self.actions) in self.bad else reward, *rest


def test_what_is_not_finite_is_neither_stored_nor_counted():
    dreamer = cases.dreamer()
    assert dreamer.collect_random_episodes(Breaking(4, bad=(3, 8)), 10).tolist() == [2.0, 4.0, 0.0, 2.0]
    rows = dreamer.data_buffer._rows()
    assert np.isfinite(rows["reward"]).all() and rows["is_first"].sum() == 4
    rewards, _, latents = dreamer.evaluate(Breaking(4, bad=(1, 2, 6)), 2, render=True)
    assert rewards.tolist() == [3.0, 4.0] and len(latents) == 8  # the first two begin broken, the third breaks off
    with pytest.raises(EnvError, match="not finite 20 times in a row, with resets in between: reward"):
        dreamer.evaluate(Breaking(4, bad=range(100)), 1)


def test_acting_on_what_is_not_finite_is_an_error_that_names_the_key(played):
    image = np.full(IMAGE, 7.0)
    image[0, 3, 4] = np.nan
    with pytest.raises(EnvError, match="observation 'image' holds numbers that are not finite"):
        played.act_with_world_model({"image": image}, *zeros(played))


def test_collecting_goes_on_where_it_was():
    """T14: torchwm begins an episode with every call, and never marks where it left the last."""
    dreamer, env = cases.dreamer(), OldEnv(7)
    assert dreamer.act_and_collect_data(env, 5).tolist() == [5.0]
    assert dreamer.act_and_collect_data(env, 5).tolist() == [2.0, 3.0] and env.resets == 2
    rewards, _, _ = dreamer.evaluate(env, 1)  # takes the environment over: the episode is cut there
    assert rewards.tolist() == [7.0]
    dreamer.act_and_collect_data(env, 2)
    batch = dreamer.data_buffer._rows()
    assert batch["is_first"].sum() == 3 and batch["is_last"].sum() == 2 and batch["is_terminal"].sum() == 1


def test_actions_in_replay_are_the_agents(monkeypatch):
    """T11: what an environment reports is stored; NormalizeActions brings it to the agent's units before."""

    class Reporting(OldEnv):
        def step(self, action):
            obs, reward, done, _ = super().step(action)
            return obs, reward, done, {"action": np.array([0.25, -0.25], np.float32)}

    dreamer = cases.dreamer()
    dreamer.act_and_collect_data(Reporting(9), 3)
    np.testing.assert_array_equal(dreamer.data_buffer.actions[1:], [[0.25, -0.25]] * 3)


def test_the_action_before_an_episode_is_forgotten(monkeypatch):
    """T13."""
    dreamer, seen = cases.dreamer(), []
    real = dreamer.act_with_world_model

    def spy(obs, state, action, explore=False):
        seen.append((int(obs["image"].max()), np.asarray(action).copy(), np.asarray(state["stoch"]).copy()))
        return real(obs, state, action, explore)

    monkeypatch.setattr(dreamer, "act_with_world_model", spy)
    dreamer.act_and_collect_data(OldEnv(3), 7)
    for time, action, stoch in seen:
        assert (time == 0) == (not action.any())
        assert (time == 0) == (not stoch.any())


@pytest.mark.parametrize(
    ("done", "info", "terminal"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"TimeLimit.truncated": True}, False),
        (True, {"discount": np.float32(1)}, False),
        (True, {"discount": np.float32(0)}, True),
        (True, None, True),
    ],
)
def test_a_time_limit_is_no_termination(done, info, terminal):
    """T15."""
    assert is_terminal(done, info) is terminal


def test_add_as_torchwm_has_it():
    buffer = cases.dreamer().data_buffer
    for t in range(6):
        buffer.add(observation(t), np.full(2, t / 10), float(t), t in (2, 5))
    rows = buffer._rows()
    np.testing.assert_array_equal(rows["is_first"], [1, 0, 0, 0, 1, 0, 0, 0])
    np.testing.assert_allclose(rows["reward"], [0, 0, 1, 2, 0, 3, 4, 5])
    np.testing.assert_allclose(rows["action"][:, 0], [0, 0, 0.1, 0.2, 0, 0.3, 0.4, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(rows["is_terminal"], [0, 0, 0, 1, 0, 0, 0, 1])
    obs, actions, rewards, ends = buffer.sample()
    assert obs.shape == (4, 2, *IMAGE) and obs.dtype == np.uint8 and actions.shape == (4, 2, 2)
    assert rewards.shape == ends.shape == (4, 2)


# ---- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["played", "v2"])
def test_an_update_changes_every_group_of_parameters(agent, request):
    dreamer = request.getfixturevalue(agent)
    before = dreamer.state_dicts()
    losses = dreamer.train_one_batch()
    assert len(losses) == 3 and all(isinstance(x, float) and np.isfinite(x) for x in losses) and losses[0] != 0
    after = dreamer.state_dicts()
    for module, state in after.items():
        for name, array in state.items():
            if module == "value_model" or not name.endswith("bias"):  # what is zero may stay zero for a step
                assert not np.array_equal(array, before[module][name]), f"{module}.{name}"


def test_v2_is_the_real_one(v2):
    """T2, T3, T4, T22."""
    assert v2.config.model.classes == 4 and "logits" in v2.rssm.init_state(1)
    assert v2.rssm.init_state(1)["stoch"].shape == (1, 16) and hasattr(v2, "discount_model")
    one_hot = v2.rssm.imagine_step(*zeros(v2))["stoch"].reshape(4, 4)
    np.testing.assert_allclose(one_hot.sum(-1), 1, rtol=1e-5)
    assert any("norm" in name for name in v2.rssm.state_dict())
    assert {"kl", "actor_entropy"} <= v2.metrics.keys() or v2.train_one_batch()


def test_the_discount_model_learns_a_discounted_target():
    """T5, T6: predictions are gamma times the probability to go on."""
    dreamer = cases.dreamer(use_disc_model=True, discount=0.5, model_learning_rate=1e-2)
    dreamer.collect_random_episodes(OldEnv(30), 60)
    for _ in range(40):
        dreamer.train_one_batch()
    state, action = zeros(dreamer)
    state, _ = dreamer.act_with_world_model(observation(40), state, action)
    assert dreamer.discount_model(views.features(state)).mean.item() == pytest.approx(0.5, abs=0.15)
    assert dreamer.metrics["imagined/discount"] < 0.75


def test_a_batch_of_one_entry_is_refused_with_a_word(caplog):
    """T17."""
    dreamer = cases.dreamer(train_seq_len=1)
    dreamer.collect_random_episodes(OldEnv(5), 10)
    assert dreamer.train_one_batch() == [0.0, 0.0, 0.0]
    assert "leaves nothing to learn from" in caplog.text
    with pytest.raises(LookupError):  # nor does it learn from what was never filled
        cases.dreamer().train_one_batch()


def test_what_is_not_finite_raises(played):
    obs = np.zeros((4, 2, *IMAGE), np.float32)
    ones = np.ones((4, 2, 1), np.float32)
    loss = played.world_model_loss(obs, np.zeros((4, 2, 2), np.float32), ones, ones)
    assert np.isfinite(loss) and played.posterior["mean"].shape == (3, 2, 4)
    with pytest.raises(FloatingPointError, match="loss/model"):
        played.world_model_loss(obs, np.zeros((4, 2, 2), np.float32), ones * np.inf, ones)
    before = played.state_dicts()["actor"]
    batch = played.data_buffer.sample_batch()
    with pytest.raises(FloatingPointError, match="loss/reward"):
        played.train_on(batch._replace(reward=batch.reward * np.nan))
    assert all(np.array_equal(before[k], v) for k, v in played.state_dicts()["actor"].items())


# ---- evaluating -----------------------------------------------------------------------------------------------------


def test_evaluate_gives_rewards_videos_and_latents(played):
    """T9."""
    rewards, videos, latents = played.evaluate(OldEnv(3), 2, render=True)
    assert rewards.tolist() == [3.0, 3.0] and latents.shape == (6, 1, 20)
    assert videos.shape == (2, 3, 16, 16, 3) and videos.dtype == np.uint8
    np.testing.assert_array_equal(videos[0, :, 0, 0, 0], [0, 40, 80])
    rewards, videos, latents = played.evaluate(OldEnv(3), 1)
    assert rewards.shape == (1,) and latents is None and len(videos) == 0


def test_episodes_of_different_lengths_make_an_array_of_arrays(played):
    class Growing(OldEnv):
        def reset(self):
            self.length += 1
            return super().reset()

    rewards, videos, _ = played.evaluate(Growing(2), 3, render=True)
    assert rewards.tolist() == [3.0, 4.0, 5.0] and videos.dtype == object
    assert [video.shape[0] for video in videos] == [3, 4]  # no more than max_videos_to_save


# ---- making ---------------------------------------------------------------------------------------------------------


def test_signatures_and_classes(monkeypatch):
    names = list(inspect.signature(Dreamer.__init__).parameters)
    assert names[:6] == ["self", "args", "obs_shape", "action_size", "device", "restore"]
    assert issubclass(DreamerV1, Dreamer) and issubclass(DreamerV2, Dreamer)
    made = DreamerV2.from_config(cases.config(), obs_shape=IMAGE, action_size=2, num_categories=4)
    assert made.args.algo == "Dreamerv2" and made.config.preset == "dreamer_v2"
    with pytest.raises(ValueError, match="obs_shape and action_size are required"):
        Dreamer.from_config(cases.config())
    with pytest.raises(ValueError, match=r"^Invalid DreamerConfig override: nope$"):
        Dreamer.from_config(cases.config(), obs_shape=IMAGE, action_size=2, nope=1)
    with pytest.raises(ConfigError, match="expected Dreamerv1 or Dreamerv2"):
        cases.dreamer(algo="Dreamerv9")
    # T29: the argument is heard.
    calls = []
    monkeypatch.setattr(Dreamer, "restore_checkpoint", lambda self, path, map_location=None: calls.append(path))
    Dreamer(cases.config(checkpoint_path="here.pt"), IMAGE, 2, "cpu", restore=True)
    Dreamer(cases.config(checkpoint_path="here.pt", restore=True), IMAGE, 2, "cpu")
    assert calls == ["here.pt"]


def test_equal_seeds_give_equal_agents():
    one, two, other = cases.dreamer(seed=3), cases.dreamer(seed=3), cases.dreamer(seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(*(x.state_dicts()["actor"].values() for x in (one, two))))
    weight = "action_model.0.weight"
    assert not np.array_equal(one.state_dicts()["actor"][weight], other.state_dicts()["actor"][weight])


def test_no_gpu_computes_on_the_cpu():
    dreamer = cases.dreamer(no_gpu=True)
    assert {d.platform for d in dreamer.params["actor"]["out"]["bias"].devices()} == {"cpu"}


def test_the_replay_keeps_what_memory_holds(monkeypatch, caplog):
    from torchwm_compat.agent import memory

    entry = 16 * 16 * 3 + 4 * ACTION_SIZE + 32
    monkeypatch.setattr(memory, "available_memory", lambda: 100 * entry)
    assert memory.ReplayBuffer(10**9, IMAGE, ACTION_SIZE, 4, 2).size == 80
    assert "would not fit into the free memory: the replay keeps 80 entries" in caplog.text
