"""What a terminal of a size shows of a run, through a pseudo-terminal: percent, return, and a time left that is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty")  # not on Windows

# A run of 40 steps of 50 ms, an update at each, which tells what it shows at three quarters of its way.
RUN = """
import time
from jaxdreamer.record.card import block
from jaxdreamer.record.pace import Work
from jaxdreamer.record.progress import Progress
with Progress(1_000_000) as progress:
    progress.log(chr(10).join(block("training", [("environment", "Pendulum-v1"), ("folder", "runs/a")])))
    began = time.monotonic()
    for step in range(1, 41):
        time.sleep(0.05)
        progress.update(25_000 * step, step, left=Work(1_000_000 - 25_000 * step, 40 - step, 0), last_return=-123.4)
        if step == 30:
            progress._bar and progress._bar.refresh()
            now = time.monotonic() - began
    progress.log(f"took {now:.2f} then {time.monotonic() - began - now:.2f} more")
"""


def seen(columns: int, lines: int) -> str:
    """Everything that the run writes to a terminal of this size, without the codes that colour it."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    run = subprocess.Popen([sys.executable, "-c", RUN], stderr=theirs, stdout=theirs, env=env | {"TERM": "xterm"})
    os.close(theirs)
    data = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # its last writer is gone
            break
        data += block
        if not block:
            break
    os.close(ours)
    assert run.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode())


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 50)])
def test_percent_return_and_a_true_time_left(columns, lines):
    text = seen(columns, lines)
    rows = [row for row in re.split(r"[\r\n]+", text) if "%" in row]
    assert rows and max(map(len, rows)) <= columns
    at = [row for row in rows if row.startswith("75.0%")]
    assert at and all("return -123.4" in row for row in at)
    left = re.search(r"(\d+):(\d\d):(\d\d) left", at[0])
    took, more = map(float, re.search(r"took (\S+) then (\S+) more", text).groups())
    assert more > 0.4
    assert abs(int(left[1]) * 3600 + int(left[2]) * 60 + int(left[3]) - more) <= 0.5 + 0.5 * more, (left[0], took, more)
    assert re.search(r"training -+\r\n  environment  Pendulum-v1\r\n  folder       runs/a\r\n", text)
    assert ("━" in at[0]) == (columns == 200)


def test_no_terminal_gets_plain_lines():
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr and "\r" not in done.stderr and "%" not in done.stderr
    assert re.search(r"^1,000,000/1,000,000 frames \| 40 updates", done.stderr, re.M)
