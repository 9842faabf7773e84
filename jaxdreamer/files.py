"""Reading the files of a run, which may be damaged or come from somebody else.

A downloaded run may contain a link to an endless device, a pipe without a writer, or a file larger than memory. So a run's
files are opened only through this module, which reads regular files of a bounded size and raises one sentence for
anything else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import stat
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jaxdreamer.errors import JaxdreamerError, shown

MOST = 2**26
"""Bytes of the largest small file: 64 MiB."""
_DEEPEST = 64
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
MEND = "restore it, or choose another folder"
"""What to do about a damaged file of a run."""


class FileUnusable(JaxdreamerError, ValueError):
    """A file that cannot be read, or has unexpected content; the message names it."""


class FileMissing(FileUnusable):
    """There is no such file."""


def at_home(path: str | os.PathLike[str]) -> Path:
    """The path with a leading ``~/`` expanded; ``~x`` is left alone, as a folder may have that name."""
    path = Path(path)
    if path.parts[:1] != ("~",):
        return path
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FileUnusable(f"{path}: the home folder is unknown: set HOME, or write the whole path") from error


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, in binary, without ever blocking. Raises FileUnusable."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise FileMissing(f"{path} is missing: {MEND}") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileUnusable(f"{path} cannot be read ({reason}): {MEND}") from error
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise FileUnusable(f"{path} is {_KINDS.get(kind, 'something else')}, not a file: {MEND}")
    return os.fdopen(handle, "rb")


def read_bytes(path: str | os.PathLike[str], most: int = MOST) -> bytes:
    """All of a file of at most ``most`` bytes. Raises FileUnusable."""
    with open_file(path) as file:
        try:
            data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
        except OSError as error:
            raise FileUnusable(f"{path} cannot be read ({error.strerror}): {MEND}") from error
    if len(data) > most:
        raise FileUnusable(f"{path} has more than {most:,} bytes, more than such a file may have: {MEND}")
    return data


def read_whole(path: str | os.PathLike[str], size: int, crc32: int) -> bytes:
    """All of a file whose size and checksum are known. Raises FileUnusable."""
    data = read_bytes(path, size)
    check_whole(path, (size, crc32), (len(data), zlib.crc32(data)))
    return data


def crc32_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Size and CRC-32 of a file of any size. Raises FileUnusable."""
    size, crc = 0, 0
    with open_file(path) as file:
        try:
            while block := file.read(2**22):
                size, crc = size + len(block), zlib.crc32(block, crc)
        except OSError as error:
            raise FileUnusable(f"{path} cannot be read ({error.strerror}): {MEND}") from error
    return size, crc


def check_whole(path: str | os.PathLike[str], wanted: tuple[int, int], found: tuple[int, int]) -> None:
    """FileUnusable where size and CRC-32 found are not those that the file was written with."""
    if found[0] != wanted[0]:
        raise FileUnusable(f"{path} has {found[0]} bytes instead of {wanted[0]}")
    if found != wanted:
        raise FileUnusable(f"{path} was altered: its checksum is wrong")


def read_text(path: str | os.PathLike[str], most: int = MOST) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises FileUnusable."""
    return _decoded(path, read_bytes(path, most))


def read_json(path: str | os.PathLike[str], most: int = MOST) -> Any:
    """The plain values in a JSON file, see :func:`parse_json`. Raises FileUnusable."""
    return parse_json(path, read_bytes(path, most))


def parse_json(path: str | os.PathLike[str], data: bytes) -> Any:
    """The plain values in the JSON file that holds ``data``: no name twice in one object, nested at most 64 deep."""
    text = _decoded(path, data)
    try:
        values = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise FileUnusable(f"{path} is nested too deeply: {MEND}") from None
    except ValueError as error:
        raise FileUnusable(f"{path} is not valid JSON ({error}): {MEND}") from error
    if problem := _problem(values):
        raise FileUnusable(f"{path} {problem}: {MEND}")
    return values


def _decoded(path: str | os.PathLike[str], data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileUnusable(f"{path} is not UTF-8 text (byte {error.start} is {error.reason}): {MEND}") from error


def natural(value: Any) -> bool:
    """The form of counts, sizes and steps: an integer from 0 to 2^63 - 1."""
    return type(value) is int and 0 <= value < 2**63


def number(value: Any) -> bool:
    """The form of a float, or an integer that fits 64 bits."""
    return type(value) is float or (type(value) is int and -(2**63) <= value < 2**63)


def whole(least: int, most: int = 2**31 - 1) -> Callable[[Any], bool]:
    """The form of an integer between these limits, both included."""
    return lambda value: type(value) is int and least <= value <= most


def one_of(*known: str) -> Callable[[Any], bool]:
    """The form of one of these texts."""
    return lambda value: isinstance(value, str) and value in known


def optional(form: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The form of a value that may be None."""
    return lambda value: value is None or form(value)


def list_of(form: Callable[[Any], bool], length: int) -> Callable[[Any], bool]:
    """The form of a list of ``length`` values."""
    return lambda value: isinstance(value, list) and len(value) == length and all(map(form, value))


def _unusable(problem: str) -> FileUnusable:
    return FileUnusable(f"{problem}: {MEND}")


def require(value: Any, form: Any, name: Any, error: Callable[[str], Exception] = _unusable) -> None:
    """Raise an error that names the place where a JSON value does not have the form it should.

    A form is a type (``Any`` for every value), a predicate, ``[form]`` for a list of such values, or a dictionary of
    forms by key. Its keys must be present; other keys are allowed, and have the form under ``...`` if there is one.
    ``error`` makes the exception from the problem; by default it is FileUnusable, which also says what to do.
    """
    if form is Any:
        return
    if isinstance(form, list):
        require(value, list, name, error)
        for index, item in enumerate(value):
            require(item, form[0], f"{name}[{index}]", error)
    elif isinstance(form, Mapping):
        require(value, dict, name, error)
        if ... in form:
            form = dict.fromkeys(value, form[...]) | {key: inner for key, inner in form.items() if key is not ...}
        for key, inner in form.items():
            if key not in value:
                raise error(f"{name} has no {key!r}")
            require(value[key], inner, f"{name}[{key!r}]", error)
    elif not (isinstance(value, form) if isinstance(form, type) else form(value)):
        raise error(f"{name} cannot be {shown(value)}")


def safe_name(text: str) -> str:
    """``text`` as a part of a file's name: letters, digits, ``_``, ``.``, ``-``; at most 100 bytes, no dot at the front."""
    return re.sub(r"[^\w.-]", "-", text).encode()[:100].decode(errors="ignore").lstrip(".") or "-"


def unique_name(text: str) -> str:
    """:func:`safe_name`, different for every text, also on file systems that ignore case."""
    name = safe_name(text).lower()
    if name == text and not re.search("-[0-9a-f]{12}$", text):
        return name
    return f"{name}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]}"


def shell_word(path: str | os.PathLike[str]) -> str:
    """A path quoted for a shell, printable whatever bytes its name has."""
    text = os.fspath(path)
    if text.isprintable():
        return shlex.quote(text)
    # Bytes that are not text, and control characters, are written as escapes.
    parts = (c if c.isprintable() and c not in "'\\" else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in text)
    return f"$'{''.join(parts)}'"


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"it has {shown(key)} twice")
        data[key] = value
    return data


def _problem(data: Any) -> str:
    """What JSON allows and later users could not handle: nesting that is too deep, and lone surrogates."""
    level: list[Any] = [data]
    for _ in range(_DEEPEST):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                deeper += [*value, *value.values()]
            elif isinstance(value, list):
                deeper += value
            elif isinstance(value, str) and not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    return f"contains an incomplete character in {shown(value.encode(errors='replace').decode())}"
        if not deeper:
            return ""
        level = deeper
    return "is nested too deeply"
