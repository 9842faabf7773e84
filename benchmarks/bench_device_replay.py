"""What does a ring on the device cost: a row added, a batch sampled, and is it there only once?

python benchmarks/bench_device_replay.py [--repeats 50] [--steps 50]

Rings of several capacities are filled past their end, then timed in turn. ``add`` is one row in a program of its own,
``scan`` the same inside a scan of ``--steps`` rows (seconds are per row), for one ring and for four vmapped ones.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
from harness import interleave, stamp, summary, write

from jaxdreamer.replay.device import make_device_replay
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec, Timestep

ACTION = ActionSpec((ActionPart("continuous", 8),))
PIXELS = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ACTION)
STATE = EnvSpec({"state": ArraySpec((27,), "float32", "vector")}, ACTION)
# name: spec, capacity, lanes, cross_episodes, seeds
RINGS = {
    "pixels 10k x16": (PIXELS, 10_000, 16, False, 1),
    "pixels 100k x16": (PIXELS, 100_000, 16, False, 1),
    "pixels 40k x16, 4 seeds": (PIXELS, 10_000, 16, False, 4),
    "state 1M x1": (STATE, 1_000_000, 1, False, 1),
    "state 1M x64": (STATE, 1_000_000, 64, False, 1),
    "state 1M x64, across episodes": (STATE, 1_000_000, 64, True, 1),
    "state 4M x64, 4 seeds": (STATE, 1_000_000, 64, False, 4),
}


def row(spec: EnvSpec, lanes: int, index: jax.Array) -> tuple[Timestep, jax.Array]:
    """Episodes of 100 entries."""
    obs = {key: jnp.full((lanes, *item.shape), index % 200).astype(item.dtype) for key, item in spec.obs.items()}
    flags = [jnp.full(lanes, index % 100 == moment) for moment in (0, 99)]
    timestep = Timestep(obs, jnp.ones(lanes), *flags, jnp.zeros(lanes, bool))
    return timestep, jnp.ones((lanes, spec.action.size))


class Ring:
    """One ring, filled past its end, with the programs to time."""

    def __init__(self, spec: EnvSpec, capacity: int, lanes: int, cross_episodes: bool, seeds: int, steps: int) -> None:
        self.replay = make_device_replay(
            spec,
            capacity=capacity,
            lanes=lanes,
            length=50,
            batch_size=50,
            cross_episodes=cross_episodes,
            copies=seeds,
        )

        def many(state, first, count):
            def step(state, index):
                return self.replay.add(state, *row(spec, lanes, index)), None

            return jax.lax.scan(step, state, first + jnp.arange(count))[0]

        each = jax.vmap if seeds > 1 else lambda function: function
        self.keys = jax.random.split(jax.random.key(0), seeds) if seeds > 1 else jax.random.key(0)
        self.first = jnp.arange(seeds) if seeds > 1 else jnp.int32(0)
        self.rows = jax.jit(each(lambda index: row(spec, lanes, index)))(self.first)
        state = jax.jit(each(lambda _: self.replay.init()))(self.first)
        fill = jax.jit(each(lambda state, first: many(state, first, self.replay.size.rows + 7)), donate_argnums=0)
        self.state = fill(state, self.first)
        add = jax.jit(each(lambda state, row: self.replay.add(state, *row)), donate_argnums=0)
        scan = jax.jit(each(lambda state, first: many(state, first, steps)), donate_argnums=0)
        self.add_program = add.lower(self.state, self.rows).compile()
        self.scan_program = scan.lower(self.state, self.first).compile()
        self.sample_program = jax.jit(each(self.replay.sample)).lower(self.state, self.keys).compile()
        self.can_sample_program = jax.jit(each(self.replay.can_sample)).lower(self.state).compile()

    def add(self) -> None:
        self.state = jax.block_until_ready(self.add_program(self.state, self.rows))

    def scan(self) -> None:
        self.state = jax.block_until_ready(self.scan_program(self.state, self.first))

    def sample(self) -> None:
        jax.block_until_ready(self.sample_program(self.state, self.keys))

    def can_sample(self) -> None:
        jax.block_until_ready(self.can_sample_program(self.state))

    def memory(self) -> dict[str, dict[str, int]]:
        """What the compiled programs hold beside the ring, by XLA's own account."""
        programs = {"add": self.add_program, "scan": self.scan_program, "sample": self.sample_program}
        names = ("argument_size_in_bytes", "alias_size_in_bytes", "temp_size_in_bytes")
        return {
            name: {key: getattr(program.memory_analysis(), key) for key in names} for name, program in programs.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    results = {}
    for name, sizes in RINGS.items():
        ring = Ring(*sizes, steps=args.steps)
        calls = {"add": ring.add, "scan": ring.scan, "sample": ring.sample, "can_sample": ring.can_sample}
        seconds = interleave(calls, repeats=args.repeats)
        seconds["scan"] = [value / args.steps for value in seconds["scan"]]
        results[name] = {
            "ring": ring.replay.size.describe(),
            "seconds": {key: summary(values) for key, values in seconds.items()},
            "memory": ring.memory(),
        }
        fast = {key: f"{1e6 * value['median']:.0f} us" for key, value in results[name]["seconds"].items()}
        print(name, fast, {key: value["temp_size_in_bytes"] for key, value in results[name]["memory"].items()})
    write("bench_device_replay", {"stamp": stamp(), "batch": "50 x 50", "scan_steps": args.steps, "rings": results})


if __name__ == "__main__":
    main()
