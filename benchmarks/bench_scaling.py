"""What one update costs each of several devices, and what passes between them: operations, all-reduces and their bytes.

A CPU is divided into as many devices as are asked for, so the counts are those of the compiled programs and hold on any
machine; seconds would be those of one processor that does all of the work, and are not taken.

    python benchmarks/bench_scaling.py

``results/bench_scaling.json`` holds, for each preset and number of devices, what each device does: operations, all-reduces,
and the bytes that these sum up.
"""

from __future__ import annotations

import argparse
import os
import re

COUNTS = (1, 2, 4)
PRESETS = ("dreamer_v1,tiny", "dreamer_v3,tiny")
FLAGS = f"--xla_force_host_platform_device_count={max(COUNTS)} --xla_backend_optimization_level=0"  # counted, not run
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"

import harness  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxdreamer import config as configs  # noqa: E402
from jaxdreamer.agent.algorithm import kept_layout  # noqa: E402
from jaxdreamer.agent.algorithms import make_algorithm  # noqa: E402
from jaxdreamer.train.placement import SECOND, WHOLE, on_devices, one_device  # noqa: E402
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, Batch, EnvSpec  # noqa: E402

BYTES = {"f32": 4, "s32": 4, "u32": 4, "f16": 2, "bf16": 2, "pred": 1, "u8": 1, "f64": 8, "s64": 8}


def all_reduced(text: str) -> list[int]:
    """Bytes that each all-reduce of a compiled program sums up, by the shapes of what it returns."""
    found = re.findall(r"= (.+?) all-reduce(?:-start)?\(", text)
    return [sum(_bytes(kind, sizes) for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape)) for shape in found]


def _bytes(kind: str, sizes: str) -> int:
    return BYTES[kind] * int(np.prod([int(size) for size in sizes.split(",") if size], dtype=np.int64))


def counts(config: configs.Config, devices: int) -> dict[str, float]:
    """What the program of one update asks of each of so many devices."""
    place = on_devices(jax.devices()[:devices]) if devices > 1 else one_device()
    spec = EnvSpec({"state": ArraySpec((24,), "float32", "vector")}, ActionSpec((ActionPart("continuous", 6),)))
    algorithm = make_algorithm(config, spec, across=place.across)
    shape = (config.replay.batch_length, config.replay.batch_size)
    kept = {key: jnp.zeros((*shape, *item), dtype) for key, (item, dtype) in kept_layout(algorithm).items()}
    flags, numbers = jnp.zeros(shape, bool), jnp.zeros(shape)
    batch = Batch(
        obs={"state": jnp.zeros((*shape, 24))}, action=jnp.zeros((*shape, 6)), reward=numbers,
        is_first=flags, is_last=flags, is_terminal=flags, kept=kept,
    )  # fmt: skip
    state = place.put(jax.jit(algorithm.init)(jax.random.key(0)), WHOLE)
    program = jax.jit(place.over(algorithm.update, (WHOLE, SECOND), WHOLE)).lower(state, place.put(batch, SECOND))
    compiled = program.compile()
    sums = all_reduced(compiled.as_text())
    return {
        "operations": float(compiled.cost_analysis()["flops"]),
        "all_reduces": len(sums),
        "all_reduce_bytes": sum(sums),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    }


def main() -> None:
    """Count, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    found = {}
    for name in parser.parse_args().presets:
        config = configs.preset(name, "batch_size=16")
        each = {f"{count}": counts(config, count) for count in COUNTS}
        found[name] = each
        for count, row in each.items():
            share = row["operations"] / each["1"]["operations"]
            print(
                f"{name}, {count} devices: {share:.3f} of one's operations on each, {row['all_reduces']} all-reduces of "
                f"{row['all_reduce_bytes']:,} bytes in all ({4 * row['parameters']:,} of parameters)",
                flush=True,
            )
    print(harness.write("bench_scaling", {"stamp": harness.stamp(), "batch_size": 16, "presets": found}))


if __name__ == "__main__":
    main()
