"""Messages between a trainer and a process in another interpreter, over that process's standard streams.

Both ways: an unsigned 32-bit length, that many bytes of JSON, then the arrays that the JSON lists under ``arrays`` as
[name, dtype, shape], in C order. Nothing is ever unpickled. The other interpreter imports this file from its folder: it may
be as old as Python 3.8 and lack jaxdreamer, so only the standard library is imported here, and numpy where an array comes.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

DTYPES = {"bool", "float16", "float32", "float64", *(f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64))}
MAX_HEADER, MAX_ARRAY = 2**24, 2**31
CLOSING_SECONDS = 5.0


class Damaged(RuntimeError):
    """A message that is not what the other side sends."""


class Failure(Exception):
    """An error for the trainer. ``reason`` is a word by which the two sides know what to make of it."""

    def __init__(self, reason: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason, self.exit_code = reason, exit_code


def send(stream: BinaryIO, header: dict[str, Any], arrays: dict[str, Any] | None = None) -> None:
    """Write one message, at once."""
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in (arrays or {}).items()]
    data = json.dumps({**header, "arrays": listed}).encode()
    parts = [array.tobytes() for array in (arrays or {}).values()]
    stream.write(b"".join([struct.pack(">I", len(data)), data, *parts]))
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read one message: its JSON and its arrays; EOFError where the other side is gone, Damaged for nonsense."""
    (length,) = struct.unpack(">I", _read(stream, 4))
    if length > MAX_HEADER:
        raise Damaged(f"expected a header of at most {MAX_HEADER} bytes, found {length}")
    header = json.loads(_read(stream, length))
    arrays = {}
    for name, dtype, shape in header.pop("arrays"):
        if dtype not in DTYPES or any(n < 0 for n in shape) or math.prod(shape) > MAX_ARRAY:
            raise Damaged(f"array {name}: {dtype} {shape} is none that is ever sent")
        arrays[name] = _read_array(stream, dtype, shape)
    return header, arrays


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the other side has closed the connection")
    return data


def _read_array(stream: BinaryIO, dtype: str, shape: list[int]) -> Any:
    import numpy as np

    array = np.empty(shape, dtype)  # the reader's to change, unlike one over the bytes that were read
    if stream.readinto(array.reshape(-1).view(np.uint8)) < array.nbytes:  # type: ignore[attr-defined]
        raise EOFError("the other side has closed the connection")
    return array


def pack(value: Any, arrays: dict[str, Any]) -> Any:
    """What an environment takes or returns, as JSON that refers to ``arrays``, which it is added to.

    What is neither a number, a text, an array nor made of these is sent as its text.
    """
    import numpy as np

    if value is None or type(value) in (bool, int, float, str):
        return value
    if hasattr(value, "_asdict"):  # a named tuple
        value = value._asdict()
    if isinstance(value, Mapping):
        names = [name if isinstance(name, (str, int)) else str(name) for name in value]
        return {"dict": [[name, pack(item, arrays)] for name, item in zip(names, value.values())]}
    if isinstance(value, tuple) or (isinstance(value, list) and any(isinstance(item, _NESTED) for item in value)):
        return {"tuple": [pack(item, arrays) for item in value]}
    array = np.asarray(value)
    if array.dtype.name not in DTYPES:
        return str(value)
    name = str(len(arrays))
    arrays[name] = array if array.dtype.isnative else array.astype(array.dtype.name)
    return {"array": name}


def unpack(packed: Any, arrays: dict[str, Any]) -> Any:
    """What :func:`pack` packed; an array without axes comes back as numpy's scalar."""
    if not isinstance(packed, dict):
        return packed
    if "array" in packed:
        return arrays[packed["array"]][()]
    if "tuple" in packed:
        return tuple(unpack(item, arrays) for item in packed["tuple"])
    return {name: unpack(item, arrays) for name, item in packed["dict"]}


_NESTED = (dict, list, tuple)


def kill_group(pid: int) -> None:
    """End a process that leads a session, with its children."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return  # gone already
