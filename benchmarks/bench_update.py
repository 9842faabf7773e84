"""How long is one full-size Dreamer V1 update? jaxdreamer beside an independent PyTorch update of the same mathematics.

Batch 50 x 50 of 64x64 RGB images, horizon 15, six action dimensions: V1's defaults. The two sides run in turn in processes
of their own, so that neither's memory allocator or threads disturb the other. PyTorch runs twice: as shipped, and with
glibc told to keep the memory it frees, without which a large part of its time is page faults.

On a GPU PyTorch runs once, there being no pages to fault; both sides take the factors of matrix products as TF32.

    python benchmarks/bench_update.py [--repeats 3] [--small] [--gpu]
    python benchmarks/bench_update.py --gpu --preset dreamer_v3  # ours alone: there is no PyTorch side of it
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}


def jax_seconds(preset: str, precision: str, repeats: int, small: bool) -> dict:
    """Compile, warm up, and time updates one by one; runs in a process of its own."""
    import jax
    from harness import of_pixels

    from jaxdreamer import config as configs
    from jaxdreamer.agent.algorithms import make_algorithm
    from jaxdreamer.memory import keep_freed_memory, use_one_arena

    keep_freed_memory()  # as the command line does
    use_one_arena()
    size = ["batch_size=4", "batch_length=6", "imagine_horizon=3"] if small else []
    config = configs.preset(preset, f"precision={precision}", "replay.context=none", *size)
    spec, batch = of_pixels(config)
    learner = make_algorithm(config, spec)
    state = jax.jit(learner.init)(jax.random.key(0))
    start = time.perf_counter()
    update = jax.jit(learner.update, donate_argnums=0).lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start
    batch = jax.device_put(batch)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    operations = update.cost_analysis()["flops"]
    return {
        "operations": operations,  # of one update, by XLA's count
        "operations_per_second": operations / min(seconds[1:]),
        "seconds": seconds[1:],
        "first_seconds": seconds[0],
        "compile_seconds": compile_seconds,
        "parameters": parameters,
        "loss": float(metrics["loss/model"]),
        "peak_temporary_bytes": update.memory_analysis().temp_size_in_bytes,
    }


def run(command: list[str], extra: dict[str, str]) -> dict:
    """A process's last line of output, which is JSON."""
    env = {key: value for key, value in os.environ.items() if key not in KEEP_MEMORY} | extra
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, cwd=HERE.parent)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="times each side is started, in turn")
    parser.add_argument("--repeats", type=int, default=3, help="timed updates each time")
    parser.add_argument("--small", action="store_true", help="tiny batch: a check that the script runs")
    parser.add_argument("--gpu", action="store_true", help="on the GPU that both sides find; another result file")
    parser.add_argument("--preset", default="dreamer_v1", help="another one of ours, without PyTorch beside it")
    parser.add_argument("--side", choices=["float32", "bfloat16"], help="internal: run one of ours and print JSON")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(jax_seconds(arguments.preset, arguments.side, arguments.repeats, arguments.small)))
        return

    sys.path.insert(0, str(HERE))
    from harness import stamp, summary, write

    small = ["--small"] if arguments.small else []
    repeats = ["--repeats", str(arguments.repeats)]
    ours = [sys.executable, str(HERE / "bench_update.py"), *repeats, *small, "--preset", arguments.preset, "--side"]
    torch = [sys.executable, str(HERE / "torch_dreamer.py"), "--json", *repeats, *small]
    sides = {
        "jaxdreamer": ([*ours, "float32"], {}),
        "jaxdreamer_bfloat16": ([*ours, "bfloat16"], {}),
        "torch": (torch, {}),
        "torch_glibc_keeps_memory": (torch, KEEP_MEMORY),
    }
    if arguments.gpu:
        del sides["torch_glibc_keeps_memory"]
    has_torch = arguments.preset == "dreamer_v1"
    if not has_torch:
        sides = {name: side for name, side in sides.items() if name.startswith("jaxdreamer")}
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, (command, extra) in sides.items():
            results[name].append(run(command, extra))
            print(name, [round(second, 3) for second in results[name][-1]["seconds"]], flush=True)
    seconds = {name: [s for item in items for s in item["seconds"]] for name, items in results.items()}
    payload = {
        "question": "seconds of one full-size Dreamer V1 update (50 x 50 frames of 64x64 RGB, horizon 15, 6 actions)"
        if has_torch
        else f"seconds of one update of {arguments.preset} (64x64 RGB, 6 actions, the preset's batch)",
        "stamp": stamp(),
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "details": {name: items[-1] for name, items in results.items()},
    }
    ours_median = payload["seconds"]["jaxdreamer"]["median"]
    payload["times_faster"] = {
        name: payload["seconds"][name]["median"] / ours_median for name in sides if name != "jaxdreamer"
    }
    print(json.dumps(payload["times_faster"], indent=2))
    name = "bench_update" if has_torch else f"bench_update_{arguments.preset.replace(',', '_')}"
    if not arguments.small or "BENCHMARK_RESULTS" in os.environ:
        print(write(f"{name}_gpu" if arguments.gpu else name, payload))


if __name__ == "__main__":
    main()
