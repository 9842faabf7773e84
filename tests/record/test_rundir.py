import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdreamer.files import FileUnusable, read_json
from jaxdreamer.record import rundir
from jaxdreamer.record.rundir import RunDir, RunLocked
from jaxdreamer.record.video import save_video
from jaxdreamer.saving import StorageError, write_json, write_text

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
    assert {path.name for path in run.path.iterdir()} == {"best", "checkpoints", "replay", "videos"}
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


@pytest.mark.parametrize("there", ["run", "run/checkpoints", "run/lock"])
def test_what_lies_in_a_folders_place_is_a_sentence(tmp_path, there):
    path = tmp_path / there
    if path.name == "lock":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
    with pytest.raises(
        StorageError, match=r"cannot be written: there is a f\w+ where a f\w+ is needed.*choose another"
    ):
        RunDir(tmp_path / "run").acquire()
    assert path.name == "lock" or path.read_text() == "precious"


def test_a_lock_that_cannot_be_written_is_given_back(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="lock cannot be written: the disk is full"):
        patch.setattr(rundir.os, "write", refuse)
        RunDir(tmp_path).acquire()
    RunDir(tmp_path).acquire().release()


def test_a_tilde_is_the_home_alone_or_before_a_slash(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert RunDir("~/runs").path == tmp_path / "home" / "runs"
    assert RunDir("~nobody/runs").path == tmp_path / "~nobody" / "runs"
    assert RunDir("a/~").path == tmp_path / "a" / "~"
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    assert save_video("~nobody/film.gif", frames, 30) == Path("~nobody/film.gif")

    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(FileUnusable, match="~/runs: the home folder is unknown: set HOME"):
        RunDir("~/runs")


def test_the_command_that_goes_on_can_be_pasted(tmp_path):
    words = shlex.split(RunDir(tmp_path / "team [1]; $HOME 'x'").train_command)
    assert words == ["jaxdreamer", "train", "--logdir", str(tmp_path / "team [1]; $HOME 'x'")]


def test_clearing_takes_what_is_ours_and_no_more(tmp_path):
    run = RunDir(tmp_path / "run").create()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "film.gif").write_text("precious")
    (run.videos / "link").symlink_to(tmp_path / "elsewhere")
    (run.checkpoints / "000000000010").mkdir()
    (run.replay / "chunk").write_text("")
    (run.path / "notes.txt").write_text("precious")
    run.mark_saved()
    assert run.saved
    run.clear()
    assert not run.saved and not [*run.checkpoints.iterdir(), *run.replay.iterdir(), *run.videos.iterdir()]
    assert (run.path / "notes.txt").exists() and (tmp_path / "elsewhere" / "film.gif").exists()


@pytest.mark.parametrize("name", ["checkpoints", "replay", "videos"])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_a_link_is_neither_written_to_nor_cleared(tmp_path, name, there):
    (tmp_path / "run").mkdir()
    if there:
        (tmp_path / "mine").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(FileUnusable, match=f"{name} is a link, .* keep the whole run elsewhere"):
        RunDir(tmp_path / "run").acquire()
    (tmp_path / "whole").mkdir()
    (tmp_path / "link").symlink_to("whole")
    with RunDir(tmp_path / "link"):
        assert (tmp_path / "whole" / name).is_dir()
