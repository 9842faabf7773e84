"""Ctrl-C, SIGTERM and closed terminals: real processes and real signals; and evaluations that a stop gives up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from jaxdreamer import config as configs
from jaxdreamer.cli import main
from jaxdreamer.envs.host.vector import LocalVectorEnv
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.train import stop
from jaxdreamer.train.api import evaluate_agent, train_agent
from jaxdreamer.train.evaluate import Evaluation
from jaxdreamer.train.hooks import Hooks
from jaxdreamer.train.loop import Loop
from tests.train.test_run import TINY, quiet, tiny

# What does not come back to Python for a minute, like a compile.
SLOW = "import hashlib\ndef wait(): hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
TOY = "from jaxdreamer import families\nfamilies.FAMILIES['toy'] = 'tests.envs.toy'\n"  # as conftest.py does
MAIN = "import sys\nfrom jaxdreamer.cli import main\nsys.exit(main(sys.argv[1:]))\n"
# Where a child that does not end in time was waiting.
STACKS = (
    "import faulthandler, signal\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests may have been started under nohup
    "faulthandler.dump_traceback_later(25, repeat=True, file=open({!r}, 'w'))\n"
)
COMPILING = (
    SLOW + "from jaxdreamer.train.host.loop import HostLoop\n"
    "def compile(self, batch):\n"
    "    with self.progress.status('compiling 2 updates'):\n"
    "        wait()\n"
    "HostLoop._compile = compile\n"
)


@pytest.fixture
def start(tmp_path):
    """Start ``jaxdreamer train`` in a group of its own, after ``patch``; killed at the end, should it still be there."""
    started = []

    def begin(patch: str, *words: str) -> subprocess.Popen:
        stacks = STACKS.format(str(tmp_path / "stacks"))
        command = [sys.executable, "-c", stacks + TOY + patch + MAIN, "train", "--preset", "dreamer_v1,tiny", "--logdir",
                   str(tmp_path / "run"), *TINY, "backend=toy", "id=counting", *words]  # fmt: skip
        started.append(
            subprocess.Popen(
                command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=Path(__file__).parents[2]
            )
        )
        return started[-1]

    yield begin
    for child in started:
        if child.poll() is None:
            print("a child did not end:", Path(tmp_path, "stacks").read_text(), sep="\n")
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stderr.close()


def read_until(child, text: str) -> list[str]:
    lines = []
    for line in child.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"it ended before it said {text!r}: {''.join(lines)}")


def held(child) -> tuple[list[psutil.Process], set[Path]]:
    """Its processes, and their shared memory where the system tells."""
    processes = psutil.Process(child.pid).children(recursive=True)
    maps = [Path("/proc", str(process.pid), "maps") for process in processes]
    lines = [line for path in maps if path.exists() for line in path.read_text().splitlines()]
    return processes, {Path(line[line.index("/dev/shm/") :].split()[0]) for line in lines if "/dev/shm/psm" in line}


def all_gone(processes: list[psutil.Process], memory: set[Path]) -> bool:
    psutil.wait_procs(processes, timeout=5)
    return not [process for process in processes if process.is_running()] and not [p for p in memory if p.exists()]


def test_a_first_ctrl_c_amid_a_compile_is_answered_at_once_and_a_second_leaves(start, tmp_path):
    child = start(COMPILING, "frames=400", "checkpoint_every=10", "workers=2", "num_envs=2")
    read_until(child, "compiling 2 updates")
    processes, memory = held(child)
    assert len(processes) == 3 and len(memory) == 1
    asked = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)
    said = read_until(child, "stopping")[-1]
    assert time.monotonic() - asked < 2 and "saved after compiling 2 updates" in said
    assert "Ctrl-C again leaves now, with the checkpoint at 40 frames" in said
    asked = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)
    rest = child.communicate(timeout=20)[1]
    assert time.monotonic() - asked < 5 and child.returncode == 130
    assert rest.splitlines() == ["leaving now, with the checkpoint at 40 frames"]
    assert all_gone(processes, memory)
    config = configs.load(tmp_path / "run" / "config.json")
    shorter = configs.replace(config, {"run.frames": 60, "env.workers": 0})
    assert train_agent(shorter, tmp_path / "run", console=quiet()).finished


def test_before_there_is_anything_to_save_one_ctrl_c_leaves(start, tmp_path):
    child = start(SLOW + "from jaxdreamer.train.host import loop\nloop.Collector = lambda *_: wait()\n")
    read_until(child, "building the networks ... done")
    asked = time.monotonic()
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=20)[1].count("Traceback") == 0
    assert time.monotonic() - asked < 5 and child.returncode == 130


WATCHED = (
    "import sys\nfrom jaxdreamer.train.host import loop\n"
    "evaluate = loop.HostLoop.evaluate\n"
    "def told(self, **more):\n"
    "    print('EVALUATING', file=sys.stderr, flush=True)\n"
    "    return evaluate(self, **more)\n"
    "loop.HostLoop.evaluate = told\n"
)


def test_ctrl_c_while_workers_of_an_evaluation_start_saves(start, tmp_path):
    """The terminal sends it to every process: those of the workers, amid their imports, too."""
    child = start(WATCHED, "frames=4000", "eval_every=20", "eval_episodes=64", "time_limit=500", "workers=2")
    read_until(child, "EVALUATING")
    time.sleep(0.3)
    processes, memory = held(child)
    os.killpg(child.pid, signal.SIGINT)
    errors = child.communicate(timeout=60)[1]
    assert child.returncode == 130 and "stopped and saved at 20 frames" in errors and "died" not in errors
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [20] and all_gone(processes, memory)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["SIGHUP", "SIGTERM"])
def test_a_terminal_or_a_scheduler_that_ends_everything_finds_the_run_saved(start, tmp_path, number):
    """Every process of the group is told, more than once, and nobody reads what is printed any more."""
    child = start(
        "", "frames=1000000", "workers=1", "prefill=1000000", "checkpoint_every=10", "keep_checkpoints=1000000"
    )
    while not (tmp_path / "run" / "checkpoints" / f"{30:012d}").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.stderr.close()
    processes, memory = held(child)
    os.killpg(child.pid, number)
    time.sleep(0.05)
    if child.poll() is None:
        os.killpg(child.pid, number)
    assert child.wait(timeout=30) in (130, -number)  # the second one may find it saved and about to end
    assert all_gone(processes, memory)
    newest = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    result = train_agent(
        configs.replace(configs.load(tmp_path / "run" / "config.json"), {"run.frames": newest, "env.workers": 0}),
        tmp_path / "run",
        console=quiet(),
    )
    assert result.finished


def test_the_programs_own_handlers_are_put_back_and_other_threads_leave_signals_alone(tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    config = tiny("frames=300", "backend=toy", "id=counting", "checkpoint_every=10", "eval_episodes=1")
    handlers = {number: lambda *_: None for number in numbers}
    outer = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        seen = []

        def on_save(moment):
            seen.append([signal.getsignal(number) for number in numbers])
            if threading.current_thread() is threading.main_thread():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)

        result = train_agent(config, tmp_path / "run", console=quiet(), hooks=Hooks(on_save=on_save))
        assert not result.finished and not set(seen[0]) & set(handlers.values())
        assert [signal.getsignal(number) for number in numbers] == list(handlers.values())
        assert signal.set_wakeup_fd(-1) == -1
        seen.clear()
        small = configs.replace(config, {"run.frames": 40})
        other = threading.Thread(
            target=train_agent,
            args=(small, tmp_path / "other"),
            kwargs={"console": quiet(), "hooks": Hooks(on_save=on_save)},
        )
        other.start()
        other.join()
        assert seen[-1] == list(handlers.values())
    finally:
        for number, handler in outer.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("loop", ["host", "device"])
def test_an_evaluation_that_a_stop_gave_up_is_played_when_the_run_goes_on(tmp_path, monkeypatch, loop):
    config = tiny("frames=80", "eval_every=50", "time_limit=20", "eval_episodes=2", "id=counting", "updates=4",
                  "backend=pure" if loop == "device" else "backend=toy")  # fmt: skip
    console = quiet()
    straight = train_agent(config, tmp_path / "straight", console=console)
    # As the budget counts them, which on the device counts resets too; and the last line is told once.
    assert console.file.getvalue().count("80/80 frames") == 1
    watch, given_up = Loop.watch, []

    def stop_at_first_sight(self, done):
        if self.position not in given_up:
            given_up.append(self.position)
            self.stop_requested = True
        watch(self, done)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "watch", stop_at_first_sight)
        for times in (1, 2):  # a periodic one, and the final one
            assert not train_agent(config, tmp_path / "stopped", console=quiet()).finished
            assert len(given_up) == times
    resumed = train_agent(config, tmp_path / "stopped", console=quiet())
    assert resumed.finished and isinstance(resumed.evaluation, Evaluation)
    assert resumed.evaluation.returns == straight.evaluation.returns
    for one, two in zip(jax.tree.leaves(straight.state.params), jax.tree.leaves(resumed.state.params), strict=True):
        np.testing.assert_array_equal(one, two)
    records = [[metrics.without_time(r) for r in metrics.read(s.logdir / "metrics.jsonl")] for s in (straight, resumed)]
    assert records[0] == records[1]
    judged = [r["env_frames"] for r in records[0] if "eval/return" in r]
    assert len(judged) == 2 and len(set(judged)) == 2  # updates that are owed at the end bring no third one


def test_evaluating_a_run_may_be_interrupted(tmp_path, capsys, monkeypatch):
    config = tiny("frames=60", "backend=toy", "id=counting", "eval_episodes=1", "time_limit=20")
    train_agent(config, tmp_path / "run", console=quiet())
    before, steps = signal.getsignal(signal.SIGINT), []

    def step(self, actions):
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        return advance(self, actions)

    def slow_close(self):
        time.sleep(2)
        close(self)

    with monkeypatch.context() as patched:
        advance, close = LocalVectorEnv.step, LocalVectorEnv.close
        patched.setattr(LocalVectorEnv, "step", step)
        patched.setattr(LocalVectorEnv, "close", slow_close)  # whatever leaves in order is given its time
        patched.setattr(stop, "PATIENCE", 1.0)
        assert main(["evaluate", str(tmp_path / "run")]) == 130
    assert len(steps) == 5 and signal.getsignal(signal.SIGINT) is before
    assert "Traceback" not in capsys.readouterr().err
    assert len(evaluate_agent(tmp_path / "run").returns) == 1
