"""Writing the files of a run: whole or not at all, with one sentence for what the system refuses to do."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import FileUnusable

__all__ = [
    "StorageError",
    "append_to",
    "remove",
    "replacing",
    "storing",
    "sync",
    "sync_folder",
    "write_json",
    "write_text",
]


class StorageError(JaxdreamerError, OSError):
    """A file that cannot be written; the message says why and what to do."""


# The system's error codes: reason and advice.
_REASONS = {
    errno.ENOSPC: ("the disk is full", "make room"),
    errno.EDQUOT: ("the disk quota is used up", "make room"),
    errno.EFBIG: ("the file is larger than is allowed here", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "make it writable or choose another folder"),
    errno.EACCES: ("permission is denied", "change the permissions or choose another folder"),
    errno.EPERM: ("permission is denied", "change the permissions or choose another folder"),
    errno.ENOTDIR: ("there is a file where a folder is needed", "move it away or choose another folder"),
    errno.EEXIST: ("there is a file where a folder is needed", "move it away or choose another folder"),
    errno.EISDIR: ("there is a folder where a file is needed", "move it away or choose another folder"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter one"),
}


@contextlib.contextmanager
def storing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError met inside while ``path`` is written into a StorageError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason, advice = _REASONS.get(error.errno or 0, (error.strerror or str(error), "solve that"))
        raise StorageError(
            f"{os.fspath(path)} cannot be written: {reason}. What was saved before is intact: {advice}, then run the "
            "same command again"
        ) from error


def append_to(path: str | os.PathLike[str]) -> FileIO:
    """Open a regular file for reading and appending; it is created where it is missing. Raises FileUnusable, StorageError.

    A link is refused: in a run that somebody else made it may lead to a file of the user's.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    if os.path.islink(path):
        raise FileUnusable(
            f"{path} is a link, but a run writes only to its own files: replace it with a file, or remove it"
        )
    with storing(path):
        handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileUnusable(f"{path} is not a regular file: remove it, or choose another folder")
    return open(handle, "rb+", buffering=0)  # unbuffered: a failed write must not be retried on close


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file at, which then takes the place of ``path``; nothing of it remains where that fails.

    A reader, or a crash at any moment, sees the old content or the new, never a mixture. Folders are made.
    """
    path = Path(path)
    # Not named after the file: its name may already be as long as the file system allows.
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.tmp{path.suffix[:10]}")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # what a killed process left; or a link, which would be written through
        try:
            yield temporary
            with open(temporary, "r+b") as file:
                sync(file)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the content of a file, see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """:func:`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link (its target stays)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(file: Any) -> None:
    """Put an open file's content on disk."""
    os.fsync(file.fileno())


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Put a folder's entries on disk: a rename survives a power cut only after this."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
