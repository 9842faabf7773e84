"""Act with an exported policy, 50 times a second. Needs onnxruntime and numpy only: python robot_loop.py FOLDER [STEPS]"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime


def run(folder, read, send, steps, hertz=50.0):
    """``read()`` gives {name: array} of the contract's observations, ``send`` takes the same of its actions."""
    contract = json.loads(Path(folder, "contract.json").read_text())
    policy = onnxruntime.InferenceSession(str(Path(folder, contract["files"]["onnx"]["name"])))
    rng, names = np.random.default_rng(), [output.name for output in policy.get_outputs()]
    state = {x["name"]: np.full((1, *x["shape"]), x["initial"], x["dtype"]) for x in contract["state"]}
    taken, due = [], time.perf_counter()
    for step in range(steps):
        seen, start = read(), time.perf_counter()
        inputs = {x["name"]: np.asarray(seen[x["name"]], x["dtype"])[None] for x in contract["observations"]}
        for x in contract["noise"]:
            inputs[x["name"]] = getattr(rng, x["distribution"])(size=(1, *x["shape"])).astype(x["dtype"])
        found = dict(zip(names, policy.run(None, {**inputs, **state, "is_first": np.array([step == 0])})))
        state = {x["name"]: found[x["output"]] for x in contract["state"]}
        send({x["name"]: found[x["name"]][0] for x in contract["actions"]})
        taken.append(time.perf_counter() - start)
        due += 1 / hertz
        time.sleep(max(0.0, due - time.perf_counter()))
    print(f"{steps} steps, each {1e3 * np.median(taken):.3f} ms (the slowest {1e3 * max(taken):.3f} ms)")


if __name__ == "__main__":  # in place of a robot: sensors that read zero, and motors that print
    sensors = json.loads(Path(sys.argv[1], "contract.json").read_text())["observations"]
    zeros = {x["name"]: np.zeros(x["shape"], x["dtype"]) for x in sensors}
    run(sys.argv[1], read=lambda: zeros, send=print, steps=int((*sys.argv, 50)[2]))
