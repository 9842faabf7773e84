"""Run as a process of its own: follow recorded observations and noise with the files of an export, and nothing of ours.

``python robot.py onnx|jax EXPORTED RECORDED.npz ACTIONS.npz [robot_loop.py]``
"""

import json
import runpy
import sys
import time

import numpy as np

kind, folder, recorded, written = sys.argv[1:5]
tape = dict(np.load(recorded))
with open(f"{folder}/contract.json", encoding="utf-8") as file:
    contract = json.load(file)
ports = contract["observations"]
steps = len(tape[ports[0]["name"]])
taken = []


class Tape:
    """A generator whose numbers were recorded: in the order of the contract's noise, one step after the other."""

    def __init__(self):
        self.left = iter([tape[x["name"]][t] for t in range(steps) for x in contract["noise"]])

    def __getattr__(self, distribution):
        assert distribution in {x["distribution"] for x in contract["noise"]}
        return lambda size: next(self.left).reshape(size)


if kind == "onnx":
    np.random.default_rng = Tape
    loop = runpy.run_path(sys.argv[5])
    seen = iter([{x["name"]: tape[x["name"]][t] for x in ports} for t in range(steps)])
    loop["run"](folder, lambda: next(seen), taken.append, steps, hertz=1e6)
    assert not [name for name in sys.modules if name.partition(".")[0] in ("jax", "jaxlib", "jaxdreamer", "torch")]
else:
    import jax
    from jax import export

    with open(f"{folder}/policy.stablehlo", "rb") as file:
        step = jax.jit(export.deserialize(bytearray(file.read())).call)
    state = {x["name"]: np.full((1, *x["shape"]), x["initial"], x["dtype"]) for x in contract["state"]}
    seconds = []
    for t in range(steps):
        start = time.perf_counter()
        inputs = {x["name"]: tape[x["name"]][t][None] for x in [*ports, *contract["noise"]]}
        found = jax.device_get(step({**inputs, **state, "is_first": np.array([t == 0])}))
        state = {x["name"]: found[x["output"]] for x in contract["state"]}
        taken.append({x["name"]: found[x["name"]][0] for x in contract["actions"]})
        seconds.append(time.perf_counter() - start)
    print(f"{steps} steps, each {1e3 * np.median(seconds):.3f} ms (the first {1e3 * seconds[0]:.0f} ms)")
    assert not [name for name in sys.modules if name.partition(".")[0] in ("jaxdreamer", "flax", "torch")]
np.savez(written, **{name: np.stack([action[name] for action in taken]) for name in taken[0]})
