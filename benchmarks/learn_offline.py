"""What a world model learns of recorded episodes alone: the error of its open loop on episodes that it never saw.

    python benchmarks/learn_offline.py

Ten episodes of Pendulum-v1 under random actions are recorded and exported; a run without an environment then learns from
eight of them, and predicts the other two from a quarter of each sequence and the actions. The result is
``results/learn_offline.json``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from harness import stamp, write

SMALL = ("deter_size=64", "hidden_size=64", "units=64", "stoch_size=16", "batch_size=16", "batch_length=20")
RECORD = ("--env", "Pendulum-v1", "frames=2010", "prefill=2000", "eval_every=0", "eval_episodes=1", "video=false")
LEARN = ("--env", "none", "held_out=2", "frames=8000", "train_every=10", "updates=5", "eval_every=500", "free_nats=0.3",
         "model_learning_rate=1e-3")  # fmt: skip


def jaxdreamer(*words: str) -> None:
    """Run a command in a process of its own."""
    subprocess.run([sys.executable, "-m", "jaxdreamer", *words], check=True)


def main() -> None:
    from jaxdreamer.record import metrics

    with tempfile.TemporaryDirectory() as folder:
        recorded, data, run = (str(Path(folder) / name) for name in ("recorded", "data", "run"))
        jaxdreamer("train", "--preset", "dreamer_v1,small", *RECORD, "--logdir", recorded)
        jaxdreamer("data", "export", recorded, "--out", data)
        jaxdreamer("train", "--preset", "dreamer_v1,small", *LEARN, *SMALL, "--data", data, "--logdir", run)
        records = [one for one in metrics.read(Path(run) / "metrics.jsonl") if "held_out/state" in one]
    errors = [[one["updates"], one["held_out/state"], one["held_out/state_seen"]] for one in records]
    print(*errors, sep="\n")
    write(
        "learn_offline",
        {
            "question": __doc__.splitlines()[0],
            "columns": ["updates", "mean squared error of predictions", "of reconstructions"],
            "errors": errors,
            "words": {"recorded": RECORD, "learned": [*LEARN, *SMALL]},
            "stamp": stamp(),
        },
    )


if __name__ == "__main__":
    main()
