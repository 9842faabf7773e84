"""Writing the files of a run: whole or not at all, with one sentence for what the system refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import FileUnusable

__all__ = ["StorageError", "append_to", "remove", "storing", "sync_folder", "write_json", "write_text"]


class StorageError(JaxdreamerError, OSError):
    """A file that cannot be written; the message says why and what to do."""


# What the system says, in words, and what can be done about it.
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
    """Open an ordinary file, made where it is missing, for reading and appending. Raises FileUnusable, StorageError.

    A link is refused: a run that was sent by somebody may name a file of the user's by it, which would be written to.
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
    return open(handle, "rb+", buffering=0)  # what could not be written must not be tried again at the end


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a mixture."""
    path = Path(path)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not named after the file: its name may already be as long as the file system allows.
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """:func:`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def remove(path: Path) -> None:
    """Delete a file, a folder with all that is in it, or a link, but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Put a folder's entries on disk: a rename survives a power cut only after this."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    # The only way to read it is to set it. mkstemp makes files private, a run folder is as shared as its user wants.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
