"""``jaxdreamer runs``: what lies in a folder, and how it is doing."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from jaxdreamer import cli
from jaxdreamer.config import ConfigError
from jaxdreamer.record import checkpoint, sessions
from jaxdreamer.record.listing import find, look, table
from jaxdreamer.record.rundir import RunDir
from tests.record.runs import BEGAN, lock, write_run


def test_a_run_and_what_is_known_of_it(tmp_path):
    write_run(tmp_path / "a", "env=CartPole-v1", "seed=3", "frames=600")
    [found] = find(tmp_path)
    written = found.written
    assert found._asdict() == {
        "folder": str(tmp_path / "a"), "state": "finished", "why": "", "environment": "CartPole-v1", "backend": "gym",
        "preset": "dreamer_v1,tiny", "algorithm": "dreamer", "seed": 3, "frames": 300, "budget": 600,
        "last": 2.0, "best": 3.0, "best_at": 200, "written": written,
    }  # fmt: skip
    assert written == pytest.approx(
        max((tmp_path / "a" / name).stat().st_mtime for name in os.listdir(tmp_path / "a")), abs=5
    )


def test_frames_are_those_of_a_checkpoint_that_is_newer_than_the_log(tmp_path):
    run = write_run(tmp_path / "a", "frames=900", "action_repeat=2", finished=False)
    host = checkpoint.read_host(run.checkpoints, checkpoint.steps(run.checkpoints)[-1])
    for tally, frames in (({"agent_steps": 310}, 620), ({"agent_steps": 3}, 300), ("damaged", 300)):
        checkpoint.save(run.checkpoints, 400, {"train": np.zeros(1)}, host | {"tally": tally})
        assert look(run.path).frames == frames


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_states(tmp_path):
    here = socket.gethostname()
    states = {}
    for name in ("stopped", "killed", "running", "another", "elsewhere", "long ago", "elder"):
        states[name] = write_run(tmp_path / name, finished=False)
    lock(states["killed"], pid=dead_process(), host=here)
    lock(states["another"], pid=os.getpid(), host=here)
    os.utime(states["another"].path / "lock", (1, 1))  # before this process began: its number was another's then
    lock(states["elsewhere"], pid=1, host="elsewhere")
    lock(states["long ago"], pid=1, host="elsewhere")
    for name in ("metrics.jsonl", "lock"):
        os.utime(states["long ago"].path / name, (1, 1))
    (states["elder"].path / "lock").write_text("")
    with states["running"]:
        found = {run.folder.rpartition("/")[2]: (run.state, run.why) for run in find(tmp_path)}
    go_on = {name: f"go on: {run.train_command}" for name, run in states.items()}
    assert found == {
        "stopped": ("stopped", go_on["stopped"]), "killed": ("killed", go_on["killed"]),
        "running": ("running", f"on {here}"), "another": ("killed", go_on["another"]),
        "elsewhere": ("running", "on elsewhere"), "long ago": ("killed", go_on["long ago"]),
        "elder": ("stopped", go_on["elder"]),
    }  # fmt: skip
    assert look(states["running"].path).state == "stopped"


def test_what_is_broken_says_why_and_hides_no_other(tmp_path, capsys):
    write_run(tmp_path / "good")
    (write_run(tmp_path / "garbled").config).write_text("{")
    (write_run(tmp_path / "unknown").config).write_text('{"no_such": 1}')
    (write_run(tmp_path / "lost").checkpoints / "000000000300").rename(tmp_path / ".away")
    (write_run(tmp_path / "damaged").checkpoints / "000000000300" / "host.json").write_text("{}")
    failed = write_run(tmp_path / "failed", finished=False)
    sessions.append(failed.sessions, {"time": BEGAN + 40, "failed": "Diverged: 20 updates in a row"})
    assert {run.folder.rpartition("/")[2]: run.state for run in find(tmp_path)} == {
        "good": "finished", **dict.fromkeys(("garbled", "unknown", "lost", "damaged", "failed"), "broken")
    }  # fmt: skip
    assert cli.main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for said in ("garbled is broken: .*config.json is not valid JSON", "unknown is broken: .*unknown setting 'no_such'",
                 "lost is broken: its checkpoints are missing", "damaged is broken: .*host.json",
                 "failed is broken: Diverged: 20 updates in a row"):  # fmt: skip
        assert re.search(said, out), out


def test_a_folder_of_any_name_is_a_line(tmp_path):
    write_run(tmp_path / "a\nb\x1b[31m\udcff")
    [line] = table(find(tmp_path), tmp_path)
    assert line[0] == "a?b?[31m?"


def test_runs_are_found_below_and_nothing_is_taken_for_one(tmp_path):
    for name in ("many/seed-0", "many/seed-1", "deep/er/run"):
        write_run(tmp_path / name)
    write_run(tmp_path / "many" / "seed-0" / "videos" / "inside")  # a run's own folders are not looked into
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert sorted(os.path.relpath(run.folder, tmp_path) for run in find(tmp_path)) == [
        "deep/er/run", "many/seed-0", "many/seed-1"
    ]  # fmt: skip
    assert [run.folder for run in find(tmp_path / "many" / "seed-1")] == [str(tmp_path / "many" / "seed-1")]
    with pytest.raises(ConfigError, match="is no folder"):
        find(tmp_path / "no")


def test_a_run_without_a_checkpoint_is_begun_again(tmp_path):
    run = write_run(tmp_path / "a")
    (run.path / "saved").unlink()
    (run.checkpoints / "000000000300").rename(tmp_path / "away")
    found = look(run.path)
    assert found.state == "stopped" and found.why.startswith(
        "before its first checkpoint; begin again: jaxdreamer train"
    )
    RunDir(run.path).metrics.unlink()
    assert look(run.path).frames == 0


def test_the_newest_comes_first_and_the_table_says_it_in_words(tmp_path, capsys, monkeypatch):
    for index, name in enumerate(("old", "new")):
        run = write_run(tmp_path / name, "frames=600", finished=name == "new")
        for file in (run.metrics, run.sessions, run.config):
            os.utime(file, (BEGAN + index, BEGAN + index))
    found = find(tmp_path)
    assert table(found, tmp_path, now=BEGAN + 7201) == [
        ("new", "finished", "Pendulum-v1", "dreamer_v1,tiny", "0", "300", "2", "3 at 200", "2 hours ago"),
        ("old", "stopped", "Pendulum-v1", "dreamer_v1,tiny", "0", "300 (50%)", "2", "3 at 200", "2 hours ago"),
    ]
    assert cli.main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [run._asdict() for run in found]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["runs", str(tmp_path)]) == 0
    narrow = capsys.readouterr().out.splitlines()
    assert max(map(len, narrow)) <= 80 and "last" in narrow[0] and "best" in narrow[0] and "state" in narrow[0]


def test_wall_time_is_of_all_sessions_without_the_time_between(tmp_path):
    run = write_run(tmp_path / "a")
    records = [{"time/unix": BEGAN + at} for at in (5, 30, 1010, 1025)]
    sessions.append(run.sessions, {"time": BEGAN + 40, "failed": "x"})
    sessions.append(run.sessions, {"time": BEGAN + 1000})
    assert sessions.wall_seconds(sessions.read(run.sessions), records) == 30 + 25
    assert sessions.wall_seconds([], records) == 1020


def test_a_damaged_session_is_left_out_and_told(tmp_path, caplog):
    path = tmp_path / "sessions.jsonl"
    assert sessions.read(path) == [] and sessions.newest(path) == {}
    sessions.append(path, {"time": 1.5})
    with open(path, "a") as file:
        file.write('{"time": 1')  # killed while writing
    assert sessions.read(path) == [{"time": 1.5}] and not caplog.records
    sessions.append(path, {"time": 2})
    with open(path, "a") as file:
        file.write('[]\n{"time": "x"}\n{"time": 3, "parameters": "many"}\n{"time": 3, "versions": {"jax": 1}}\n')
    sessions.append(path, {"time": 4, "failed": "x"})
    assert [entry["time"] for entry in sessions.read(path)] == [1.5, 2, 4] and sessions.newest(path) == {"time": 2}
    assert "5 damaged lines are skipped, the first is line 2" in caplog.text
