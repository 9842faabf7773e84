"""What a person is told of a run while it goes on: what is trained, where it is, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxdreamer.record.card import Row
from jaxdreamer.record.pace import Work
from jaxdreamer.train.folder import began_with, describe
from jaxdreamer.train.sharing import described

if TYPE_CHECKING:
    from jaxdreamer.train.loop import Loop


def header(loop: Loop, folders: Sequence[Path]) -> list[Row]:
    """What is trained, on what, and for how long, for :func:`jaxdreamer.record.card.block`."""
    config = loop.config
    seeds = [run.config.seed for run in loop.runs]
    many = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    repeat = f", action_repeat {config.env.action_repeat}" if config.env.action_repeat > 1 else ""
    lanes = f", {config.env.num_envs} side by side" if config.env.num_envs > 1 else ""
    left = work(loop)
    rows = [
        (
            "environment",
            f"{config.env.task} (env.backend={config.env.backend}){lanes}{repeat}" if loop.play else "none",
        ),
        *describe(loop.spec),
        ("agent", f"{config.preset} (algorithm {config.algorithm}), {many}, {parameters(loop):,} parameters"),
        ("device", described(loop.placement) + (f", environments on the {loop.name}" if loop.play else "")),
        ("replay", loop.memory),
        *([("data", loop.data)] if loop.data else []),
        ("budget", f"{config.run.frames:,} frames, {left.updates:,} updates{' from here' if loop.position else ''}"),
    ]
    if config.run.start:
        rows.append(("began with", began_with(config)))
    if loop.position:
        rows.append(("done", f"{loop.counted:,} frames, {loop.updates:,} updates"))
    if loop.finished_at == loop.position:
        rows.append(("left", "nothing: the final evaluation is played again; with a larger run.frames it goes on"))
    elif left.updates:
        slow = "perhaps weeks on a CPU (--preset classic is much smaller); " if _is_slow(loop) else ""
        rows.append(("time", f"{slow}told once some updates have been timed"))
    return [*rows, ("folder", str(folders[0] if len(folders) == 1 else folders[0].parent))]


def _is_slow(loop: Loop) -> bool:
    return bool(loop.progress.advice) and jax.default_backend() == "cpu"


def parameters(loop: Loop) -> int:
    """How many numbers one seed learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(loop.state.params))


def work(loop: Loop) -> Work:
    """What is left of a run."""
    run, position, segments = loop.config.run, loop.position, loop.segments
    end = -(-run.frames // loop.config.env.action_repeat)
    offline = max(0, min(run.offline, end) - position) if segments.started < 0 and not segments.collected else 0
    trainings = -(-offline // run.train_every)
    trainings += max(0, end - max(position, run.offline + segments.prefill)) // run.train_every
    evaluations = 1 + (max(0, end - position - 1) // run.eval_every if run.eval_every else 0)
    waits = segments.started < 0 and run.offline < end
    updates = segments.owed + (run.pretrain if waits else 0) + trainings * run.updates
    return Work(max(0, run.frames - loop.counted), updates, evaluations if loop.play else 0)


def show(loop: Loop, eval_return: float | None = None) -> None:
    """Tell the progress where a run is: frames, updates done and owed, returns as means over its seeds."""
    with loop.clock.timed("log"):
        returns = [run.tally.last_return for run in loop.runs]
        known = [value for value in returns if value is not None]
        prefill = "prefill" if loop.segments.started < 0 else ""
        pretraining = "pretraining, " if loop.updates < loop.config.run.pretrain else ""
        loop.progress.update(
            loop.counted,
            loop.updates,
            left=work(loop),
            note=f"{pretraining}{loop.segments.owed:,} updates due" if loop.in_debt else prefill,
            last_return=float(np.mean(known)) if known else None,
            eval_return=eval_return,
        )
