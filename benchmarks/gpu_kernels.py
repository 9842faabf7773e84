"""How many kernels does a GPU launch for one update? Compiled ahead of time for an H100; no GPU is needed.

    pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12     # of jax's version
    python benchmarks/gpu_kernels.py
    python benchmarks/gpu_kernels.py --presets dreamer_v1 --precision bfloat16

A small kernel costs a GPU some microseconds whatever it does, so a program of thousands of them waits more than it computes.
Counted are the instructions of the compiled program that launch something: those of loops as often as they run, of branches
those of the longest. Products are left to cuBLAS, and no form is chosen by trial, as there is nothing to try it on; what a
GPU compiles for itself may differ by some.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from typing import Any

PRESETS = ("dreamer_v1", "dreamer_v2", "dreamer_v3")
FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
# What XLA itself would ask the card for. Sources: NVIDIA's H100 data sheet and the CUDA programming guide, table of 9.0.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 2 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>\S+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%\S+ = .*? (?P<kind>[a-z][\w-]*)\((?P<rest>.*)$")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%([\w.-]+)")
LAUNCHING = {"fusion", "dot", "convolution", "copy", "sort", "reduce", "scatter", "custom-call", "rng-bit-generator"}
LAUNCHING |= {
    "dynamic-update-slice",
    "dynamic-slice",
    "transpose",
    "broadcast",
    "concatenate",
    "iota",
    "convert",
    "pad",
}


def read(text: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """The computations of a compiled program as (kind, rest of the line), and the name of the one that is entered."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = entry = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match["name"]
            found[name] = []
            entry = name if match["entry"] else entry
        elif name and (match := INSTRUCTION.match(line)):
            found[name].append((match["kind"], match["rest"]))
    return found, entry


def launched(computations: dict[str, list[tuple[str, str]]], name: str, loops: list[dict[str, Any]]) -> int:
    """Kernels that a computation launches, its loops unrolled; each loop is noted with its own."""
    total = 0
    for kind, rest in computations[name]:
        if kind == "while":
            trips = TRIPS.search(rest)
            inside = sum(launched(computations, called, loops) for called in CALLED.findall(rest))
            where = re.search(r'op_name="([^"]*)"', rest)
            loops.append({"steps": int(trips[1]) if trips else None, "each": inside, "what": where[1] if where else ""})
            total += inside * (int(trips[1]) if trips else 1)
        elif kind == "conditional":
            names = [part.strip(" %") for match in BRANCHES.findall(rest) for part in ",".join(match).split(",")]
            total += max(launched(computations, name, loops) for name in names if name)
        elif kind in ("call", "async-start"):
            total += sum(launched(computations, called, loops) for called in CALLED.findall(rest))
        elif kind in LAUNCHING:
            total += 1
    return total


def count(words: list[str]) -> dict[str, Any]:
    """Compile one update for an H100, and count."""
    import jax
    from harness import of_pixels
    from jax.experimental import topologies

    from jaxdreamer import config as configs
    from jaxdreamer.agent.algorithms import make_algorithm
    from jaxdreamer.ops import scan

    scan.on_gpu = lambda: True  # jax itself sees the CPU alone
    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    card = jax.sharding.SingleDeviceSharding(topology.devices[0])
    config = configs.preset(words[0], "replay.context=none", *words[1:])
    spec, batch = of_pixels(config)
    algorithm = make_algorithm(config, spec)
    there = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=card)  # noqa: E731
    state = jax.tree.map(there, jax.eval_shape(algorithm.init, jax.random.key(0)))
    began = time.perf_counter()
    compiled = jax.jit(algorithm.update, donate_argnums=0).lower(state, jax.tree.map(there, batch)).compile()
    seconds = time.perf_counter() - began
    loops: list[dict[str, Any]] = []
    computations, entry = read(compiled.as_text())
    total = launched(computations, entry, loops)
    return {"kernels": total, "loops": loops, "compile_seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
    os.environ |= {"JAX_PLATFORMS": "cuda,cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}  # there is no card to check
    from harness import stamp, write

    found = {}
    for preset in args.presets:
        found[preset] = count([preset, f"model.precision={args.precision}"])
        print(f"{preset}: {found[preset]['kernels']:,} kernels")
        for loop in found[preset]["loops"]:
            print(f"  {loop['steps']} steps of {loop['each']}: {loop['what'][-90:]}")
    question = f"kernels of one update compiled for an H100, {args.precision}"
    name = "gpu_kernels" if args.precision == "float32" else f"gpu_kernels_{args.precision}"
    print(write(name, {"question": question, "stamp": stamp(), "found": found}))


if __name__ == "__main__":
    main()
