"""The folder of one run: where everything lies, and a lock against a second writer."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from jaxdreamer.errors import ConfigError, JaxdreamerError
from jaxdreamer.files import FileUnusable, at_home, read_json, shell_word
from jaxdreamer.saving import append_to, remove, storing, write_text

try:
    import fcntl
except ImportError:  # Windows: the lock falls back on process ids
    fcntl = None  # type: ignore[assignment]

__all__ = ["RunDir", "RunLocked", "runs_of"]


class RunLocked(JaxdreamerError, RuntimeError):
    """Another process is writing to this run folder."""


def runs_of(path: str | os.PathLike[str]) -> list[Path]:
    """The runs in a folder that training several seeds made, by seed; else the folder itself, whatever is in it."""
    folder = RunDir(path).path
    seeds = [item for item in folder.glob("seed-*") if item.name[5:].isdecimal() and RunDir(item).exists]
    if RunDir(folder).exists or not seeds:
        return [folder]
    return sorted(seeds, key=lambda item: int(item.name[5:]))


# POSIX locks (unlike flock's) are not inherited by forked environment workers, which may outlive a killed run. But they
# belong to the process: a second lock by the same process would succeed, and closing any handle of the file would drop
# the lock; so this process remembers, and never opens a lock file it holds. Remembered here, an open file also outlives
# a RunDir that nobody keeps.
_held: dict[Path, Any] = {}


class RunDir:
    """Layout of a run folder.

    ``config.json``, ``spec.json``, ``metrics.jsonl``, ``checkpoints/``, ``best/``, ``replay/``, ``videos/``, from the first
    checkpoint on an empty ``saved`` and, while a process writes here, a locked ``lock``. Constructing it creates nothing:
    reading a run needs no write access.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = at_home(path).absolute()
        self._locked = False

    @property
    def config(self) -> Path:
        """The run's configuration."""
        return self.path / "config.json"

    @property
    def spec(self) -> Path:
        """The environment's spec."""
        return self.path / "spec.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The train state of the best evaluation, as a checkpoint without environments and replay."""
        return self.path / "best"

    @property
    def replay(self) -> Path:
        """Chunk files."""
        return self.path / "replay"

    @property
    def videos(self) -> Path:
        """Pictures and films."""
        return self.path / "videos"

    @property
    def saved(self) -> bool:
        """Whether a checkpoint was ever written here: one that is gone was not just never made."""
        return (self.path / "saved").exists()

    def mark_saved(self) -> None:
        """Remember that a checkpoint was written."""
        if not self.saved:
            write_text(self.path / "saved", "")

    def clear(self) -> None:
        """Delete checkpoints, replay, films and the mark of a run that is begun anew; the caller holds the lock."""
        for folder in (self.checkpoints, self.best, self.replay, self.videos):
            for path in folder.iterdir():
                remove(path)
        (self.path / "saved").unlink(missing_ok=True)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists()

    def check_exists(self) -> None:
        """ConfigError where no run was begun here; it names the runs of several seeds where there are some."""
        if self.exists:
            return
        inside = runs_of(self.path)
        hint = f"; give one of the runs in it, such as {inside[0]}" if inside != [self.path] else ""
        if self.path.is_dir():
            why = f"it has no {self.config.name}"
        else:
            why = "it is a file, give the folder" if self.path.is_file() else "there is no such folder"
        raise ConfigError(f"{self.path} holds no run: {why}{hint}")

    @property
    def train_command(self) -> str:
        """What goes on with this run, ready for a shell."""
        return f"jaxdreamer train --logdir {shell_word(self.path)}"

    def create(self) -> RunDir:
        """Make the folders.

        A link in a folder's place is refused: a run that was sent by somebody may name a folder of the user's by it, where
        files would be written and old ones deleted. The run's whole folder may be a link, which the user made.
        """
        for folder in (self.checkpoints, self.best, self.replay, self.videos):
            if folder.is_symlink():
                raise FileUnusable(
                    f"{folder} is a link, and a run writes to folders of its own only: put what it leads to in its place, "
                    "or have the run's whole folder elsewhere and link that"
                )
            with storing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        return self

    def acquire(self) -> RunDir:
        """Make the folders and lock the run for this process.

        The operating system drops the lock when the process ends, however it ends, so a killed run can be resumed at
        once and no stale lock is left to delete.

        Raises:
            RunLocked: another process (its pid is named), or this one, holds the lock.
            FileUnusable: something in the folder is a link.
            StorageError: nothing can be written here.
        """
        self.create()
        path = self.path / "lock"
        if path.resolve() in _held:
            raise RunLocked(f"{self.path} is already being written by this process (pid {os.getpid()})")
        if fcntl is None and _writer_alive(path):
            raise RunLocked(self._busy(path))
        file = append_to(path)  # open means locked
        try:
            with storing(path):
                if fcntl is not None:
                    self._lock(file, path)
                file.truncate(0)
                os.write(file.fileno(), json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except BaseException:
            file.close()
            raise
        _held[path.resolve()] = file
        self._locked = True
        return self

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._locked:
            file = _held.pop((self.path / "lock").resolve())
            self._locked = False
            # Emptied, not deleted: between a delete and a close two processes could each lock a file of this name.
            with file, storing(self.path / "lock"):
                file.truncate(0)

    def __enter__(self) -> RunDir:
        """Lock for the length of a with statement."""
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        """Give the lock back."""
        self.release()

    def _lock(self, file: Any, path: Path) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise RunLocked(self._busy(path)) from error

    def _busy(self, path: Path) -> str:
        holder = _holder(path)
        return (
            f"{self.path} is being written by another process: pid {holder.get('pid', 'unknown')} on "
            f"{holder.get('host', 'an unknown machine')}; wait for it, stop it, or choose another folder"
        )


def _holder(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, 4096)
    except FileUnusable:
        return {}
    return data if isinstance(data, dict) else {}


def _writer_alive(path: Path) -> bool:
    import psutil

    holder = _holder(path)
    return holder.get("host") == socket.gethostname() and psutil.pid_exists(int(holder.get("pid", -1)))
