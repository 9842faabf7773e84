"""What does a device more spare each of them, and what has to pass between them? One update, shared out.

    python benchmarks/bench_scaling.py                     # on a CPU that is made into eight devices: counted, not timed
    python benchmarks/bench_scaling.py --gpu               # timed: one update of 1 to 50 sequences, then on all devices
    python benchmarks/bench_scaling.py --presets dreamer_v1,tiny --devices 1 2

Counted are, for each device, the operations of its matrix products and convolutions, those of scans as often as they run,
and the all-reduces and all-gathers of the compiled program with their bytes. Published sizes of V1, V2 and V3 (12M) with
64x64 RGB and six actions; V1's batch is 48 instead of 50, which eight devices divide.

Timed is one update of the first preset by the number of its sequences: t0 + t1 B is what a device with a share of the batch
needs. With several GPUs the whole batch is timed on all of them, and on one.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from typing import Any

PRESETS = ("dreamer_v1,batch_size=48", "dreamer_v2", "dreamer_v3")
COLLECTIVE = re.compile(r"= (?P<shapes>.+?) (?P<kind>all-reduce|all-gather|all-to-all|reduce-scatter)(?:-start)?\(")
SHAPE = re.compile(r"\b(?P<type>pred|[a-z]+(?P<bits>\d+))\[(?P<sizes>[\d,]*)\]")


def operations(jaxpr: Any) -> int:
    """Multiplications and additions of all matrix products and convolutions of a jaxpr, scans as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * inner
        elif equation.primitive.name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
            per_output = kernel.size // kernel.shape[numbers.rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * per_output
        else:
            times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            inner = [operations(part) for part in _inside(equation)]
            total += times * (max(inner, default=0) if equation.primitive.name == "cond" else sum(inner))
    return total


def _inside(equation: Any) -> list[Any]:
    """The jaxprs that an equation runs."""
    import jax

    is_leaf = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")  # noqa: E731
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=is_leaf)
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if is_leaf(leaf)]


def collectives(text: str) -> dict[str, dict[str, int]]:
    """How many of each kind a compiled program has, and the bytes of what they return."""
    found: dict[str, dict[str, int]] = {}
    for match in COLLECTIVE.finditer(text):
        kind = found.setdefault(match["kind"], {"number": 0, "bytes": 0})
        kind["number"] += 1
        for shape in SHAPE.finditer(match["shapes"]):
            width = 1 if shape["type"] == "pred" else int(shape["bits"]) // 8
            kind["bytes"] += width * math.prod(int(size) for size in shape["sizes"].split(",") if size)
    return found


def prepared(words: str, devices: int) -> tuple[Any, Any, Any, int]:
    """One update over so many devices: the jitted function, a state, a batch, and the number of parameters."""
    import jax
    from harness import of_pixels

    from jaxdreamer import config as configs
    from jaxdreamer.agent.algorithms import make_algorithm
    from jaxdreamer.train.placement import SECOND, WHOLE, on_devices, one_device

    names, *changes = words.split(",batch_size=")
    sizes = [f"batch_size={change}" for change in changes]
    config = configs.preset(names, "replay.context=none", *sizes)
    spec, batch = of_pixels(config)
    place = on_devices(jax.devices()[:devices]) if devices > 1 else one_device()
    algorithm = make_algorithm(config, spec, across=place.across)
    state = place.put(jax.jit(algorithm.init)(jax.random.key(0)), WHOLE)
    update = jax.jit(place.over(algorithm.update, (WHOLE, SECOND), WHOLE), donate_argnums=0)
    return update, state, place.put(batch, SECOND), sum(leaf.size for leaf in jax.tree.leaves(state.params))


def counted(words: str, counts: list[int]) -> dict[str, Any]:
    """What each device computes and what passes between them, by the number of devices."""
    import jax

    rows, whole = {}, 0
    for devices in counts:
        update, state, batch, parameters = prepared(words, devices)
        each = operations(jax.make_jaxpr(update)(state, batch).jaxpr)
        whole = whole or each
        row = {"operations": each, "share": each / whole}
        row |= collectives(update.lower(state, batch).compile().as_text())
        rows[str(devices)] = row
        passed = sum(kind["bytes"] for kind in row.values() if isinstance(kind, dict))
        print(
            f"{words} on {devices}: {each:.3e} operations each ({row['share']:.3f}), {passed:,} bytes pass", flush=True
        )
    return {"parameters": parameters, "devices": rows}


def timed(preset: str, sequences: list[int], repeats: int) -> dict[str, Any]:
    """Seconds of one update, by its sequences on one device, and of the largest batch on all devices."""
    import jax
    import numpy as np
    from harness import interleave, summary

    def runner(size: int, devices: int) -> Any:
        update, state, batch, _ = prepared(f"{preset},batch_size={size}", devices)
        kept = [state]

        def call() -> None:
            kept[0], metrics = update(kept[0], batch)
            jax.block_until_ready((kept[0], metrics))

        return call

    candidates = {f"{size} on 1": runner(size, 1) for size in sequences}
    count = len(jax.devices())
    if count > 1:
        most = max(sequences) // count * count
        candidates |= {f"{most} on {number}": runner(most, number) for number in (1, count)}
    seconds = {name: summary(values) for name, values in interleave(candidates, repeats=repeats).items()}
    slope, start = np.polyfit(sequences, [seconds[f"{size} on 1"]["median"] for size in sequences], 1)
    print(f"t = {1e3 * start:.2f} ms + {1e3 * slope:.3f} ms B", flush=True)
    return {"seconds": seconds, "seconds_at_none": start, "seconds_per_sequence": slope}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), help="what is counted, the first what is timed")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="over how many; the first is 1")
    parser.add_argument("--gpu", action="store_true", help="time updates instead, on what jax finds")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 5, 10, 25, 50], help="batches that are timed")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    if not args.gpu:  # before jax is imported; nothing is timed, so nothing need be optimised
        flags = f"--xla_force_host_platform_device_count={max(args.devices)} --xla_backend_optimization_level=0"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        os.environ["JAX_PLATFORMS"] = "cpu"
    from harness import stamp, write

    if args.gpu:
        found, name = timed(args.presets[0].split(",batch_size=")[0], args.sequences, args.repeats), "bench_scaling_gpu"
        question = "seconds of one update by the number of its sequences on one device, and of the largest batch on all"
    else:
        found, name = {words: counted(words, args.devices) for words in args.presets}, "bench_scaling"
        question = "operations of one update on each device, and what passes between devices, by their number"
    print(write(name, {"question": question, "stamp": stamp(), "found": found}))


if __name__ == "__main__":
    main()
