"""Does the agent learn what nobody tuned it on? One preset for each kind of observation, beside published numbers.

    python benchmarks/learn_suite.py                                  # all that a CPU can do, one run a core
    python benchmarks/learn_suite.py cartpole_swingup --seeds 0 1
    python benchmarks/learn_suite.py --device gpu --minutes 30        # from pixels, as far as the time goes
    python benchmarks/learn_suite.py --tiny --device gpu --minutes 2  # is the command right? Its figures mean nothing
    python benchmarks/learn_suite.py --show                           # table and plot of what is there

A task has no settings of its own but action repeat and frames; ten evaluations of 20 episodes tell how it goes. Each run is
the command line in a process of its own, in ``--runs``; stopped by Ctrl-C or the time, it goes on when the same command is
given again. Its result is ``results/learn/TASK-SEED.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "learn"
SAVING = 60  # seconds a run may take to save when its time is over
TINY = ("--preset", "dreamer_v3,v3_1m,tiny", "classes=4", "frames=400", "prefill=100", "batch_size=4", "batch_length=8")


@dataclass(frozen=True)
class Published:
    """Mean and deviation over the authors' seeds of what they returned after as many frames."""

    mean: float
    deviation: float
    source: str


@dataclass(frozen=True)
class Task:
    """What is trained on."""

    env: tuple[str, ...]
    preset: str
    frames: int
    repeat: int
    least: float  # the return that is asked for
    seeds: tuple[int, ...]
    published: Published | None = None

    def command(self, seed: int) -> list[str]:
        """The words of the run."""
        entries = self.frames // self.repeat
        budget = [
            f"action_repeat={self.repeat}",
            f"frames={self.frames}",
            f"eval_every={entries // 10}",
            "eval_episodes=20",
        ]
        return ["jaxdreamer", "train", "--preset", self.preset, *self.env, *budget, "--seed", str(seed)]


def _dmc(name: str, seeds: tuple[int, ...], least: float, mean: float, deviation: float) -> Task:
    source = Published(mean, deviation, "DreamerV3 of 2023, 5 seeds")
    return Task(("--env.backend", "dmc", "--env", name), "classic", 100_000, 2, least, seeds, source)


def _vision(name: str, mean: float, deviation: float) -> Task:
    source = Published(mean, deviation, "DreamerV3 of 2024, 10 seeds")
    words = ("--env.backend", "dmc", "--env", name, "--obs", "pixels")
    return Task(words, "dreamer_v3", 100_000, 2, mean, (0,), source)


_BRAX = (
    "--env.backend",
    "brax",
    "--env",
    "inverted_pendulum",
    "--env.num-envs",
    "8",
    "--env.brax-backend",
    "generalized",
)
_PLAYGROUND = ("--env.backend", "playground", "--obs", "pixels", "--env.num-envs", "8", "--env")
_GYMNAX = ("--env.backend", "gymnax", "--env", "Breakout-MinAtar", "--env.num-envs", "16")
CPU = {
    "cartpole_swingup": _dmc("cartpole-swingup", (0, 1), 478, 478, 20),
    "reacher_easy": _dmc("reacher-easy", (0, 1), 700, 740, 196),
    "walker_walk": _dmc("walker-walk", (0,), 461, 461, 138),
    "cheetah_run": _dmc("cheetah-run", (0,), 298, 298, 90),
    "finger_spin": _dmc("finger-spin", (0,), 700, 748, 70),
    "pendulum": Task(("--env", "Pendulum-v1"), "classic", 10_000, 1, -250, (0, 1, 2)),
    "cartpole": Task(("--env", "CartPole-v1"), "classic", 30_000, 1, 475, (0, 1, 2)),
    "acrobot": Task(("--env", "Acrobot-v1"), "classic", 30_000, 1, -100, (0, 1, 2)),
    "mountain_car": Task(("--env", "MountainCarContinuous-v0"), "classic", 60_000, 8, 85, (0, 1, 2)),
    "breakout_minatar": Task(_GYMNAX, "classic", 20_000, 1, 1.92, (0, 1, 2)),  # five times what chance gets
    "cartpole_balance_playground": Task((*_PLAYGROUND, "cartpole-balance"), "classic", 40_000, 4, 900, (0,)),
    "cartpole_swingup_playground": Task((*_PLAYGROUND, "cartpole-swingup"), "classic", 60_000, 4, 250, (0,)),
    "inverted_pendulum": Task(_BRAX, "classic", 20_000, 1, 900, (0, 1, 2)),
    "inverted_pendulum_pixels": Task((*_BRAX, "--obs", "pixels"), "classic", 20_000, 1, 900, (0,)),
}
GPU = {
    "walker_walk_pixels": _vision("walker-walk", 586, 121),
    "cartpole_swingup_pixels": _vision("cartpole-swingup", 551, 135),
    "cheetah_run_pixels": _vision("cheetah-run", 307, 44),
    "reacher_easy_pixels": _vision("reacher-easy", 374, 116),
}
TASKS = CPU | GPU


class Stop(threading.Event):
    """Set by Ctrl-C: no run is begun any more."""


def run(name: str, seed: int, folder: Path, cores: set[int], seconds: float | None, tiny: bool, stop: Stop) -> None:
    """Train one seed until its budget or the time is spent, and keep what came of it."""
    sys.path.insert(0, str(HERE))
    from harness import stamp

    target = (folder if tiny else RESULTS) / f"{name}-{seed}.json"
    before = json.loads(target.read_text()) if target.exists() else {"seconds": 0.0, "finished": False}
    if stop.is_set() or before["finished"]:
        return
    logdir, words = folder / f"{name}-{seed}", TASKS[name].command(seed)
    if tiny:
        words = [*words, *TINY]
    start = time.perf_counter()
    with (folder / f"{name}-{seed}.log").open("a") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *words, "--logdir", str(logdir)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is passed on once, not twice
        )
        if cores:  # not before it starts: that would fork this process, which has JAX's threads after the first run
            os.sched_setaffinity(child.pid, cores)
        while child.poll() is None:
            if stop.is_set() or (seconds is not None and time.perf_counter() - start > seconds):
                child.send_signal(signal.SIGINT)
                child.wait(SAVING)
            time.sleep(0.5)
    taken = before["seconds"] + time.perf_counter() - start
    found = outcome(logdir / "metrics.jsonl")
    finished = child.returncode == 0 and "final" in found and not stop.is_set()
    finished = finished and found["env_frames"] >= 0.9 * (400 if tiny else TASKS[name].frames)
    payload = {"task": name, "seed": seed, "words": words, "seconds": round(taken, 1), "finished": finished}
    target.parent.mkdir(exist_ok=True, parents=True)
    target.write_text(json.dumps(payload | found | {"stamp": stamp()}, indent=1, sort_keys=True) + "\n")
    print(f"{name}, seed {seed}: {found.get('final', {}).get('eval/return', 'no evaluation')} of "
          f"{found.get('env_frames', 0):,} frames after {taken:.0f} s", flush=True)  # fmt: skip


def outcome(path: Path) -> dict[str, Any]:
    """Curve and last evaluation of a run's log, as far as it came."""
    from jaxdreamer.record import metrics

    if not path.exists():
        return {}
    records = metrics.read(path)
    evaluations = [record for record in records if "eval/return" in record]
    found: dict[str, Any] = (
        {"env_frames": records[-1]["env_frames"], "updates": records[-1]["updates"]} if records else {}
    )
    if evaluations:
        found["final"] = {key: value for key, value in evaluations[-1].items() if key.startswith("eval")}
        found["curve"] = [[record["env_frames"], round(record["eval/return"], 1)] for record in evaluations]
        found["train"] = [
            [record["env_frames"], round(record["train/return"], 1)] for record in records if "train/return" in record
        ]
    return found


def held(curve: list[list[float]]) -> float:
    """What is left in the end of the best evaluation; where returns may be negative, of the gain over the first one."""
    returns = [value for _, value in curve]
    floor = 0.0 if min(returns) >= 0 else returns[0]
    return (returns[-1] - floor) / (max(returns) - floor) if max(returns) > floor else 0.0


def results() -> dict[str, list[dict[str, Any]]]:
    """What is in ``results/learn``, by task."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TASKS}
    for name in TASKS:
        for path in sorted(RESULTS.glob(f"{name}-*.json")):
            data = json.loads(path.read_text())
            if data.get("curve"):
                found[name].append(data)
    return {name: runs for name, runs in found.items() if runs}


def table() -> str:
    """A row for each task: its runs' last evaluations of 20 episodes, in the order of their seeds, failures included."""
    lines = ["| task | frames | return, by seed | asked for | published | of the best | minutes |", "|---" * 7 + "|"]
    for name, runs in results().items():
        task = TASKS[name]
        known = f"{task.published.mean:g} +- {task.published.deviation:g}" if task.published else ""
        frames = f"{task.frames:,}" + (f" (action repeat {task.repeat})" if task.repeat > 1 else "")
        returns = [f"{data['final']['eval/return']:.0f}{_unfinished(data)}" for data in runs]
        kept = [f"{held(data['curve']):.0%}" for data in runs]
        minutes = [f"{data['seconds'] / 60:.0f}" for data in runs]
        each = (
            frames,
            ", ".join(returns),
            f"{task.least:g}",
            known,
            ", ".join(kept),
            ", ".join(minutes),
        )
        lines.append(f"| {name} | {' | '.join(each)} |")
    return "\n".join(lines)


def _unfinished(data: dict[str, Any]) -> str:
    return "" if data["finished"] else f" (after {data['env_frames']:,})"


def plot(path: Path) -> None:
    """One panel a task: every seed, the band they span, and the published number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = results()
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (name, runs) in enumerate(found.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(name)
        for data in runs:
            frames, values = zip(*data["curve"])
            axes.plot(frames, values, label=f"seed {data['seed']}")
        if len(runs) > 1:
            shared = list(zip(*(data["curve"] for data in runs)))  # the cadence is one for all seeds
            low, high = ([choose(point[1] for point in points) for points in shared] for choose in (min, max))
            axes.fill_between([points[0][0] for points in shared], low, high, alpha=0.2)
        if (known := TASKS[name].published) is not None:
            axes.errorbar(
                [TASKS[name].frames], [known.mean], [known.deviation], fmt="ko", capsize=4, label=known.source
            )
        axes.axhline(TASKS[name].least, color="grey", linestyle=":", linewidth=1)
        axes.set_xlabel("env frames")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="default: all of the device")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the tasks' own")
    parser.add_argument("--minutes", type=float, help="for all runs together; each gets its share, then saves")
    parser.add_argument("--jobs", type=int, help="runs side by side; default: one a core, or one on a GPU")
    parser.add_argument("--runs", type=Path, default=Path("runs/learn_suite"), help="where the runs' folders are")
    parser.add_argument("--tiny", action="store_true", help="try the command itself")
    parser.add_argument("--show", action="store_true", help="train nothing")
    options = parser.parse_args()
    if not options.show:
        train(options)
    if not options.tiny:
        print(table())
        plot(RESULTS / "curves.png")


def train(options: argparse.Namespace) -> None:
    names = options.tasks or list(GPU if options.device == "gpu" else CPU)
    queue = [(name, seed) for name in names for seed in options.seeds or TASKS[name].seeds]
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    jobs = options.jobs or (1 if options.device == "gpu" else max(1, len(available)))
    share = None if options.minutes is None else options.minutes * 60 * jobs / len(queue)
    folder = options.runs / "tiny" if options.tiny else options.runs
    folder.mkdir(parents=True, exist_ok=True)
    free = [set(available[index::jobs]) for index in range(jobs)]
    stop = Stop()
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    def one(item: tuple[str, int]) -> None:
        cores = free.pop()
        try:
            run(*item, folder, cores, share, options.tiny, stop)
        finally:
            free.append(cores)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, queue))


if __name__ == "__main__":
    main()
