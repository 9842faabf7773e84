"""How many Brax steps a second does a whole agent make on the device, in the host loop, and Brax alone without an agent?

    python benchmarks/bench_brax.py [--envs inverted_pendulum ant] [--lanes 16] [--rows 50] [--repeats 7]
    python benchmarks/bench_brax.py --envs ant --lanes 64 256 1024 --seeds 1 --skip-host --out bench_brax_gpu
    python benchmarks/bench_brax.py --preset dreamer_v1 ... obs=pixels capacity=100000

Per environment and number of lanes, in one run and in turn: Brax's physics alone under random actions (the ceiling), and
where pixels are seen with a frame drawn of each state; the device loop with policy and replay, without learning and with
the preset's train ratio; the same agent driving the same environments through the host loop, without learning and with
it; several seeds side by side on the device (their steps a second are each seed's). Steps are the agent's, each of as many
of the simulator's as the preset repeats an action.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np
from harness import interleave, stamp, summary, write
from rich.console import Console

from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import preset, replace
from jaxdreamer.envs.device.brax_env import import_brax
from jaxdreamer.envs.registry import make_functional
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.device.program import Plan
from jaxdreamer.train.device.world import DeviceWorld
from jaxdreamer.train.host.world import HostWorld
from jaxdreamer.train.loop import Job, Run


def simulator(config, rows: int, *, drawing: bool):
    """Brax alone: no policy, no reset, no replay; with ``drawing``, a frame for every agent step besides."""
    lanes = config.env.num_envs
    env = import_brax().get_environment(config.env.id, backend=config.env.options.brax_backend)
    observe = make_functional(config.env).observe
    strong = lambda tree: jax.tree.map(lambda x: x.astype(x.dtype), tree)  # noqa: E731
    state = strong(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), lanes)))

    @jax.jit
    def rollout(state, key):
        def step(carry, key):
            state, light = carry
            action = jax.random.uniform(key, (lanes, env.action_size), minval=-1.0, maxval=1.0)
            for _ in range(config.env.action_repeat):
                state = strong(jax.vmap(env.step)(state, action))
            if drawing:
                light += jax.vmap(observe)(state)["image"].sum(dtype="uint32")  # of every pixel, or it is not drawn
            return (state, light), None

        (state, light), _ = jax.lax.scan(step, (state, jax.numpy.uint32(0)), jax.random.split(key, rows))
        return state.obs, light

    return lambda: jax.block_until_ready(rollout(state, jax.random.key(1)))


def device(config, folder: Path, rows: int, learning_rows: int, seeds: int = 1):
    """The loop as it trains: so many entries of every lane, without updates and with those that the train ratio asks for."""
    progress = Progress(1, console=Console(quiet=True))
    each = [replace(config, {"seed": seed}) for seed in range(seeds)]
    runs = [Run(one, RunDir(folder), MetricsLog(folder / f"metrics-{one.seed}.jsonl")) for one in each]
    env = make_functional(config.env)
    trainer = DeviceWorld(config, env).loop(Job(make_algorithm(config, env.spec), runs, progress))
    trainer.per_call = 1
    filling, acting, learning = (
        jax.device_put(Plan(np.array([random]), np.array([count], np.int32), np.array([updates], np.int32)))
        for random, count, updates in (
            (True, max(rows, config.replay.batch_length), 0),
            (False, rows, 0),
            (False, learning_rows, updates_of(config, learning_rows)),
        )
    )
    call = trainer._compile(filling)
    trainer.carry, _ = call(trainer.carry, filling)

    def go(plan):
        trainer.carry, report = call(trainer.carry, plan)
        jax.block_until_ready(report)

    return lambda: go(acting), lambda: go(learning)


def host(config, folder: Path, rows: int, learning_rows: int):
    """The same agent, the environments compiled one by one and stepped from Python."""
    progress = Progress(1, console=Console(quiet=True))
    log = MetricsLog(folder / "metrics.jsonl")
    world = HostWorld(config)
    trainer = world.loop(Job(make_algorithm(config, world.spec), [Run(config, RunDir(folder), log)], progress))
    while not trainer.replay.can_sample:
        trainer.collector.step(None, "random")

    def act(rows=rows):
        for _ in range(rows):
            trainer.collector.step(trainer.acting(0))

    def learn():
        act(learning_rows)
        for _ in range(updates_of(config, learning_rows) // trainer.per_call):
            trainer.train()
        jax.block_until_ready(trainer.state)

    return act, learn


def updates_of(config, rows: int) -> int:
    """What the train ratio asks for after so many entries of every lane, in whole calls of the host loop."""
    per_call = config.run.updates_per_call
    return max(1, int(rows * config.env.num_envs * config.train_ratio) // per_call) * per_call


def measure(name: str, lanes: int, args: argparse.Namespace) -> dict:
    config = preset(args.preset, *args.words, id=name, backend="brax", num_envs=lanes, prefill=0)
    rows = args.rows
    learning_rows = min(rows, max(1, int(args.updates / (lanes * config.train_ratio))))
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / kind for kind in ("device", "host")]
        for place in places:
            place.mkdir()
        candidates = {"physics": simulator(config, rows, drawing=False)}
        if config.env.obs in ("pixels", "both"):
            candidates["physics_drawing"] = simulator(config, rows, drawing=True)
        candidates["device"], candidates["device_learning"] = device(config, places[0], rows, learning_rows)
        if args.seeds > 1:
            many = device(config, places[0], rows, learning_rows, args.seeds)
            candidates[f"device_{args.seeds}_seeds"], candidates[f"device_learning_{args.seeds}_seeds"] = many
        if not args.skip_host:
            candidates["host"], candidates["host_learning"] = host(config, places[1], rows, learning_rows)
        seconds = {key: summary(values) for key, values in interleave(candidates, repeats=args.repeats).items()}
    steps = {key: lanes * (learning_rows if "learning" in key else rows) for key in seconds}
    rates = {key: steps[key] / found["median"] for key, found in seconds.items()}
    updates = updates_of(config, learning_rows)
    print(name, lanes, {key: round(value) for key, value in rates.items()}, flush=True)
    return {
        "env": name,
        "backend": config.env.options.brax_backend,
        "obs": config.env.obs,
        "action_repeat": config.env.action_repeat,
        "lanes": lanes,
        "steps_per_call": steps,
        "updates_per_call": updates,
        "seconds": seconds,
        "env_steps_per_second": rates,
        "updates_per_second": {
            key: updates / seconds[key]["median"] for key in ("device_learning", "host_learning") if key in seconds
        },
        "shares_of_device_learning": shares(rates),
    }


def shares(rates: dict[str, float]) -> dict[str, float]:
    """Of the time of the whole loop, by subtraction: what Brax alone takes, drawing, learning, and acting with replay."""
    cost = {key: rates["device_learning"] / rate for key, rate in rates.items()}
    simulated = cost.get("physics_drawing", cost["physics"])
    return {
        "physics": cost["physics"],
        "drawing": simulated - cost["physics"],
        "policy_and_replay": cost["device"] - simulated,
        "learning": 1.0 - cost["device"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=["inverted_pendulum", "ant"])
    parser.add_argument("--preset", default="classic")
    parser.add_argument("--lanes", type=int, nargs="+", default=[16])
    parser.add_argument("--rows", type=int, default=50, help="entries of every lane in a call")
    parser.add_argument(
        "--updates", type=int, default=400, help="about the most in a call that learns; it takes fewer rows"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=4, help="also train so many side by side")
    parser.add_argument("--skip-host", action="store_true", help="without the host loop")
    parser.add_argument("--out", default="bench_brax", help="name of the result")
    parser.add_argument("words", nargs="*", help="settings, such as obs=pixels capacity=100000")
    args = parser.parse_args()
    cases: list[dict] = []
    question = "environment steps a second: Brax alone, a whole agent on the device, the same agent on the host"
    facts = {"question": question, "preset": args.preset, "settings": args.words, "cases": cases}
    for name in args.envs:
        for lanes in args.lanes:
            cases.append(measure(name, lanes, args))
            path = write(args.out, facts | {"stamp": stamp()})  # each at once: the next takes minutes, and may fail
    print(path)


if __name__ == "__main__":
    main()
