"""The whole loop learns: environment, replay, world model, actor and critic together, on a task of a minute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdreamer.record import metrics

ROOT = Path(__file__).resolve().parent.parent.parent
TRAIN = """
import sys
from jaxdreamer import cli, families
families.FAMILIES["toy"] = "tests.envs.toy"
sys.exit(cli.main(["train", *sys.argv[1:]]))
"""
WORDS = (
    "--preset", "classic", "--env.backend", "toy", "--env", "chain", "reward_scale=1",
    "normalize_inputs=false",  # one-hot cells have their scale; rare ones would be blown up
    "frames=1500", "prefill=300", "eval_every=300", "eval_episodes=16", "video=false",
    "deter_size=32", "hidden_size=32", "units=32", "imagine_horizon=8",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_a_corridor_is_walked_straight_to_its_end(tmp_path, gradient):
    """Eight cells, a reward at the right end: from the left half that is 4 to 7 steps; at random 20 and more.

    In a process of its own: six hundred updates want the compiler's optimisations, which the tests do without.
    """
    words = [*WORDS, f"actor_gradient={gradient}", "--logdir", str(tmp_path / "run")]
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", TRAIN, *words], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = metrics.read(tmp_path / "run" / "metrics.jsonl")
    lengths, returns = (metrics.curve(records, f"eval/{name}") for name in ("length", "return"))
    assert returns[-1][1] == 1.0
    assert lengths[-1][1] <= 7.0 < lengths[0][1]
