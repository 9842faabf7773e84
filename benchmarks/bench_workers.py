"""How many agent steps a second do pixels of dm_control's walker-walk give, and does drawing leak?

64x64, action repeat 2, random actions: one process with and without effects, and lanes in worker processes. Rates are of
short windows; on a machine that does other things too, the best window says what it can do, and the CPU time of a
step what it costs. Then 200 environments are made, drawn and closed in a fresh process; its memory and last words are kept.

    python benchmarks/bench_workers.py [--windows 100] [--lanes 8] [--workers 2] [--name NAME]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import harness
import numpy as np
import psutil

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_vector

CYCLES = """
import json, gc, psutil
from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_env
process, memory = psutil.Process(), []
for index in range(210):
    env = make_env(EnvConfig(backend="dmc", id="walker-walk", obs="pixels", action_repeat=2))
    env.reset(index)
    env.close()
    if index >= 9:
        gc.collect()
        memory.append(process.memory_info().rss)
last = make_env(EnvConfig(backend="dmc", id="walker-walk", obs="pixels"))
last.reset(0)  # left open: the exit has to be quiet all the same
print(json.dumps([memory[0], memory[-1], max(memory)]))
"""


def cpu_seconds() -> float:
    """Of this process and its children, dead ones too."""
    here = psutil.Process()
    times = [sum(child.cpu_times()[:2]) for child in here.children(recursive=True)]
    return sum(times) + sum(here.cpu_times()[:4])


def rate(lanes: int, workers: int, quality: str, windows: int, steps: int) -> dict[str, Any]:
    """Agent steps a second in each of several windows of ``steps`` agent steps, and CPU milliseconds a step."""
    config = EnvConfig(
        backend="dmc", id="walker-walk", obs="pixels", action_repeat=2, workers=workers, options={"render_quality": quality}
    )  # fmt: skip
    envs, rng, found = make_vector(config, lanes, seed=0), np.random.default_rng(0), []
    for _ in range(5):
        envs.step(rng.uniform(-1, 1, (lanes, 6)))
    begun, entries = cpu_seconds(), 0
    for _ in range(windows):
        start, before = time.perf_counter(), envs.agent_steps
        for _ in range(-(-steps // lanes)):
            envs.step(rng.uniform(-1, 1, (lanes, 6)))
            entries += lanes
        found.append((envs.agent_steps - before) / (time.perf_counter() - start))
    cost, notes = cpu_seconds() - begun, envs.notes
    envs.close()
    return {
        "lanes": lanes,
        "workers": workers,
        "agent_steps_per_second": harness.summary(found),
        "cpu_milliseconds_per_step": 1e3 * cost / entries,
        "drawing": notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="bench_workers")
    args = parser.parse_args()
    found = {
        "one process, full": rate(1, 0, "full", min(args.windows, 4), 40),
        "one process, fast": rate(1, 0, "fast", args.windows, 80),
        "workers, fast": rate(args.lanes, args.workers, "fast", args.windows, 160),
    }
    done = subprocess.run([sys.executable, "-c", CYCLES], capture_output=True, text=True, check=True)
    first, last, most = json.loads(done.stdout.splitlines()[-1])
    leak = {"cycles": 200, "grown_mb": (last - first) / 1e6, "most_mb": (most - first) / 1e6, "printed": done.stderr}
    question = "agent steps a second of dm_control walker-walk from 64x64 pixels, action repeat 2"
    path = harness.write(args.name, {"question": question, "rates": found, "leak": leak, "stamp": harness.stamp()})
    for name, item in found.items():
        speed, cost = item["agent_steps_per_second"], item["cpu_milliseconds_per_step"]
        print(f"{name}: median {speed['median']:.0f}, best {speed['max']:.0f} agent steps/s, {cost:.2f} CPU ms/step")
    print(f"200 cycles: {leak['grown_mb']:.1f} MB, at most {leak['most_mb']:.1f} MB; printed {leak['printed']!r}")
    print(path)


if __name__ == "__main__":
    main()
