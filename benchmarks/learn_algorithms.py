"""What V1, V2 and V3 learn of Pendulum-v1 in a small size, with one budget and one set of words.

    python benchmarks/learn_algorithms.py

The words are for thousands of updates instead of millions; the preset ``classic`` is V3 with more of the kind. Results in
``results/learn_algorithms.json`` and ``.png``: evaluations of ten episodes, one seed, runs side by side, one core each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import RESULTS, stamp, write
from learn_suite import outcome

LABELS = {"dreamer_v1,small": "V1", "dreamer_v2,small": "V2", "dreamer_v3,v3_1m,small": "V3"}
WORDS = (
    "action_repeat=1", "frames=7000", "prefill=1000", "pretrain=0", "train_every=10", "updates=5", "updates_per_call=5",
    "batch_size=16", "batch_length=16", "model_learning_rate=1e-3", "actor_learning_rate=3e-4",
    "critic_learning_rate=3e-4", "eval_every=1000", "eval_episodes=10", "video=false",
)  # fmt: skip
OF_V1_AND_V2 = ("free_nats=0.3", "kl_loss_coeff=0.1", "normalize_inputs=true", "reward_scale=0.1")
OF_V3 = ("warmup=300",)


def train(preset: str, folder: Path) -> dict[str, Any]:
    """One run, by the command line in a process of its own."""
    more = OF_V3 if "v3" in preset else OF_V1_AND_V2
    words = ["train", "--preset", preset, "--env", "Pendulum-v1", *WORDS, *more]
    logdir = folder / preset
    subprocess.run([sys.executable, "-m", "jaxdreamer", *words, "--logdir", str(logdir)], check=True)
    return {"words": ["jaxdreamer", *words]} | outcome(logdir / "metrics.jsonl")


def plot(runs: dict[str, Any], path: Path) -> None:
    """Returns over frames, a line for each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for preset, run in runs.items():
        axes.plot(*zip(*run["curve"]), label=LABELS[preset])
    axes.set_title("Pendulum-v1, small sizes, one seed")
    axes.set_xlabel("env frames")
    axes.set_ylabel("return")
    axes.legend()
    figure.savefig(path, dpi=80)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        runs = dict(zip(LABELS, pool.map(lambda preset: train(preset, Path(folder)), LABELS)))
    payload = {"question": __doc__.splitlines()[0], "runs": runs, "stamp": stamp()}
    write("learn_algorithms", payload)
    plot(runs, RESULTS / "learn_algorithms.png")


if __name__ == "__main__":
    main()
