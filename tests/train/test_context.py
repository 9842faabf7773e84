"""Replay that keeps the latent each entry was reached from: what is stored, what is learned from it, and that it resumes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.agent.algorithm import kept_layout
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.agent.rssm import first_latent
from jaxdreamer.envs import make_vector
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.train.host.collect import Collector
from tests.agent import cases
from tests.train.test_contract import World, lines
from tests.train.test_run import checkpoint_arrays

WORDS = ("classes=4", "context=collected")


@pytest.fixture(params=["host", "device"])
def world(request):
    return World(request.param)


def test_an_entry_is_kept_with_the_latent_it_was_reached_from():
    config = World("host").config(*WORDS)
    envs = make_vector(config.env, 2, seed=0)
    algorithm = make_algorithm(config, envs.spec)
    state = algorithm.init(jax.random.key(0))
    params = algorithm.acting(state.params, state.aux)
    replay = HostReplay(
        envs.spec, capacity=200, lanes=2, length=4, cross_episodes=True, kept=kept_layout(algorithm)
    )  # fmt: skip
    collector = Collector(envs, algorithm, replay, jax.random.key(1))
    latents = []
    for _ in range(6):
        collector.step(params)
        latents.append(collector.acting.policy.latent)  # decided on the action that led to the newest entry
    envs.close()
    kept = replay.gather(replay.sample_indices(np.random.default_rng(0), 40)).kept
    rows = replay.read_rows(0, 6)
    assert rows["kept/stoch"].dtype == np.uint8 and rows["kept/stoch"].shape == (6, 2, config.model.stoch_size)
    rssm = make_networks(config.model, envs.spec).rssm
    for row, latent in enumerate(latents):
        found = first_latent(rssm, {key: rows[f"kept/{key}"][row : row + 1] for key in ("deter", "stoch")})
        np.testing.assert_array_equal(found.deter, latent.deter)
        np.testing.assert_allclose(found.stoch, latent.stoch, atol=1e-6)
    assert not np.asarray(latents[0].deter).any() and np.asarray(latents[3].deter).any()
    assert kept["deter"].shape == (4, 40, config.model.deter_size)


@pytest.mark.parametrize(("version", "first", "felt"), [("dreamer_v2", False, True), ("dreamer_v2", True, False)])
def test_a_sequence_begins_from_what_was_kept_unless_an_episode_begins_there(version, first, felt):
    learner, state, batch = cases.learner(version, mask_first_action=True), cases.state(version), cases.batch()
    batch = batch._replace(is_first=batch.is_first.at[0].set(first))
    config = cases.config(version)
    groups, deter = config.model.stoch_size, config.model.deter_size
    steps, lanes = batch.reward.shape
    losses = []
    for value in (0.0, 0.7):
        kept = {
            "deter": jnp.full((steps, lanes, deter), value),
            "stoch": jnp.full((steps, lanes, groups), round(value), jnp.uint8),
        }
        losses.append(float(learner.update(state, batch._replace(kept=kept))[1]["loss/model"]))
    assert (abs(losses[0] - losses[1]) > 1e-4) == felt


def test_a_run_with_kept_latents_resumes_bit_for_bit(world, tmp_path):
    straight = world.train(tmp_path / "straight", *WORDS)
    world.train(tmp_path / "run", *WORDS, "frames=150")
    resumed = world.train(tmp_path / "run", *WORDS)
    assert int(resumed.state.updates) == int(straight.state.updates) > 0
    newest = [
        checkpoint_arrays(sorted((tmp_path / name / "checkpoints").iterdir())[-1]) for name in ("straight", "run")
    ]
    assert newest[0].keys() == newest[1].keys()
    for one, two in zip(*(arrays.values() for arrays in newest)):
        np.testing.assert_array_equal(one, two)


def test_a_run_with_an_online_queue_resumes_bit_for_bit(world, tmp_path):
    words = ("online=true", "prefill_policy=agent", "train_every=4")
    straight = world.train(tmp_path / "straight", *words)
    world.train(tmp_path / "run", *words, "frames=150")
    resumed = world.train(tmp_path / "run", *words)
    plain = world.train(tmp_path / "plain", "prefill_policy=agent", "train_every=4")
    assert int(resumed.state.updates) == int(straight.state.updates) == int(plain.state.updates) > 0
    leaves = [jax.tree.leaves(result.state.params) for result in (straight, resumed, plain)]
    for one, two in zip(leaves[0], leaves[1]):
        np.testing.assert_array_equal(one, two)
    assert any(np.any(one != three) for one, three in zip(leaves[0], leaves[2]))


def test_the_agent_itself_may_act_in_the_prefill(world, tmp_path):
    returns = {}
    for who in ("random", "agent"):
        result = world.train(tmp_path / who, f"prefill_policy={who}", "frames=240", "prefill=100")
        returns[who] = [line["train/return"] for line in lines(result.logdir) if "train/return" in line]
    assert len(returns["agent"]) == len(returns["random"]) > 0
    assert returns["agent"][0] != returns["random"][0]
