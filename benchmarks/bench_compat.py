"""How long is ``dreamer.train_one_batch()`` at torchwm's default sizes? The facade beside an independent PyTorch update.

Sampling from the replay is part of it: 50 x 50 of 64x64 RGB images, horizon 15, six action dimensions. PyTorch samples
nothing: its batch is made before. The two run in turn, each in a process of its own; PyTorch as shipped.

    python benchmarks/bench_compat.py [--repeats 3] [--small]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SMALL = {"batch_size": 4, "train_seq_len": 6, "imagine_horizon": 5, "deter_size": 16, "stoch_size": 5, "num_units": 24}


def facade_seconds(repeats: int, small: bool) -> dict:
    """Fill a replay with noise, compile, and time updates one by one; runs in a process of its own."""
    import numpy as np

    from torchwm_compat import Dreamer, DreamerConfig

    dreamer = Dreamer(DreamerConfig(buffer_size=2000, **(SMALL if small else {})), (3, 64, 64), 6)
    rng = np.random.default_rng(0)
    for t in range(200 if small else 1500):
        image = rng.integers(0, 256, (3, 64, 64), np.uint8)
        dreamer.data_buffer.add({"image": image}, rng.uniform(-1, 1, 6), float(rng.normal()), t % 500 == 499)
    seconds = []
    for _ in range(repeats + 2):  # the first compiles
        start = time.perf_counter()
        losses = dreamer.train_one_batch()
        seconds.append(time.perf_counter() - start)
    return {"first": seconds[0], "seconds": seconds[2:], "losses": losses}


def torch_seconds(repeats: int, small: bool) -> dict:
    """The same of the PyTorch update."""
    words = ["--repeats", str(repeats), "--json", *(["--small"] if small else [])]
    return json.loads(_run([str(HERE / "torch_dreamer.py"), *words]))


def _run(words: list[str]) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2, help="times each side is started, in turn")
    parser.add_argument("--repeats", type=int, default=3, help="timed updates each time")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(facade_seconds(args.repeats, args.small)))
        return
    sys.path.insert(0, str(HERE))
    import harness

    words = ["--child", "--repeats", str(args.repeats), *(["--small"] if args.small else [])]
    sides: dict[str, list[dict]] = {"train_one_batch": [], "torch": []}
    for _ in range(args.rounds):
        sides["train_one_batch"].append(json.loads(_run([str(Path(__file__).resolve()), *words])))
        sides["torch"].append(torch_seconds(args.repeats, args.small))
    facade, torch = (runs[-1] for runs in sides.values())
    seconds = {name: harness.summary([s for run in runs for s in run["seconds"]]) for name, runs in sides.items()}
    payload = {
        "question": "seconds of one train_one_batch at torchwm's default sizes, sampling included",
        "seconds": seconds,
        "compile_and_first_seconds": facade["first"],
        "torch_is_times_as_long": seconds["torch"]["median"] / seconds["train_one_batch"]["median"],
        "losses": {"train_one_batch": facade["losses"], "torch": torch["losses"]},
        "stamp": harness.stamp(),
    }
    print(json.dumps(payload["seconds"], indent=2), payload["torch_is_times_as_long"])
    if not args.small:
        print(harness.write("bench_compat", payload))


if __name__ == "__main__":
    main()
