"""Does Pendulum-v1 learn through torchwm_compat as it does through jaxdreamer? The same settings and seed, twice, compared.

    python benchmarks/learn_compat.py [state pixels] [--seed 0]

A ``DreamerAgent`` is trained as a torchwm script would; then ``jaxdreamer.train_agent`` is given the configuration that the
facade made of its settings. The two curves of evaluations have to be the same numbers, and to show learning.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = {
    "env_backend": "gym",
    "env": "Pendulum-v1",
    "action_repeat": 1,
    "time_limit": 200,
    "deter_size": 64,
    "stoch_size": 16,
    "num_units": 64,
    "free_nats": 0.3,
    "kl_loss_coeff": 0.1,
    "batch_size": 16,
    "train_seq_len": 16,
    "model_learning_rate": 1e-3,
    "actor_learning_rate": 1e-4,
    "value_learning_rate": 1e-3,
    "adam_epsilon": 1e-5,
    "buffer_size": 20_000,
    "seed_steps": 1000,
    "collect_steps": 50,
    "update_steps": 25,
    "test_interval": 1000,
    "checkpoint_interval": 5000,
    "enable_console_metrics": False,
}
SETTINGS = {
    "state": {**COMMON, "obs": "state", "total_steps": 10_000},
    "pixels": {**COMMON, "obs": "pixels", "image_size": (16, 16), "total_steps": 4000},
}


def curve(path: Path, frames: str, score: str) -> list[list[float]]:
    """[frames, mean return] of every evaluation."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [[record[frames], record[score]] for record in records if score in record]


def compare(obs: str, seed: int, folder: Path) -> dict:
    """Both curves, and whether what was learned is the same to the bit."""
    import jax
    import numpy as np
    from rich.console import Console

    import jaxdreamer
    from torchwm_compat import DreamerAgent, DreamerConfig
    from torchwm_compat.agent.training import RUN

    start = time.perf_counter()
    agent = DreamerAgent(DreamerConfig(**SETTINGS[obs], seed=seed, logdir=str(folder / "facade")))
    agent.train()
    between = time.perf_counter()
    config = jaxdreamer.load_run(folder / "facade" / RUN)[0]
    result = jaxdreamer.train_agent(config, folder / "own", console=Console(file=io.StringIO()))
    end = time.perf_counter()
    pairs = zip(jax.tree.leaves(agent.dreamer.params), jax.tree.leaves(result.state.params), strict=True)
    return {
        "facade": curve(folder / "facade" / "metrics.jsonl", "step", "eval_avg_reward"),
        "jaxdreamer": curve(folder / "own" / "metrics.jsonl", "env_frames", "eval/return"),
        "same_parameters": all(np.array_equal(one, two) for one, two in pairs),
        "seconds": {"facade": round(between - start, 1), "jaxdreamer": round(end - between, 1)},
        "settings": SETTINGS[obs] | {"seed": seed},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("obs", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from harness import RESULTS, stamp, write

    path = RESULTS / "learn_compat.json"
    for obs in arguments.obs:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(obs, arguments.seed, Path(folder))
        print(obs, json.dumps(found), flush=True)
        kept = json.loads(path.read_text())["runs"] if path.exists() else {}
        question = "evaluation returns of Pendulum-v1 through the facade and through jaxdreamer itself"
        write("learn_compat", {"question": question, "runs": kept | {obs: found | {"stamp": stamp()}}})


if __name__ == "__main__":
    main()
