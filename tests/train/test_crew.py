"""Several processes: two of them on this machine train what one does, and end together whatever happens to one."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jaxdreamer.cli import main
from jaxdreamer.config import ConfigError
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.replay import disk
from jaxdreamer.train.api import train_agent
from jaxdreamer.train.crew import ALONE, Crew, start_crew
from jaxdreamer.train.device.loop import DeviceLoop
from jaxdreamer.train.folder import load_run
from jaxdreamer.train.placement import one_device
from jaxdreamer.train.sharing import check_crew, settle_shards
from tests.train.on_two_processes import Fails, config, host_config, shared_toy
from tests.train.test_run import checkpoint_arrays

ROOT = Path(__file__).resolve().parent.parent.parent
QUIET = {"console": Console(file=io.StringIO())}
LONGEST = 900  # seconds, on a busy machine


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(scenario, folder, processes=(0, 1)):
    """The processes of one run, and a port that nobody else has."""
    env, port = {**os.environ, "JAX_PLATFORMS": "cpu"}, free_port()
    command = [sys.executable, "-m", "tests.train.on_two_processes", scenario, str(port)]
    return [
        subprocess.Popen([*command, str(process), str(folder)], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        for process in processes
    ]


def ended(children):
    """Exit status and standard error of each, and the seconds between the first that ended and the last."""
    until, ends = time.monotonic() + LONGEST, {}
    try:
        said = [None] * len(children)
        while len(ends) < len(children) and time.monotonic() < until:
            for index, child in enumerate(children):
                if index not in ends and child.poll() is not None:
                    ends[index], said[index] = time.monotonic(), child.stderr.read()
            time.sleep(0.05)
        assert len(ends) == len(children), f"only {sorted(ends)} ended"
        return [child.returncode for child in children], said, max(ends.values()) - min(ends.values())
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
            child.stderr.close()


def arrays(logdir):
    folder = logdir / "checkpoints"
    return checkpoint_arrays(folder / f"{checkpoint.steps(folder)[-1]:012d}")


def assert_same(one, two, bits):
    one, two = arrays(one), arrays(two)
    assert one.keys() == two.keys() and len(one) > 8
    for name, a in one.items():
        if bits or a.dtype.kind != "f":
            np.testing.assert_array_equal(a, two[name], err_msg=name)
        else:
            np.testing.assert_allclose(a, two[name], rtol=1e-4, atol=1e-4, err_msg=name)


def lines(logdir):
    return [metrics.without_time(record) for record in metrics.read(logdir / "metrics.jsonl")]


def assert_same_lines(one, two):
    one, two = lines(one), lines(two)
    assert len(one) == len(two) >= 4
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for name in [
            name for name in a if not name.startswith("eval/")
        ]:  # the best of 100 samples: see on_four_devices
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path, monkeypatch):
    statuses, said, _ = ended(start("whole", tmp_path))
    assert statuses == [0, 0], said
    found = [json.loads((tmp_path / f"found-{process}.json").read_text()) for process in (0, 1)]
    each = [f"process {process} ({socket.gethostname()}): 1 x cpu (cpu)" for process in (0, 1)]
    assert (
        found[0]["doctor"][1:] == [f"  {line}" for line in each] and "which reach each other" in found[0]["doctor"][0]
    )
    assert len(found[0]["devices"]) == len(found[1]["devices"]) == 1

    loops = []
    monkeypatch.setattr(DeviceLoop, "close", lambda self: loops.append(self))
    train_agent(config(), tmp_path / "one", **QUIET)
    assert found[0]["predicted"] == found[1]["predicted"]
    for key, error in loops[0].open_loop(0).error.items():
        np.testing.assert_allclose(error, found[0]["predicted"][key], rtol=1e-3, atol=1e-4)
    assert_same_lines(tmp_path / "learned", tmp_path / "one")
    assert_same(tmp_path / "learned", tmp_path / "one", bits=False)

    # Stopped in a step and in an evaluation, by the one that does not lead: the run is what it would have been.
    assert found[0]["finished"] == found[1]["finished"] == [False, False, True]
    assert_same(tmp_path / "stopped", tmp_path / "straight", bits=True)
    assert [line for line in lines(tmp_path / "stopped") if "number" in line] == [
        line for line in lines(tmp_path / "straight") if "number" in line
    ]
    # One process goes on from what two have saved.
    done = train_agent(config("eval_every=96"), tmp_path / "alone", algorithm=shared_toy, **QUIET)
    assert done.finished
    assert_same(tmp_path / "alone", tmp_path / "straight", bits=False)

    assert found[0]["late"].startswith("process 1 of 2 did not come to tea within 0.2 seconds: see what it says")
    assert not list(tmp_path.glob("*/checkpoints/.*")), "parts are put together and gone"


def stored(logdir):
    """The replay of the newest checkpoint, oldest row first, by name."""
    host = checkpoint.read_host(logdir / "checkpoints", checkpoint.steps(logdir / "checkpoints")[-1])
    blocks = [*disk.blocks(logdir / "replay", host["replay"], load_run(logdir)[1])]
    found = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return found | {"kept/": found["kept/"].view(np.float32)}  # bytes, of numbers


@pytest.mark.slow
def test_two_processes_step_environments_on_the_host_as_one_does(tmp_path):
    statuses, said, _ = ended(start("hosted", tmp_path))
    assert statuses == [0, 0], said
    train_agent(host_config("context=collected"), tmp_path / "one", make=Fails, **QUIET)
    two, one = stored(tmp_path / "learned"), stored(tmp_path / "one")
    for name in two:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert len(one["reward"]) == 32 and one["is_last"].any() and not np.array_equal(*one["reward"][:, :4:3].T)
    assert_same_lines(tmp_path / "learned", tmp_path / "one")
    assert_same(tmp_path / "learned", tmp_path / "one", bits=False)
    found = [lines(tmp_path / name) for name in ("learned", "one")]
    assert [max(line.get("env/broken_entries", 0) for line in each) > 0 for each in found] == [True, True]
    assert [any("train/episode/number" in line for line in each) for each in found] == [True, True]

    assert [json.loads((tmp_path / f"found-{process}.json").read_text()) for process in (0, 1)] == [[False, True]] * 2
    # One process goes on from what two have saved, and steps workers as two do.
    train_agent(host_config(), tmp_path / "alone", make=Fails, algorithm=shared_toy, **QUIET)
    train_agent(host_config("env.workers=2"), tmp_path / "one-workers", make=Fails, algorithm=shared_toy, **QUIET)
    for name, same in {"stopped": "straight", "alone": "straight", "workers": "one-workers"}.items():
        assert_same(tmp_path / name, tmp_path / same, bits=name == "stopped")
        limit = 0 if name == "stopped" else 1e-5
        for key, value in stored(tmp_path / same).items():
            np.testing.assert_allclose(stored(tmp_path / name)[key], value, rtol=limit, atol=limit, err_msg=key)


def ends_too(process, kept):
    who = f"process {process} of 2 ({socket.gethostname()})"
    return f"{who} ends too, with {kept}: start all of them again with the same command to go on"


def newest(folder):
    return f"the checkpoint at {checkpoint.steps(folder / 'run' / 'checkpoints')[-1]} frames"


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_is_killed(who, tmp_path):
    statuses, said, seconds = ended(start(f"killed-{who}", tmp_path))
    other = 1 - who
    assert statuses[who] == -9 and statuses[other] not in (0, None) and seconds < 30
    if who != 0:  # process 0 keeps the coordination service, without which jax may end the others before they say so
        assert "ended without a word (killed, out of memory, or its machine is lost)" in said[other]
        assert ends_too(other, newest(tmp_path)) in said[other]
    assert train_agent(config(), tmp_path / "run", algorithm=shared_toy, **QUIET).finished


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["raised", "early", "hosted_raised"])
def test_a_process_raises(scenario, tmp_path):
    statuses, said, seconds = ended(start(scenario, tmp_path))
    assert statuses == [1, 1] and seconds < 30
    assert "RuntimeError: no fuel" in said[1]
    kept = "nothing of this run saved yet" if scenario == "early" else newest(tmp_path)
    why = f"process 1 of 2 ({socket.gethostname()}) ended: RuntimeError: no fuel. "
    assert why + ends_too(0, kept) in said[0]


@pytest.mark.slow
def test_processes_that_were_asked_for_different_runs(tmp_path):
    _, said, _ = ended(start("differing", tmp_path))
    wanted = "all processes must be given the same settings: run.train_every is 12 in process 0, 13 in process 1\n"
    assert wanted in said[0] and wanted in said[1] and not (tmp_path / "run").exists()


def test_a_process_that_nobody_joins(tmp_path):
    (status,), (said,), _ = ended(start("unmet", tmp_path, processes=[1]))
    assert status == 2
    assert (
        "the processes did not find each other at 127.0.0.1:" in said and "within 1 seconds: start all of them" in said
    )


def test_words_that_do_not_fit_each_other():
    assert start_crew() is ALONE and start_crew(processes=1) is ALONE and start_crew("here:1", 1, 0) is ALONE
    for words, message in {
        ("here:1",): "several processes need all of --coordinator HOST:PORT --processes N --process I",
        (None, 2, 0): "several processes need all of",
        ("here", 2, 0): "--coordinator must be HOST:PORT of process 0, or auto; found here",
        ("here:1", 2, 2): "--process must be 0 to 1 with --processes 2, found 2",
        ("auto", 2): "--coordinator auto finds --processes and --process itself: leave them out",
    }.items():
        with pytest.raises(ConfigError, match=f"^{message}"):
            start_crew(*words)


def test_what_several_processes_cannot_train(tmp_path, capsys):
    few = ["train", "--coordinator", "here:1", "--processes", "2", "--process", "0"]
    assert main([*few, "--seeds", "2"]) == 2 and "--seeds are not for several processes" in capsys.readouterr().err
    assert main(few) == 2 and "several processes write one run: name its folder, --logdir" in capsys.readouterr().err
    for words, message in {
        ("backend=unity",): r"env.backend=unity brings its own environments side by side.* train it in one process",
        (
            "env=none",
            "data=recorded.npz",
        ): "env.id=none: what is learned from data alone is learned in one process",
        ("replay.on_disk=true",): "replay.on_disk=true is for one process",
    }.items():
        with pytest.raises(ConfigError, match=f"^{message}"):
            check_crew(Crew(0, 2), host_config(*words), on_device=False)
    place = one_device()._replace(devices=4, crew=Crew(0, 2))
    settle = partial(settle_shards, folders=[RunDir(tmp_path)], place=place, on_device=False, start_over=False)
    assert settle(host_config("batch_size=8")).replay.shards == 0
    with pytest.raises(ConfigError, match=r"^env.num_envs 6 cannot be shared out evenly over 4 devices: 4 or 8 can"):
        settle(host_config("num_envs=6", "batch_size=8"))
