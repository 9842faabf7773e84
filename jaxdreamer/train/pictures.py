"""What an evaluation leaves to look at: its film, and pictures of what the model predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdreamer.record import video
from jaxdreamer.train.evaluate import Evaluation
from jaxdreamer.train.telemetry import save_open_loop, spared

if TYPE_CHECKING:
    from jaxdreamer.train.loop import Loop


def draw(loop: Loop, index: int, evaluation: Evaluation, predictions: bool) -> None:
    """Save one seed's film, and pictures of what the model predicts where it has learned from images.

    Of several processes all compute the predictions, and one writes.
    """
    run, at, writes = loop.runs[index], loop.moment(index), loop.placement.is_writer
    if evaluation.frames is not None and writes:
        with spared():
            path = run.rundir.videos / f"policy-{at.env_frames:012d}.gif"
            video.save_video(path, evaluation.frames, evaluation.frame_rate)
            run.metrics.film("eval/film", path, env_frames=at.env_frames)
    predictable = loop.config.run.video and loop.config.replay.batch_length > loop.context
    if predictions and predictable and loop.sees_images and at.updates:
        counters = {"agent_steps": at.agent_steps, "env_frames": at.env_frames, "updates": at.updates}
        found = loop.open_loop(index)
        if writes:
            save_open_loop(found, loop.spec, run.rundir, run.metrics, context=loop.context, counters=counters)
