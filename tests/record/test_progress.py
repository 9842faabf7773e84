import re
from io import StringIO

import pytest
from rich.console import Console

from jaxdreamer.record.progress import Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def plain(total=1000, **more):
    out, clock = StringIO(), Clock()
    return Progress(total, Console(file=out, force_terminal=False, width=40), clock=clock, **more), out, clock


def test_plain_lines_are_rate_limited():
    progress, out, clock = plain()
    for step in range(250):
        clock.now = 100 + step * 0.1
        progress.update(2 * step, step // 2, last_return=step if step % 100 == 50 else None)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3  # at 0, 10 and 20 seconds; none is wrapped at the console's width
    assert lines[0] == "0/1,000 frames"
    assert lines[2] == "400/1,000 frames | 100 updates | 20 frames/s | 5 updates/s | 0:00:30 left | return 150"
    progress.update(600, 200, eval_return=-12.5)
    assert len(out.getvalue().splitlines()) == 3
    progress.close()
    assert out.getvalue().splitlines()[-1].endswith("return 150 | eval -12.5")


def test_updates_are_told_while_frames_stand_still():
    progress, out, clock = plain()
    for second in range(11):
        clock.now = 100 + second
        progress.update(500, second // 2)
    assert out.getvalue().splitlines()[-1] == "500/1,000 frames | 5 updates | 0.5 updates/s"


def test_rates_are_recent_ones():
    progress, _, clock = plain(10**6)
    for second in range(200):
        clock.now = 100 + second
        progress.update(second * 10 if second < 100 else 1000 + (second - 100) * 2, second)
    frame_rate, update_rate = progress.rates()
    assert frame_rate == pytest.approx(2) and update_rate == pytest.approx(1)


def test_status_and_log():
    progress, out, clock = plain()
    assert progress.rates() == (0, 0)
    with progress.status("compiling [train]"):
        assert out.getvalue() == "compiling [train] ...\n"
        clock.now += 12
    with pytest.raises(ZeroDivisionError), progress.status("saving"):
        1 / 0  # noqa: B018
    progress.log("checkpoint [10] saved")
    assert out.getvalue().splitlines()[1:] == [
        "compiling [train] ... done in 12 s",
        "saving ...",
        "saving ... failed after 0 s",
        "checkpoint [10] saved",
    ]


def test_a_terminal_gets_a_bar_and_lines_above_it():
    out, clock = StringIO(), Clock()
    console = Console(force_terminal=True, file=out, width=120)
    with Progress(1000, console, clock=clock) as progress:
        progress.update(0, 0)
        clock.now += 5
        progress.update(500, 50, last_return=3.25, eval_return=4.5)
        progress.log("saved a checkpoint")
        with progress.status("compiling"):
            pass
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "━" in text and "50.0%" in text
    assert "500/1,000 frames" in text and "return 3.25" in text and "eval 4.5" in text
    assert "saved a checkpoint\n" in text and "compiling ... done in" in text
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


def test_the_bar_ends_with_an_exception_too():
    out = StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(10, Console(force_terminal=True, file=out)) as progress:
        progress.update(1, 1)
        raise KeyboardInterrupt
    assert "\x1b[?25h" in out.getvalue()
