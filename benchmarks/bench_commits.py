"""Has anything become slower since an older commit? Both are checked out and timed in turn, each in a process of its own.

    python benchmarks/bench_commits.py c2842ee                       # the last commit that knew one device only
    python benchmarks/bench_commits.py HEAD~5 --parts brax --turns 40

Parts: ``update``, one full-size update of V1 (as bench_update.py has it); ``brax``, entries and updates of the device loop
(``dreamer_v1,small``, inverted_pendulum, 16 environments); ``classic``, an update of the quick start's preset from state.
Both sides are told by glibc's variables to keep the memory they free. A side's process waits while the other works; a ratio
is that of two turns which followed one another, now over then. Each round starts both anew: two processes of one program
differ by some hundredths.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}
TURNS = {"update": 4, "brax": 15, "classic": 15}


def of_pixels(preset: str, *words: str, state: bool = False) -> Callable[[], Any]:
    """An update of a preset on a batch of noise: pixels, or 17 numbers of state, and six actions.

    Made here, not by the harness: a side has the harness of its own commit, and an older one may have no such batch.
    """
    import jax
    import numpy as np

    from jaxdreamer import config as configs
    from jaxdreamer.agent.algorithms import make_algorithm
    from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, Batch, EnvSpec

    config = configs.preset(preset, *words)
    seen = (
        {"state": ArraySpec((17,), "float32", "vector")}
        if state
        else {"image": ArraySpec((64, 64, 3), "uint8", "image")}
    )
    spec = EnvSpec(seen, ActionSpec((ActionPart("continuous", 6),)))
    lead, rng = (config.replay.batch_length, config.replay.batch_size), np.random.default_rng(0)
    flags = np.zeros(lead, bool)
    obs: Any = {name: rng.integers(0, 256, (*lead, *each.shape)).astype(each.dtype) for name, each in seen.items()}
    action, reward = rng.uniform(-1, 1, (*lead, 6)).astype(np.float32), rng.normal(size=lead).astype(np.float32)
    batch = jax.device_put(
        Batch(obs=obs, action=action, reward=reward, is_first=flags, is_last=flags, is_terminal=flags)
    )
    learner = make_algorithm(config, spec)
    update = jax.jit(learner.update, donate_argnums=0)
    kept = [jax.jit(learner.init)(jax.random.key(0))]

    def turn() -> None:
        kept[0], metrics = update(kept[0], batch)
        jax.block_until_ready((kept[0], metrics))

    return turn


def brax(folder: Path) -> Callable[[], Any]:
    """Five updates and the entries that the preset collects for them."""
    from bench_brax import device

    from jaxdreamer.config import preset

    config = preset("dreamer_v1,small", id="inverted_pendulum", backend="brax", num_envs=16, prefill=0)
    return device(config, folder, 50, max(1, int(5 / (16 * config.train_ratio))))[1]


def work(part: str) -> None:
    """One side: a turn for each line that is read, and its seconds, of the clock and of all threads, printed."""
    with tempfile.TemporaryDirectory() as folder:
        if part == "brax":
            turn = brax(Path(folder))
        elif part == "classic":
            turn = of_pixels("classic", "replay.context=none", state=True)
        else:
            turn = of_pixels("dreamer_v1", "replay.context=none")
        turn()
        print("ready", flush=True)
        for _ in sys.stdin:
            start, cpu = time.perf_counter(), time.process_time()
            turn()
            print(json.dumps([time.perf_counter() - start, time.process_time() - cpu]), flush=True)


def compare(part: str, trees: dict[str, Path], rounds: int, turns: int, cache: Path) -> dict[str, Any]:
    """Both sides' seconds and their ratios."""
    from harness import summary

    pairs: list[dict[str, list[float]]] = []
    for _ in range(rounds):
        pairs += pair(part, trees, turns, cache)
    found: dict[str, Any] = {}
    for index, clock in enumerate(("seconds", "cpu_seconds")):
        each = {name: [one[name][index] for one in pairs] for name in trees}
        ratios = [now / then for then, now in zip(each["then"], each["now"])]
        found[clock] = {
            **{name: summary(values) for name, values in each.items()},
            "ratio": statistics.median(ratios),
            "ratio_by_round": [statistics.median(ratios[i : i + turns]) for i in range(0, len(ratios), turns)],
        }
    print(part, {clock: round(values["ratio"], 4) for clock, values in found.items()}, flush=True)
    return found


def pair(part: str, trees: dict[str, Path], turns: int, cache: Path) -> list[dict[str, list[float]]]:
    """Seconds of the clock and of all threads of both sides' turns, two processes in turn."""
    sides = {}
    for name, tree in trees.items():
        environment = {"PYTHONPATH": os.pathsep.join([str(tree), str(tree / "benchmarks")])}
        sides[name] = subprocess.Popen(
            [sys.executable, "-P", __file__, "HEAD", "--side", part],  # -P: modules of its own tree, not of this file's
            env=os.environ | KEEP_MEMORY | environment | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    for side in sides.values():
        if side.stdout.readline().strip() != "ready":
            raise SystemExit(f"{part}: a side ended before its first turn; its message is above")
    spent = []
    for index in range(turns + 2):  # the first two are not counted
        spent.append({})
        for name in list(sides)[:: 1 if index % 2 else -1]:
            sides[name].stdin.write("\n")
            sides[name].stdin.flush()
            spent[-1][name] = json.loads(sides[name].stdout.readline())
    for side in sides.values():
        side.stdin.close()
        side.wait()
    return spent[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the older one")
    parser.add_argument("--parts", nargs="+", choices=TURNS, default=["update", "brax"])
    parser.add_argument("--rounds", type=int, default=6, help="times both sides are started")
    parser.add_argument("--turns", type=int, help="of each side in a round; 4 of an update, 15 of the others")
    parser.add_argument("--side", choices=TURNS, help="internal: time one side")
    arguments = parser.parse_args()
    if arguments.side:
        work(arguments.side)
        return
    from harness import stamp, write

    git = ["git", "-C", str(HERE)]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "then"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), arguments.commit], check=True)
        try:
            then = subprocess.run(
                ["git", "-C", str(tree), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
            ).stdout.strip()
            trees = {"then": tree, "now": HERE.parent}
            question = "seconds of the same work now and at an older commit, in turn; the ratio is now over then"
            for part in arguments.parts:
                turns = arguments.turns or TURNS[part]
                found = compare(part, trees, arguments.rounds, turns, Path(folder) / "cache")
                payload = {"question": question, "then": then, "found": found, "stamp": stamp()}
                print(write(f"bench_commits_{part}", payload))
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


if __name__ == "__main__":
    main()
