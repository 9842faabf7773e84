"""What a process in another interpreter runs: it obeys the trainer's commands, by a module that the trainer names.

    python worker.py FOLDER/MODULE.py

The interpreter may be as old as Python 3.8 and lack jaxdreamer: this file imports the standard library and its neighbour
``wire``. Messages are those of ``wire``, one reply to each command; an error does not end the process.

    to the worker    {"command", ...}; where its standard input ends, it closes and leaves
    to the trainer   {"kind": "hello", "python"} at once, {"kind": "done", ...},
                     {"kind": "error", "reason", "message", "exit_code"}

The module has a class ``Served``: ``obey(header, arrays)`` returns the reply's header and arrays, or raises
``wire.Failure``; ``close()`` and, where that takes too long, ``kill()`` in another thread end what it holds. Reasons of our
own are missing (the module cannot be imported, the message says why) and raised (any other exception, the message is its
traceback).
"""

from __future__ import annotations

import importlib
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO

from wire import CLOSING_SECONDS, Failure, kill_group, receive, send


class Asked(SystemExit):
    """The process was asked to end. A plain SystemExit is that of the code which runs in it."""


def main() -> None:
    """Serve one trainer until it closes, or is gone."""
    # The streams are the protocol's; what is printed here and by children goes to the log.
    commands, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    send(replies, {"kind": "hello", "python": platform.python_version()})

    def stop(number: int, frame: Any) -> None:
        raise Asked(1)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to hear
    try:
        served = _load(sys.argv[1])
    except ImportError as error:
        _tell(replies, Failure("missing", f"{sys.executable} cannot import {error.name}: {error}"))
        return
    received: Any = queue.Queue()
    threading.Thread(target=_listen, args=(commands, received, served), daemon=True).start()
    try:
        while True:
            message = received.get()
            if message is None:
                return
            try:
                header, arrays = served.obey(*message)
            except Asked:
                raise
            except Failure as error:
                _tell(replies, error)
            except (Exception, SystemExit):
                _tell(replies, Failure("raised", traceback.format_exc()))
            else:
                send(replies, {"kind": "done", **header}, arrays)
    except BrokenPipeError:
        return  # the trainer is gone
    finally:
        served.close()


def _load(path: str) -> Any:
    """``Served`` of the file. From then on its neighbours and ours hide no other modules."""
    folder, name = os.path.split(os.path.splitext(os.path.abspath(path))[0])
    ours = (folder, os.path.dirname(os.path.abspath(__file__)))
    before = [entry for entry in sys.path if os.path.abspath(entry or ".") not in ours]
    sys.path[:0] = ours
    module = importlib.import_module(name)
    sys.path[:] = before
    return module.Served()


def _listen(commands: BinaryIO, received: Any, served: Any) -> None:
    try:
        while True:
            received.put(receive(commands))
    except Exception:  # the trainer is gone, or talks nonsense: either way there is nobody left to serve
        received.put(None)
    # What is under way may take as long as it likes; nobody waits for it any more.
    time.sleep(CLOSING_SECONDS)
    served.kill()
    kill_group(os.getpid())
    os._exit(1)


def _tell(replies: BinaryIO, error: Failure) -> None:
    send(replies, {"kind": "error", "reason": error.reason, "message": str(error), "exit_code": error.exit_code})


if __name__ == "__main__":
    main()
