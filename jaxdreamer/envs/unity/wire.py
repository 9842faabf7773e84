"""Messages between a trainer and a process in another interpreter, over that process's standard streams.

Both ways: an unsigned 32-bit length, that many bytes of JSON, then the arrays that the JSON lists under ``arrays`` as
[name, dtype, shape], in C order. Nothing is ever unpickled. The other interpreter imports this file from its folder: it may
be as old as Python 3.8 and lack jaxdreamer, so only the standard library and numpy are imported here.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
from typing import Any, BinaryIO

import numpy as np

DTYPES = ("float32", "int32", "int64", "uint8", "bool")
MAX_HEADER, MAX_ARRAY = 2**24, 2**31
CLOSING_SECONDS = 5.0


class Damaged(RuntimeError):
    """A message that is not what the other side sends."""


def send(stream: BinaryIO, header: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
    """Write one message."""
    packed = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in packed.items()]
    data = json.dumps({**header, "arrays": listed}).encode()
    stream.write(struct.pack(">I", len(data)) + data)
    for array in packed.values():
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read one message: its JSON and its arrays; EOFError where the other side is gone, Damaged for nonsense."""
    (length,) = struct.unpack(">I", _read(stream, 4))
    if length > MAX_HEADER:
        raise Damaged(f"expected a header of at most {MAX_HEADER} bytes, found {length}")
    header = json.loads(_read(stream, length))
    arrays = {}
    for name, dtype, shape in header.pop("arrays"):
        size = math.prod(shape)
        if dtype not in DTYPES or any(n < 0 for n in shape) or size > MAX_ARRAY:
            raise Damaged(f"array {name}: {dtype} {shape} is none that is ever sent")
        kind = np.dtype(dtype)
        arrays[name] = np.frombuffer(_read(stream, size * kind.itemsize), kind).reshape(shape)
    return header, arrays


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the other side has closed the connection")
    return data


def kill_group(pid: int) -> None:
    """End a player and its children: the library starts it as the leader of a session."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return  # gone already
