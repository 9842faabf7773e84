"""An algorithm and networks of one's own are trained, resumed, evaluated and loaded like the library's, on both loops."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdreamer.config import ConfigError
from jaxdreamer.deploy.agent import load_agent
from jaxdreamer.envs.registry import make_functional
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.record import checkpoint
from jaxdreamer.train.api import evaluate_agent, train_agent
from tests.train import toy
from tests.train.test_contract import World, quiet


@pytest.fixture(params=["host", "device"])
def world(request):
    return World(request.param)


def test_one_number_of_state_is_learned_kept_and_taken_up_again(world, tmp_path):
    words = ("eval_every=0", "frames=160")
    straight = world.toy(tmp_path / "straight", *words)
    world.toy(tmp_path / "run", "eval_every=0", "frames=120")
    resumed = world.toy(tmp_path / "run", *words)
    rewards = float(resumed.state.aux["rewards"])
    assert rewards == float(straight.state.aux["rewards"]) < 0
    # 10 updates, of which the third and the eighth were skipped and changed neither parameter nor number.
    assert int(resumed.state.updates) == 10 and int(resumed.state.skipped) == 2
    np.testing.assert_allclose(resumed.state.params["action"], 0.08, rtol=1e-6)
    assert evaluate_agent(tmp_path / "run", algorithm=toy.make).returns == resumed.evaluation.returns
    agent = load_agent(tmp_path / "run", algorithm=toy.make)
    np.testing.assert_allclose(agent.act(np.float32([1, 0, 0]), first=True), [0.08], rtol=1e-6)
    assert float(agent.params["rewards"]) == rewards


def test_whoever_does_not_hand_it_over_again_is_told_what_differs(world, tmp_path):
    world.toy(tmp_path / "run", "eval_every=0", "frames=100")
    with pytest.raises(checkpoint.CheckpointMismatch, match="is of other networks than this run's"):
        world.train(tmp_path / "run", "eval_every=0", "frames=160")
    with pytest.raises(ConfigError, match=r"there is no 'toy'.*handed to train_agent, evaluate_agent and load_agent"):
        world.train(tmp_path / "other", "algorithm=toy")


def test_networks_of_ones_own(world, tmp_path):
    """Those of another width than the configuration says."""
    config = world.config("frames=100", "eval_every=0")
    wide = world.config("deter_size=24")
    networks = make_networks(wide.model, make_functional(config.env).spec)
    result = train_agent(config, tmp_path / "run", console=quiet(), networks=networks)
    assert result.finished and int(result.state.updates) == 4
    agent = load_agent(tmp_path / "run", networks=networks)
    assert agent.state.latent.deter.shape == (1, 24)
    assert evaluate_agent(tmp_path / "run", networks=networks).returns == result.evaluation.returns
