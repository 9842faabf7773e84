import json
import os
import signal
import subprocess
import sys

import pytest

from jaxdreamer.files import read_json
from jaxdreamer.record import rundir
from jaxdreamer.record.rundir import RunDir, RunLocked
from jaxdreamer.saving import write_json, write_text

HOLD = """
import sys, time
from jaxdreamer.record.rundir import RunDir
RunDir(sys.argv[1]).acquire()
print("locked", flush=True)
time.sleep(60)
"""


def test_layout(tmp_path):
    run = RunDir(tmp_path / "runs" / "a")
    assert not run.exists and not run.path.exists()  # looking creates nothing
    run.create()
    assert {path.name for path in run.path.iterdir()} == {"checkpoints", "replay", "videos"}
    write_json(run.config, {"seed": 1})
    assert run.exists and read_json(run.config) == {"seed": 1}
    assert (run.spec.name, run.metrics.name) == ("spec.json", "metrics.jsonl")


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunLocked, match=f"pid {holder.pid} on "):
            RunDir(tmp_path).acquire()
        with pytest.raises(RunLocked):  # being refused did not break the lock
            RunDir(tmp_path).acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert str(holder.pid) in (tmp_path / "lock").read_text()  # stale, and no obstacle
    RunDir(tmp_path).acquire().release()
    assert (tmp_path / "lock").read_text() == ""


def test_the_same_process_is_refused_too(tmp_path):
    with RunDir(tmp_path):
        with pytest.raises(RunLocked, match="this process"):
            RunDir(tmp_path).acquire()
        code = "import sys; from jaxdreamer.record.rundir import RunDir; RunDir(sys.argv[1]).acquire()"
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode and f"pid {os.getpid()}" in done.stderr
    RunDir(tmp_path).acquire().release()


def test_without_posix_locks_process_ids_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir, "fcntl", None)
    run = RunDir(tmp_path).acquire()
    with monkeypatch.context() as patch, pytest.raises(RunLocked, match=f"another process: pid {os.getpid()}"):
        patch.setattr(rundir, "_held", {})  # as another process would see it
        RunDir(tmp_path).acquire()
    run.release()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    holder = json.dumps({"pid": int(gone.stdout), "host": rundir.socket.gethostname()})
    (tmp_path / "lock").write_text(holder)
    RunDir(tmp_path).acquire().release()


def test_atomic_writes_leave_the_old_file_when_they_fail(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "config.json"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    mask = os.umask(0o022)
    try:
        write_text(path, "new")
    finally:
        os.umask(mask)
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o644
