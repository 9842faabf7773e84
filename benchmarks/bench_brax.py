"""How many Brax steps a second does a whole agent make on the device, in the host loop, and Brax alone without an agent?

    python benchmarks/bench_brax.py [--envs inverted_pendulum ant] [--lanes 16] [--rows 50] [--repeats 7]

Per environment and number of lanes, in one run and in turn: Brax's physics alone under random actions (the ceiling); the
device loop with policy and replay, without learning and with the preset's train ratio; the same agent driving the same
environments through the host loop, without learning and with it; several seeds side by side on the device (their steps a
second are each seed's).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np
from harness import interleave, stamp, summary, write
from rich.console import Console

from jaxdreamer.config import preset
from jaxdreamer.envs.brax_env import import_brax
from jaxdreamer.envs.registry import make_functional, make_vector
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.device import DeviceTrainer, Run
from jaxdreamer.train.host import HostTrainer
from jaxdreamer.train.program import Plan


def physics(name: str, backend: str, lanes: int, rows: int):
    """Brax alone: no policy, no reset, no replay."""
    env = import_brax().get_environment(name, backend=backend)
    strong = lambda tree: jax.tree.map(lambda x: x.astype(x.dtype), tree)  # noqa: E731
    state = strong(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), lanes)))

    @jax.jit
    def rollout(state, key):
        def step(state, key):
            action = jax.random.uniform(key, (lanes, env.action_size), minval=-1.0, maxval=1.0)
            return strong(jax.vmap(env.step)(state, action)), None

        return jax.lax.scan(step, state, jax.random.split(key, rows))[0].obs

    return lambda: jax.block_until_ready(rollout(state, jax.random.key(1)))


def device(config, folder: Path, updates: int, rows: int, seeds: int = 1):
    """The loop as it trains: ``rows`` entries of every lane, then the updates that the train ratio asks for."""
    progress = Progress(1, console=Console(quiet=True))
    runs = [Run(seed, RunDir(folder), MetricsLog(folder / f"metrics-{seed}.jsonl")) for seed in range(seeds)]
    trainer = DeviceTrainer(config, make_functional(config.env), runs, progress)
    trainer.per_call = 1
    filling, acting, learning = (
        jax.device_put(Plan(np.array([random]), np.array([rows], np.int32), np.array([count], np.int32)))
        for random, count in ((True, 0), (False, 0), (False, updates))
    )
    call = trainer._compile(filling)
    trainer.carry, _ = call(trainer.carry, filling)

    def go(plan):
        trainer.carry, report = call(trainer.carry, plan)
        jax.block_until_ready(report)

    return lambda: go(acting), lambda: go(learning)


def host(config, folder: Path, updates: int, rows: int):
    """The same agent, the environments compiled one by one and stepped from Python."""
    make = lambda count, seed: make_vector(config.env, count, seed)  # noqa: E731
    progress = Progress(1, console=Console(quiet=True))
    log = MetricsLog(folder / "metrics.jsonl")
    envs = make(config.env.num_envs, 0)
    trainer = HostTrainer(config, envs, make, RunDir(folder), log, progress)
    while not trainer.replay.can_sample:
        trainer.collector.step(None)

    def act():
        for _ in range(rows):
            trainer.collector.step(trainer.state.params)

    def learn():
        act()
        for _ in range(updates // trainer.per_call):
            trainer.train()
        jax.block_until_ready(trainer.state)

    return act, learn


def measure(name: str, backend: str, lanes: int, rows: int, repeats: int, seeds: int) -> dict:
    config = preset("classic", id=name, backend="brax", num_envs=lanes, brax_backend=backend, prefill=0)
    updates = int(rows * lanes * config.train_ratio) // config.run.updates_per_call * config.run.updates_per_call
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / kind for kind in ("device", "host")]
        for place in places:
            place.mkdir()
        candidates = {"physics": physics(name, backend, lanes, rows)}
        candidates["device"], candidates["device_learning"] = device(config, places[0], updates, rows)
        if seeds > 1:
            many = device(config, places[0], updates, rows, seeds)
            candidates[f"device_{seeds}_seeds"], candidates[f"device_learning_{seeds}_seeds"] = many
        candidates["host"], candidates["host_learning"] = host(config, places[1], updates, rows)
        seconds = interleave(candidates, repeats=repeats)
    steps = rows * lanes
    medians = {key: steps / summary(values)["median"] for key, values in seconds.items()}
    print(name, lanes, {key: round(value) for key, value in medians.items()}, flush=True)
    return {
        "env": name,
        "backend": backend,
        "lanes": lanes,
        "steps_per_call": steps,
        "updates_per_call": updates,
        "seconds": {key: summary(values) for key, values in seconds.items()},
        "env_steps_per_second": medians,
        "updates_per_second": {
            key: updates / summary(seconds[key])["median"] for key in ("device_learning", "host_learning")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=["inverted_pendulum", "ant"])
    parser.add_argument("--backend", default="generalized")
    parser.add_argument("--lanes", type=int, nargs="+", default=[16])
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=4, help="also train so many side by side")
    args = parser.parse_args()
    cases = [
        measure(name, args.backend, n, args.rows, args.repeats, args.seeds) for name in args.envs for n in args.lanes
    ]
    question = "environment steps a second: Brax alone, a whole agent on the device, the same agent on the host"
    print(write("bench_brax", {"question": question, "preset": "classic", "cases": cases, "stamp": stamp()}))


if __name__ == "__main__":
    main()
