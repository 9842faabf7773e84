import re
from io import StringIO

import pytest
from rich.console import Console

from jaxdreamer.record.pace import Work
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
        left = Work(1000 - 2 * step, 250 - step // 2, 0)
        progress.update(2 * step, step // 2, left=left, last_return=step if step % 100 == 50 else None)
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


def screen(width, **more):
    """What a terminal of this width shows of a run well under way."""
    out, clock = StringIO(), Clock()
    with Progress(5_000_000, Console(force_terminal=True, file=out, width=width), clock=clock) as progress:
        for step in range(20):
            clock.now += 1
            progress.update(1_000_000 + step, 200_000 + step, left=Work(4_000_000, 800_000, 80))
        progress.update(1_234_567, 246_900, last_return=-1234.5, eval_return=987.6, left=Work(4, 5, 1), **more)
        line = progress.line(width)
    return line, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())


def test_a_terminal_of_80_columns_shows_percent_return_evaluation_and_time_left_and_a_wide_one_everything():
    narrow, shown = screen(80)
    assert len(narrow) <= 80 and max(len(row) for row in re.split(r"[\r\n]", shown) if "%" in row) <= 80
    for part in ("24.7%", "1.235M/5M frames", "return -1234", "eval 987.6", " left"):
        assert part in narrow and part in shown
    noted, _ = screen(80, note="pretraining, 40 updates due")
    assert len(noted) <= 80 and "24.7%" in noted and "return -1234" in noted and " left" in noted
    wide, _ = screen(200)
    assert len(wide) <= 200
    for part in (
        "24.7%",
        "1,234,567/5,000,000 frames",
        "━━━━━─",
        "return -1234",
        "eval 987.6",
        " left",
        "246,900 updates",
        "updates/s",
        "frames/s",
    ):
        assert part in wide


def test_the_time_left_is_that_of_the_work_left():
    """5,000 quick frames before learning, then 1 s for every update and 10 ms for a frame: not 50 frames a second on."""
    out, clock = StringIO(), Clock()
    progress = Progress(6000, Console(file=out, force_terminal=False), clock=clock)
    for frame in range(0, 5001, 10):
        clock.now += 0.1
        progress.update(frame, 0, left=Work(6000 - frame, 100, 1))
    assert "left" not in progress.line()  # nobody knows yet what an update takes
    clock.now += 5
    progress.update(5000, 1, left=Work(1000, 99, 1))
    for update in range(2, 21):
        clock.now += 1
        progress.update(5000, update, left=Work(1000, 100 - update, 1))
    assert "0:01:30 left" in progress.line()  # 80 updates and 1,000 frames
    assert (
        out.getvalue().count("at this speed the rest takes about 2 minutes: 97 updates of 1 s, 1,000 frames of 10 ms")
        == 1
    )
    progress.evaluating(0, 10)
    clock.now += 12
    progress.evaluating(3, 10)
    assert "evaluation 3/10 episodes 0:00:12" in progress.line()
    clock.now += 18
    progress.evaluated()
    progress.update(5000, 20, left=Work(1000, 80, 1))
    assert "0:02:00 left" in progress.line()  # and an evaluation; its own time counted as neither


def test_a_run_of_weeks_says_so_soon_and_what_is_smaller():
    out, clock = StringIO(), Clock()
    progress = Progress(5_000_000, Console(file=out, force_terminal=False), clock=clock)
    progress.advice = "; --preset classic is a small one"
    for update in range(4):
        clock.now += 3.4
        progress.update(5000, update, left=Work(4_995_000, 1_000_000 - update, 1000))
    assert re.search(r"about 39 days: .* updates of 3\.4 s; --preset classic is a small one", out.getvalue())


def test_the_last_line_is_told_once():
    progress, out, clock = plain()
    progress.update(990, 4)
    clock.now += 10
    progress.update(1000, 5)
    clock.now += 1  # the rates are others, the news is not
    progress.close()
    progress.close()
    assert [line.split(" | ")[0] for line in out.getvalue().splitlines()] == ["990/1,000 frames", "1,000/1,000 frames"]


def test_a_run_outlives_whoever_reads_its_lines():
    class Closed(StringIO):
        def write(self, *_):
            raise BrokenPipeError

        flush = write

    progress = Progress(10, Console(file=Closed(), force_terminal=True))
    progress.update(1, 1)
    progress.log("nobody reads this")
    progress.close()
