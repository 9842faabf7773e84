"""Does the README's command learn? Runs it for several seeds and keeps returns, curves and wall-clock time.

    python benchmarks/learn.py pendulum [--seeds 0 1 2]
    python benchmarks/learn.py cartpole [--seeds 0]
    python benchmarks/learn.py inverted_pendulum [--seeds 0 1 2]
    python benchmarks/learn.py inverted_pendulum_pixels [--seeds 0 1 2]

Each run is the command line in a process of its own, started with this interpreter; the JSON holds the words.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASKS = {
    "pendulum": {
        "words": ["--preset", "classic", "--env", "Pendulum-v1"],
        "asked": "mean return of 10 noise-free episodes of at least -250, within 900 s",
    },
    "cartpole": {
        "words": [
            *("--preset", "classic", "--env", "CartPole-v1"),
            *("frames=30000", "eval_episodes=20", "vector_loss_coeff=10"),
        ],
        "asked": "mean return of 20 noise-free episodes of at least 400, within 900 s",
    },
    "inverted_pendulum": {
        "words": [
            *("--preset", "classic", "--env.backend", "brax", "--env", "inverted_pendulum", "--env.num-envs", "8"),
            *("--env.brax-backend", "generalized", "frames=10000"),
        ],
        "asked": "mean return of 10 noise-free episodes of at least 900 of 1,000, within 900 s",
    },
    "inverted_pendulum_pixels": {
        "words": [
            *("--preset", "classic", "--env.backend", "brax", "--env", "inverted_pendulum", "--env.num-envs", "8"),
            *("--obs", "pixels", "frames=10000", "capacity=20000", "cnn_depth=8"),
            # Of a thin pole little light comes: without this the latent would keep next to nothing of it.
            *("kl_loss_coeff=0.01", "actor_gradient=reinforce"),
        ],
        "asked": "clear learning within 1,800 s",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--keep", type=Path, help="keep the run folders there")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from harness import stamp, write

    from jaxdreamer.record import metrics

    task = TASKS[arguments.task]
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in arguments.seeds:
            logdir = (arguments.keep or Path(temporary)) / f"{arguments.task}-{seed}"
            command = [sys.executable, "-m", "jaxdreamer", "train", *task["words"], "--seed", str(seed)]
            start = time.perf_counter()
            subprocess.run([*command, "--logdir", str(logdir)], check=True)
            seconds = time.perf_counter() - start
            records = [record for record in metrics.read(logdir / "metrics.jsonl") if "eval/return" in record]
            final = records[-1]
            runs.append(
                {
                    "seed": seed,
                    "words": command[2:],
                    "seconds": round(seconds, 1),
                    "final": {key: final[key] for key in final if key.startswith("eval/")},
                    "env_frames": final["env_frames"],
                    "updates": final["updates"],
                    "curve": [[record["env_frames"], round(record["eval/return"], 1)] for record in records],
                }
            )
            print(f"seed {seed}: {final['eval/return']:.1f} after {seconds:.0f} s", flush=True)
    print(write(f"learn_{arguments.task}", {"asked": task["asked"], "runs": runs, "stamp": stamp()}))


if __name__ == "__main__":
    main()
