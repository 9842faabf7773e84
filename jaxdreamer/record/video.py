"""Pictures and films. GIF and PNG need nothing but Pillow; MP4 needs the extra ``video``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np

from jaxdreamer.config import MissingExtra
from jaxdreamer.errors import import_extra
from jaxdreamer.files import at_home
from jaxdreamer.saving import StorageError, replacing

__all__ = ["open_loop_image", "open_loop_video", "save_image", "save_video"]


def save_video(path: str | os.PathLike[str], frames: np.ndarray, fps: float = 20) -> Path:
    """Write a film; the file's suffix chooses ``.gif`` or ``.mp4``.

    Args:
        path: where to; folders are made.
        frames: uint8 [T, H, W, 3], or [T, H, W, 1] for gray. Of stacked frames, side by side as channels, the last is shown.
        fps: frames per second. A GIF counts in hundredths of a second, so its rate is the nearest it can have.

    Raises:
        MissingExtra: MP4 without the extra ``video``. ValueError: another suffix, shape or dtype.

    Pillow stores a run of equal GIF frames as one longer frame; it plays the same.
    """
    path = at_home(path)
    frames = _checked(frames, 4, "frames [T, H, W, 3]")
    if not len(frames):
        raise ValueError(f"{path}: no frames to save")
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"{path}: films are .gif or .mp4, found {path.suffix!r}")
    with replacing(path) as temporary:
        if path.suffix == ".gif":
            from PIL import Image

            images = [Image.fromarray(frame) for frame in frames]
            duration = max(20, 10 * round(100 / fps))  # viewers slow down GIFs that ask for less than 20 ms
            images[0].save(temporary, save_all=True, append_images=images[1:], duration=duration, loop=0)
        else:
            _write_mp4(temporary, frames, fps)
    return path


def _write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """H.264 through the ffmpeg program that imageio-ffmpeg brings or finds.

    Not through imageio's writer: that one forks this process to start ffmpeg (a preexec_fn), which can deadlock once
    jax has threads. Without one, Python starts programs by vfork.
    """
    package = import_extra("imageio_ffmpeg", "video", "an MP4 film (a GIF needs no extra)")
    # The format wants even sizes.
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps}", "-i", "-"]
    try:
        program = package.get_ffmpeg_exe()
        command = [program, "-y", "-v", "error", *source, "-c:v", "libx264", "-pix_fmt", "yuv420p", f"file:{path}"]
        # In its own process group: Ctrl-C stops the training loop, which then finishes its last film.
        group = None if os.name == "nt" else 0
        done = subprocess.run(command, input=frames.tobytes(), capture_output=True, process_group=group)
    except (RuntimeError, OSError) as error:  # no ffmpeg program
        raise MissingExtra("jaxdreamer[video]", f"an MP4 film needs ffmpeg ({error})") from error
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise StorageError(f"{program} could not write {path} ({message}); a .gif needs no ffmpeg")


def save_image(path: str | os.PathLike[str], image: np.ndarray) -> Path:
    """Write uint8 [H, W, 3], [H, W, 1] for gray, or the last of frames stacked as channels, as PNG."""
    from PIL import Image

    path = Path(path)
    picture = Image.fromarray(_checked(image, 3, "an image [H, W, 3]"))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def open_loop_image(truth: np.ndarray, reconstruction: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Truth, reconstruction and open-loop prediction in one picture, time from left to right.

    Args:
        truth: [T, H, W, C], uint8, or float in [0, 1] (as all three). Of frames stacked as channels the last is shown.
        reconstruction: [context, H, W, C], the model's picture of the frames that it was shown.
        prediction: [T - context, H, W, C], its prediction of the rest, from the actions alone.

    Returns:
        uint8 [3 H + 2, T W + 2, 3]: rows truth, model, error (0.5: none); a white line where the context ends.
    """
    rows, context = _open_loop_rows(truth, reconstruction, prediction)
    strips = []
    for row in rows:
        line = np.full((row.shape[1], 2, 3), 255, np.uint8)
        strips.append(np.concatenate([*row[:context], line, *row[context:]], axis=1))
    gap = np.zeros((1, strips[0].shape[1], 3), np.uint8)
    return np.concatenate([strips[0], gap, strips[1], gap, strips[2]], axis=0)


def open_loop_video(truth: np.ndarray, reconstruction: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The same as a film, uint8 [T, 3 H + 2, W, 3]: truth above, model, error.

    The two lines between them are green while the model is shown the truth, and red when it dreams.
    """
    rows, context = _open_loop_rows(truth, reconstruction, prediction)
    steps, _, width, _ = rows[0].shape
    line = np.zeros((steps, 1, width, 3), np.uint8)
    line[:context, ..., 1] = 255
    line[context:, ..., 0] = 255
    return np.concatenate([rows[0], line, rows[1], line, rows[2]], axis=1)


def _open_loop_rows(
    truth: np.ndarray, reconstruction: np.ndarray, prediction: np.ndarray
) -> tuple[list[np.ndarray], int]:
    parts = [_as_bytes(part) for part in (truth, reconstruction, prediction)]
    real, context = parts[0], len(parts[1])
    model = np.concatenate(parts[1:])
    if real.shape != model.shape:
        raise ValueError(
            f"truth has shape {real.shape}, reconstruction and prediction together {model.shape}; they must be equal"
        )
    error = ((model.astype(np.int16) - real + 255) // 2).astype(np.uint8)
    return [real, model, error], context


def _as_bytes(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype.kind == "f":
        images = np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    return _checked(images, 4, "images [T, H, W, C]")


def _checked(array: np.ndarray, ndim: int, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim != ndim or not array.shape[-1]:
        raise ValueError(f"expected {name} of dtype uint8, found {array.dtype} {array.shape}")
    if array.shape[-1] % 3:  # gray, or frames of one channel each
        return np.repeat(array[..., -1:], 3, axis=-1)
    return array[..., -3:]
