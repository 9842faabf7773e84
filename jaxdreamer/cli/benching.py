"""The command ``bench``: what the time of a configuration goes into, and what would help."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdreamer import config as configs
from jaxdreamer.cli.training import TrainOptions, settled, suit_memory
from jaxdreamer.config import ConfigError

if TYPE_CHECKING:
    from jaxdreamer.train.bench import Split

_CONTENTS = {
    "environment": "stepping, drawing and resets, as long as the loop waits for them",
    "policy": "deciding, with observations on their way to the device and actions on their way back",
    "store": "checking, counting and storing entries",
    "sample": "waiting for a batch; a thread gathers ahead",
    "transfer": "waiting for a batch on its way to the device",
    "update": "learning, as long as nothing else runs beside it",
    "log": "lines of metrics, and the progress on the screen",
    "other": "what no part accounts for",
}
_ON_DEVICE = {
    "environment": "stepping, drawing and resets",
    "policy": "deciding",
    "store": "storing entries in replay",
    "sample": "gathering batches from replay",
    "transfer": "starting the compiled program: its plan, its report",
    "update": "learning",
}
_APART = (
    "all of this is one compiled program, in which no clock runs: it was called with steps alone, with updates alone and "
    "with nothing; storing and sampling were compiled apart. `jaxdreamer train` logs it as time/share_device"
)
_BUSY = (
    "the parts, timed in turn with the whole, do not add up to it: the machine was busy with something else for some of the "
    "time, or this was too short; measure again when it is quiet, or longer (--seconds)"
)


@dataclass(frozen=True)
class BenchOptions(TrainOptions):
    """Show what the time of a configuration goes into, and what would help.

    Takes the words of `jaxdreamer train`, or the configuration of the run in --logdir, and trains like that for some
    seconds in a folder that is deleted afterwards. Prefill, compiling, evaluations and checkpoints do not count.
    """

    seconds: float = 20.0
    """How long to measure; twice as long where environments run on the device. A call of updates is not cut short."""
    json: Path | None = None
    """Write the numbers there, too."""


def bench(options: BenchOptions, settings: Mapping[str, Any]) -> int:
    """``jaxdreamer bench``."""
    from jaxdreamer.saving import write_json

    if not 0 < options.seconds <= 86_400:
        raise ConfigError(f"--seconds must be above 0 and at most 86400, found {options.seconds:g}")
    config, _ = settled(options, settings)
    if options.print_config:
        print(configs.to_yaml(config), end="")
        return 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxdreamer.train.api import bench_agent

    idle = [name for name in ("tensorboard", "wandb", "start_over", "drop_damaged_replay") if getattr(options, name)]
    for name in idle:
        print(f"--{name.replace('_', '-')} means nothing to bench", file=sys.stderr)
    suit_memory(config)
    split = bench_agent(config, seeds=options.seeds, seconds=options.seconds)
    print("\n".join(lines(split, options.seeds)))
    if options.json is not None:
        write_json(options.json, to_json(split))
    return 0


def lines(split: Split, seeds: int = 0) -> list[str]:
    """A table of the parts, and the advice."""
    config, (frames, updates) = split.config, split.rates
    processes = f"{config.env.workers} processes of their own" if config.env.workers else "this process"
    where = "the compiled program" if split.loop == "device" else processes
    many = f", {seeds} seeds side by side" if seeds else ""
    found = [
        f"{config.env.task} (env.backend={config.env.backend}) with {config.preset}, {config.model.precision}{many}; "
        f"environments: {split.lanes} in {where}; {split.device}",
        f"measured for {split.wall:.3g} s: {split.entries:,} entries, {split.updates:,} updates; the parts add up to "
        f"{100 * split.covered:.1f} % of the wall time",
    ]
    if not 0.9 < split.updates_held < 1.1:
        due = split.updates / split.updates_held
        found.append(f"these entries lead to {due:,.0f} updates: the shares are those of a run that does them all")
    contents = _CONTENTS | (_ON_DEVICE if split.loop == "device" else {})
    for name, share in split.shares.items():
        each = f"{1000 * split.each(name):10.3f} ms {'an update' if split.per_update(name) else 'a step':9}"
        found.append(f"  {name:12}{100 * share:6.1f} % {each}  {contents[name]}")
    found.append(f"once its prefill is done such a run does {frames:.4g} frames and {updates:.4g} updates a second")
    if split.loop == "device":
        found.append(_APART)
        if abs(split.covered - 1) > 0.05:
            found.append(_BUSY)
    return [*found, f"most goes into {split.largest}: {advice(split, _cores())}"]


def advice(split: Split, cores: int) -> str:
    """What would help with the largest part of all, in one line; on a machine with so many cores."""
    run, env, on_cpu = split.config.run, split.config.env, "(cpu)" in split.device
    pictures = "smaller pictures (env.image_size), " if split.draws else ""
    if split.largest == "environment":
        if split.loop == "device":
            return f"{pictures}{'a GPU, ' if on_cpu else ''}or more environments side by side (env.num_envs)"
        if env.workers < cores - 1:
            more = min(cores, max(2, 2 * env.workers))
            words = f"env.num_envs={max(more, split.lanes)} env.workers={more}"
            return f"{pictures}or processes that step them beside each other and beside updates, as {words} on {cores} cores"
        return f"{pictures}or more cores: its processes share {cores} with learning"
    if split.largest == "update":
        return _faster_updates(split, on_cpu)
    return {
        "policy": f"step more environments side by side (env.num_envs, now {split.lanes}): one decision serves all of them",
        "sample": "smaller batches (replay.batch_size, replay.batch_length)",
        "transfer": f"{pictures}more updates a call (run.updates_per_call, now {run.updates_per_call})",
        "store": f"{pictures}more environments side by side (env.num_envs, now {split.lanes})",
        "log": f"fewer lines of metrics (run.log_every, now {run.log_every})",
        "other": "more environments side by side (env.num_envs) or updates a call (run.updates_per_call)",
    }[split.largest]


def _faster_updates(split: Split, on_cpu: bool) -> str:
    config = split.config
    small = bool({"classic", "small", "tiny"} & set(config.preset.split(",")))
    ways = [
        f"model.precision={split.auto}" * (split.auto != config.model.precision),
        "a GPU" * on_cpu,
        "smaller sizes (in model, or replay.batch_size)" if small else f"--preset {config.preset},small",
    ]
    found = ", ".join(way for way in ways if way)
    return f"{found}, or fewer updates (run.updates={config.run.updates}, run.train_every={config.run.train_every})"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def to_json(split: Split) -> dict[str, Any]:
    """The numbers behind :func:`lines`, seconds and shares by part."""
    frames, updates = split.rates
    return {
        "config": configs.to_dict(split.config),
        "loop": split.loop,
        "device": split.device,
        "cores": _cores(),
        "wall_seconds": split.wall,
        "entries": split.entries,
        "updates": split.updates,
        "seconds": split.seconds,
        "covered": split.covered,
        "shares": split.shares,
        "seconds_each": {name: split.each(name) for name in split.shares},
        "frames_per_second": frames,
        "updates_per_second": updates,
        "largest": split.largest,
        "advice": advice(split, _cores()),
    }
