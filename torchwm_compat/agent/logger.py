"""torchwm's logger: metric names, files and videos as its readers expect them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdreamer import ConfigError, make_sinks, save_video
from torchwm_compat.arrays import is_tensor, to_numpy

_log = logging.getLogger("torchwm_compat")


class Logger:
    """Writes ``metrics.jsonl``, ``scalar_data.pkl`` and videos into a run's folder, and to TensorBoard or W&B on request.

    ``scalar_data.pkl`` is torchwm's stream of pickled dictionaries, for programs that read it; nothing here does.
    """

    def __init__(
        self,
        log_dir: Any,
        enable_wandb: bool = False,
        wandb_project: str = "torchwm",
        wandb_entity: str = "",
        video_format: str = "gif",
        video_fps: int = 20,
        enable_tensorboard: bool = False,
        enable_console: bool = True,
        enable_jsonl: bool = True,
        jsonl_filename: str = "metrics.jsonl",
    ) -> None:
        """MissingExtra where TensorBoard or W&B are wanted and not installed."""
        if Path(jsonl_filename).name != jsonl_filename:
            raise ConfigError(f"jsonl_filename is a file's name in the run's folder, found {jsonl_filename!r}")
        if video_format.lower() not in ("gif", "mp4"):
            raise ConfigError(f"video_format is gif or mp4, found {video_format!r}")
        self._folder = Path(log_dir)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.video_format, self.video_fps = video_format, video_fps
        self._console = enable_console
        self._jsonl = self._folder / jsonl_filename if enable_jsonl else None
        names = [name for name, wanted in (("tensorboard", enable_tensorboard), ("wandb", enable_wandb)) if wanted]
        if enable_wandb:
            os.environ.setdefault("WANDB_PROJECT", wandb_project)
            if wandb_entity:
                os.environ.setdefault("WANDB_ENTITY", wandb_entity)
        self._sinks = make_sinks(names, self._folder)

    def log_scalar(self, scalar: Any, name: str, step_: int) -> None:
        """One metric."""
        self.log_scalars({name: scalar}, step_)

    def log_scalars(self, scalar_dict: Mapping[str, Any], step: int) -> None:
        """Metrics at an environment frame, to every destination."""
        plain = {key: plain_number(value) for key, value in scalar_dict.items()}
        if self._console and plain:
            _log.info("step=%s %s", step, ", ".join(f"{key}={value}" for key, value in plain.items()))
        if self._jsonl is not None:
            line = json.dumps({"time": time.time(), "step": int(step), **plain}, sort_keys=True)
            with self._jsonl.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        for sink in self._sinks:
            sink.write(plain, int(step))
        self.dump_scalars_to_pickle(plain, step)

    def dump_scalars_to_pickle(self, metrics: Mapping[str, Any], step: int, log_title: str | None = None) -> None:
        """Append a dictionary to ``scalar_data.pkl``, or to the file of another title."""
        with (self._folder / (log_title or "scalar_data.pkl")).open("ab") as file:
            pickle.dump({"step": step, **{key: plain_number(value) for key, value in metrics.items()}}, file)

    def log_videos(
        self, videos: Any, step: int, max_videos_to_save: int = 1, fps: float | None = None, video_title: str = "video"
    ) -> None:
        """Save the first videos [T, H, W, C], uint8, as ``TITLE + STEP_INDEX``."""
        for index, video in enumerate(list(videos)[: int(max_videos_to_save)]):
            frames = to_numpy(video)
            if len(frames):
                path = self._folder / f"{video_title}{step}_{index}.{self.video_format.lower()}"
                save_video(path, np.asarray(frames, np.uint8), fps or self.video_fps)

    log_video = log_videos

    def rewind(self, step: int) -> None:
        """Drop lines after ``step``: a run that was killed repeats what came after its last checkpoint."""
        lines = self._lines()
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if self._jsonl is not None and kept != lines:
            self._jsonl.write_text("".join(kept), encoding="utf-8")

    def last(self, name: str) -> Any:
        """The newest value of a metric in the JSON lines, or None."""
        records = map(json.loads, reversed(self._lines()))
        return next((record[name] for record in records if name in record), None)

    def _lines(self) -> list[str]:
        if self._jsonl is None or not self._jsonl.is_file():
            return []
        return self._jsonl.read_text(encoding="utf-8").splitlines(keepends=True)

    def flush(self) -> None:
        """Everything is on disk already."""

    def close(self) -> None:
        """End TensorBoard and W&B."""
        for sink in self._sinks:
            sink.close()
        self._sinks = []


def plain_number(value: Any) -> Any:
    """A value as JSON has it; None for a number that is not finite."""
    if is_tensor(value) or hasattr(value, "item"):
        value = to_numpy(value).item() if np.size(to_numpy(value)) == 1 else to_numpy(value).tolist()
    return None if isinstance(value, float) and not np.isfinite(value) else value
