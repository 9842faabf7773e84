"""How many steps a second does a DM Control task give from pixels: in one compiled program, or from worker processes?

    python benchmarks/bench_playground.py [--task cartpole-balance] [--lanes 16] [--rows 100]

64x64, random actions, no agent. In one run and in turn: Playground's task on MJX drawn by the ray-caster, its physics
without drawing, and dm_control's own task drawn by MuJoCo in worker processes (``render_quality=fast``). Steps are control
steps of one lane; both sides renew episodes at their ends. On a GPU, give many lanes.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import interleave, stamp, summary, write

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs import make_vector
from jaxdreamer.envs.device.functional import make_lanes
from jaxdreamer.envs.registry import make_functional


def program(task: str, lanes: int, rows: int, obs: str):
    """``rows`` steps of every lane as one call; every number of every observation is used, or it would not be made."""
    env = make_functional(EnvConfig(backend="playground", id=task, obs=obs))
    played = make_lanes(env, lanes)
    size = env.spec.action.size

    @jax.jit
    def rollout(state, key):
        def step(carry, key):
            state, total = carry
            action = jax.random.uniform(key, (lanes, size), minval=-1.0, maxval=1.0)
            state, timestep, _ = played.step(state, action)
            return (state, total + sum(x.astype(jnp.float32).mean() for x in timestep.obs.values())), None

        (state, total), _ = jax.lax.scan(step, (state, jnp.float32(0)), jax.random.split(key, rows))
        return state, total

    start = time.perf_counter()
    kept = [jax.block_until_ready(rollout(played.init(jax.random.key(0)), jax.random.key(1)))[0]]
    seconds = time.perf_counter() - start

    def call():
        kept[0], _ = jax.block_until_ready(rollout(kept[0], jax.random.key(2)))

    return call, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cartpole-balance")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--name", default="bench_playground")
    args = parser.parse_args()
    begun = stamp()
    drawn, compile_drawn = program(args.task, args.lanes, args.rows, "pixels")
    physics, compile_physics = program(args.task, args.lanes, args.rows, "state")
    config = EnvConfig(
        backend="dmc", id=args.task, obs="pixels", workers=args.workers, options={"render_quality": "fast"}
    )
    envs, rng = make_vector(config, args.lanes, seed=0), np.random.default_rng(0)
    size = envs.spec.action.size

    def processes():
        for _ in range(args.rows):
            envs.step(rng.uniform(-1, 1, (args.lanes, size)))

    candidates = {"program, drawn": drawn, "program, physics alone": physics, "worker processes, drawn": processes}
    seconds = interleave(candidates, repeats=args.repeats)
    envs.close()
    rates = {name: summary([args.lanes * args.rows / s for s in found]) for name, found in seconds.items()}
    payload = {
        "question": f"control steps a second of {args.task}, {args.lanes} lanes, 64x64, random actions",
        "task": args.task,
        "lanes": args.lanes,
        "workers": args.workers,
        "steps_per_second": rates,
        "first_call_seconds": {"program, drawn": compile_drawn, "program, physics alone": compile_physics},
        "ratio": rates["program, drawn"]["median"] / rates["worker processes, drawn"]["median"],
        "stamp": begun,
    }
    path = write(args.name, payload)
    for name, rate in rates.items():
        print(f"{name}: {rate['median']:.0f} steps/s ({rate['min']:.0f} to {rate['max']:.0f})")
    print(f"drawn, program over processes: {payload['ratio']:.2f}")
    print(path)


if __name__ == "__main__":
    main()
