"""What a person is told of a run while it goes on: what is trained, where it is, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxdreamer.record.pace import Work
from jaxdreamer.train.sharing import described

if TYPE_CHECKING:
    from jaxdreamer.train.loop import Loop


def header(loop: Loop, where: str) -> list[str]:
    """What is trained, on what, and for how long; ``where`` it is written."""
    config = loop.config
    size = sum(leaf.size for leaf in jax.tree.leaves(loop.state.params))
    done = f"; {loop.counted:,} frames are already done" if loop.position else ""
    return [
        f"training {config.env.task} (env.backend={config.env.backend}) with {config.preset}, seed {config.seed}, on "
        f"{described(loop.placement)}, written to {where}",
        f"{size:,} parameters; budget {config.run.frames:,} frames = {work(loop).updates:,} updates{done}",
    ]


def work(loop: Loop) -> Work:
    """What is left of a run."""
    run, position, segments = loop.config.run, loop.position, loop.segments
    end = -(-run.frames // loop.config.env.action_repeat)
    trainings = max(0, end - max(position, segments.prefill)) // run.train_every
    evaluations = 1 + (max(0, end - position - 1) // run.eval_every if run.eval_every else 0)
    updates = segments.owed + (0 if segments.started >= 0 else run.pretrain) + trainings * run.updates
    return Work(max(0, run.frames - loop.counted), updates, evaluations)


def show(loop: Loop, eval_return: float | None = None) -> None:
    """Tell the progress where a run is: frames, updates done and owed, returns as means over its seeds."""
    returns = [run.tally.last_return for run in loop.runs]
    known = [value for value in returns if value is not None]
    pretraining = "pretraining, " if loop.updates < loop.config.run.pretrain else ""
    loop.progress.update(
        loop.counted,
        loop.updates,
        left=work(loop),
        note=f"{pretraining}{loop.segments.owed:,} updates due" if loop.in_debt else "",
        last_return=float(np.mean(known)) if known else None,
        eval_return=eval_return,
    )
