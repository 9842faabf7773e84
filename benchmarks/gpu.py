"""Everything that is to be measured on a GPU, most valuable first, as far as the time goes.

    python benchmarks/gpu.py --minutes 12            # each result is written at once; the same command goes on
    python benchmarks/gpu.py --minutes 12 --only update brax
    python benchmarks/gpu.py --tiny --runs trial      # on a CPU: is every command right? Its figures mean nothing

A part is a script of this folder in a process of its own, with the time that is left as its limit. What it prints is in
``RUNS/gpu/PART.log``, and how it ended in ``PART.json``; a part that ended well at the same commit is not begun again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLAYGROUND = ("bench_playground.py", "--name", "bench_playground_gpu")
BRAX = ("--seeds", "1", "--skip-host", "--repeats", "5")
TINY_BRAX = ("--preset", "classic,tiny", "--lanes", "2", "--rows", "2", "--updates", "2", "--repeats", "1")


@dataclass(frozen=True)
class Part:
    """One script with its words: for the GPU, and in a form that a CPU runs in a minute."""

    words: tuple[str, ...]
    tiny: tuple[str, ...]
    needs: tuple[str, ...] = ()  # packages


def _update(*preset: str, needs: tuple[str, ...] = ()) -> Part:
    words = ("bench_update.py", "--gpu", *preset)
    return Part((*words, "--repeats", "10"), (*words, "--small", "--rounds", "1", "--repeats", "1"), needs)


def _brax(name: str, lanes: tuple[str, ...], *more: str, tiny: tuple[str, ...] = ()) -> Part:
    words = ("bench_brax.py", "--out", name)
    return Part(
        (*words, "--envs", "ant", *BRAX, "--lanes", *lanes, *more),
        (*words, "--envs", "inverted_pendulum", "--seeds", "1", "--skip-host", *TINY_BRAX, *tiny),
        ("brax",),
    )


# In the order of their worth.
PARTS = {
    "update": _update(needs=("torch",)),
    "update_v2": _update("--preset", "dreamer_v2"),
    "update_v3": _update("--preset", "dreamer_v3"),
    "brax": _brax("bench_brax_gpu", ("64", "256", "1024")),
    "brax_pixels": _brax(
        "bench_brax_gpu_pixels", ("64", "256", "1024"), "--preset", "dreamer_v1", "obs=pixels", "capacity=100000"
    ),
    "playground": Part(
        (*PLAYGROUND, "--task", "walker-walk", "--lanes", "1024", "--workers", "16"),
        (*PLAYGROUND, "--lanes", "2", "--rows", "2", "--repeats", "1"),
        ("mujoco_playground", "dm_control"),
    ),
    "scaling": Part(
        ("bench_scaling.py", "--gpu"),
        ("bench_scaling.py", "--gpu", "--presets", "dreamer_v1,tiny", "--sequences", "1", "2", "--repeats", "1"),
    ),
    "replay": Part(("bench_device_replay.py",), ("bench_device_replay.py", "--repeats", "2", "--steps", "4")),
    "learning": Part(
        ("learn_suite.py", "--device", "gpu", "--minutes", "{minutes}"),
        ("learn_suite.py", "--device", "gpu", "--minutes", "2", "--tiny", "walker_walk_pixels"),
        ("dm_control",),
    ),
}  # fmt: skip


def run(name: str, part: Part, folder: Path, seconds: float, tiny: bool, commit: str | None) -> str:
    """Run one part for at most ``seconds``: a line that says how it ended."""
    record, log = folder / f"{name}.json", folder / f"{name}.log"
    if record.exists():
        before = json.loads(record.read_text())
        if before["status"] == 0 and before["commit"] == commit and before["tiny"] == tiny:
            return f"done before, in {before['seconds']:.0f} s"
    missing = [package for package in part.needs if find_spec(package) is None]
    if missing:
        return f"left out: {', '.join(missing)} is not installed"
    limit = max(1.0, seconds - 90)  # what a part that stops of itself may need to save
    words = [word.format(minutes=limit / 60) for word in (part.tiny if tiny else part.words)]
    more = ["--runs", str(folder / "runs")] if name == "learning" else []
    command = [sys.executable, str(HERE / words[0]), *words[1:], *more]
    env = dict(os.environ, BENCHMARK_RESULTS=str(folder / "results")) if tiny else None
    start = time.perf_counter()
    with log.open("w") as out:
        try:
            status: int | str = subprocess.run(command, stdout=out, stderr=out, timeout=seconds, env=env).returncode
        except subprocess.TimeoutExpired:
            status = "its time was over"
    taken = time.perf_counter() - start
    facts = {"command": command, "status": status, "seconds": taken, "commit": commit, "tiny": tiny}
    record.write_text(json.dumps(facts, indent=1) + "\n")
    return f"{'done' if status == 0 else f'failed ({status}), see {log}'} in {taken:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12.0, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where logs and runs are kept")
    parser.add_argument("--tiny", action="store_true", help="try the commands; results are put into RUNS/gpu/results")
    args = parser.parse_args()
    from harness import commit

    here = commit()
    folder = args.runs.resolve() / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    well = True
    for name in args.only:
        left = end - time.monotonic()
        told = run(name, PARTS[name], folder, left, args.tiny, here) if left > 10 else "not begun: the time is over"
        well &= told.startswith("done")
        print(f"{name}: {told}", flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
