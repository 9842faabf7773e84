"""The folder of one run: where everything lies, and a lock against a second writer."""

from __future__ import annotations

import json
import os
import socket
import time
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
    """The runs of several seeds in a folder, by seed; the folder itself where it holds none."""
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
    """Layout of a run folder: the paths in it, whether or not anything is there.

    From the first checkpoint on there is an empty ``saved``, and a locked ``lock`` while a process writes here.
    Constructing it creates nothing: reading a run needs no write access.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = at_home(path).absolute()
        self.config, self.spec = self.path / "config.json", self.path / "spec.json"
        self.metrics = self.path / "metrics.jsonl"  # one JSON object a line
        self.sessions = self.path / "sessions.jsonl"  # likewise, for every start
        self.checkpoints = self.path / "checkpoints"  # a folder each
        self.best = self.path / "best"  # the train state of the best evaluation, without environments and replay
        self.replay = self.path / "replay"  # chunk files
        self.videos = self.path / "videos"  # pictures and films
        self._folders = (self.checkpoints, self.best, self.replay, self.videos)
        self._lock_file = self.path / "lock"
        self._locked = False

    @property
    def saved(self) -> bool:
        """Whether a checkpoint was ever written here, even if it has been deleted since."""
        return (self.path / "saved").exists()

    def mark_saved(self) -> None:
        """Remember that a checkpoint was written."""
        if not self.saved:
            write_text(self.path / "saved", "")

    def clear(self) -> None:
        """Delete checkpoints, replay, films, sessions and the mark, to start over; the caller holds the lock."""
        for folder in self._folders:
            for path in folder.iterdir():
                remove(path)
        (self.path / "saved").unlink(missing_ok=True)
        self.sessions.unlink(missing_ok=True)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists()

    def check_exists(self) -> None:
        """ConfigError where there is no run; it names one of several seeds' runs inside."""
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
    def writer(self) -> tuple[str, bool] | None:
        """The host of the process that wrote here last without ending properly, and whether it still runs.

        None where it ended, or where none began. Of another host only the time tells: a process there is taken to run where
        it wrote metrics within the last hour.
        """
        holder = _holder(self._lock_file)
        host = holder.get("host")
        if not isinstance(host, str):
            return None
        if host == socket.gethostname():
            return host, _writer_alive(self._lock_file)
        written = [path.stat().st_mtime for path in (self.metrics, self._lock_file) if path.exists()]
        return host, time.time() - max(written, default=0) < 3600

    @property
    def holder(self) -> str:
        """What the lock says of the process that holds it; empty where none does."""
        # A file that this process has locked must not be opened: closing it again would drop the lock.
        return _myself() if self._locked else json.dumps(_holder(self._lock_file))

    @property
    def train_command(self) -> str:
        """The shell command that continues this run."""
        return f"jaxdreamer train --logdir {shell_word(self.path)}"

    def create(self) -> RunDir:
        """Make the folders.

        A link in a folder's place is refused: in a run that somebody else made it may lead to a folder of the user's, where
        files would be written and deleted. The run's whole folder may be a link, which the user made.
        """
        for folder in self._folders:
            if folder.is_symlink():
                raise FileUnusable(
                    f"{folder} is a link, but a run writes only to its own folders: replace the link by the folder it leads "
                    "to, or keep the whole run elsewhere and link that"
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
        path = self._lock_file
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
                os.write(file.fileno(), _myself().encode())
        except BaseException:
            file.close()
            raise
        _held[path.resolve()] = file
        self._locked = True
        return self

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._locked:
            file = _held.pop((self._lock_file).resolve())
            self._locked = False
            # Emptied, not deleted: between a delete and a close two processes could each lock a file of this name.
            with file, storing(self._lock_file):
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


def _myself() -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname()})


def _holder(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, 4096)
    except FileUnusable:
        return {}
    return data if isinstance(data, dict) else {}


def _writer_alive(path: Path) -> bool:
    import psutil

    holder = _holder(path)
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or type(pid) is not int:
        return False
    try:  # a process that began after the lock was written only has the number of the one that wrote it
        return psutil.Process(pid).create_time() <= path.stat().st_mtime
    except (psutil.Error, ValueError, OSError):
        return False
