"""The whole loop learns: environment, replay, world model, actor and critic together, on a task of a minute."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.record import metrics
from jaxdreamer.train.api import train_agent


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_a_corridor_is_walked_straight_to_its_end(tmp_path, gradient):
    """Eight cells, a reward at the right end: from the left half that is 4 to 7 steps; at random 20 and more."""
    config = configs.preset(
        "classic",
        "env.backend=toy",
        "env=chain",
        "reward_scale=1",
        f"actor_gradient={gradient}",
        "normalize_inputs=false",  # one-hot cells have their scale; rare ones would be blown up
        "frames=1500",
        "prefill=300",
        "eval_every=300",
        "eval_episodes=16",
        "video=false",
        "deter_size=32",
        "hidden_size=32",
        "units=32",
        "imagine_horizon=8",
    )
    result = train_agent(config, tmp_path, console=Console(file=io.StringIO()))
    untrained = metrics.curve(metrics.read(tmp_path / "metrics.jsonl"), "eval/length")[0][1]
    scores = result.evaluation.metrics()
    assert scores["eval/return"] == 1.0
    assert scores["eval/length"] <= 7.0 < untrained
