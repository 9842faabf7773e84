"""Lanes in worker processes: the same entries as in one process, and what becomes of those that fail."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from jaxdreamer import families
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import EnvError, LocalVectorEnv, WorkerVectorEnv, make_vector, register, wrap
from jaxdreamer.envs.host.outcome import reporting
from jaxdreamer.envs.host.workers import process as worker
from tests.envs.host.test_vector import assert_same
from tests.envs.host.troubled import Slow, Spying, refused, troubled
from tests.envs.toy import CountingEnv

ACTION = np.eye(5, dtype=np.float32)[2]


@pytest.fixture
def workers():
    """Start worker environments that are closed at the test's end."""
    opened = []

    def start(make, **options):
        opened.append(WorkerVectorEnv(make, options.pop("seed", 3), **{"workers": 1, "timeout": 60, **options}))
        return opened[-1]

    yield start
    for env in opened:
        env.close()


def actions(count):
    return np.tile(ACTION, (count, 1))


def run(env, entries):
    """Step; returns what a log of the entries would hold: the lanes' own time, and the flags, [lanes, entries]."""
    rows = [env.step(actions(env.num_envs)) for _ in range(entries)]
    return {
        "time": np.stack([row.obs["state"][:, 1] for row in rows], 1),
        **{name: np.stack([getattr(row, name) for row in rows], 1) for name in FLAGS},
    }


FLAGS = ("reward", "is_first", "is_last", "is_terminal")


@pytest.mark.parametrize(("lanes", "processes"), [(1, 1), (2, 2), (5, 2)])
def test_entries_are_those_of_one_process(lanes, processes):
    config = EnvConfig(backend="toy", id="counting_dict", image_size=(16, 16), time_limit=7)
    here = make_vector(config, lanes, seed=5)
    there = make_vector(EnvConfig(**{**vars(config), "workers": processes}), lanes, seed=5)
    try:
        assert isinstance(there, WorkerVectorEnv) and not isinstance(here, WorkerVectorEnv)
        assert there.spec == here.spec and there.num_envs == lanes
        assert (there.frame_rate, there.can_render) == (here.frame_rate, here.can_render)
        assert there.spaces["action"] == here.spaces["action"]
        rng = np.random.default_rng(0)
        for _ in range(20):
            np.testing.assert_array_equal(there.reset_mask, here.reset_mask)
            drawn = np.eye(5, dtype=np.float32)[rng.integers(0, 5, lanes)]
            assert_same(here.step(drawn), there.step(drawn))
        assert there.agent_steps == here.agent_steps and there.state() == here.state()
        np.testing.assert_array_equal(here.render(lanes - 1), there.render(lanes - 1))
        one, other = here.reset_lane(lanes - 1), there.reset_lane(lanes - 1)
        assert_same(one, other)
        assert_same(here.step(drawn), there.step(drawn))
    finally:
        there.close()
    assert multiprocessing.active_children() == []


def test_entries_are_the_callers_to_keep(workers):
    env = workers([troubled()])
    kept = env.step(actions(1))
    before = kept.obs["state"].copy()
    env.step(actions(1))
    np.testing.assert_array_equal(kept.obs["state"], before)


def test_workers_import_neither_jax_nor_the_program_that_starts_them(tmp_path):
    """A script without a guard around its main part, which imports jax and makes its environment from its own class."""
    script = tmp_path / "script.py"
    script.write_text(
        "import jax, jaxdreamer, numpy as np\n"
        "from jaxdreamer.envs import WorkerVectorEnv\n"
        "from tests.envs.host.troubled import Spying\n"
        "class Mine(Spying):\n"
        "    pass\n"
        "env = WorkerVectorEnv([lambda: jaxdreamer.wrap(Mine())] * 2, workers=2)\n"
        "heavy, process, _ = env.step(np.zeros((2, 5))).obs['state'].T\n"
        "print(heavy.tolist(), len(set(process.tolist())))\n"
        "env.close()\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", script], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[0.0, 0.0] 2\n", "")


def test_what_was_registered_here_is_known_there():
    register("mine", lambda config: wrap(CountingEnv(truncate_at=int(config.id))))
    try:
        env = make_vector(EnvConfig(backend="mine", id="3", workers=1), 1)
        assert run(env, 5)["is_last"].tolist() == [[False, False, False, True, False]]
        env.close()
    finally:
        families._registered.pop("mine")


def test_what_cannot_be_is_refused_as_in_one_process():
    with pytest.raises(ConfigError, match=r"env\.action_bound"):
        WorkerVectorEnv([refused], workers=1)
    with pytest.raises(ConfigError, match="cannot be sent"):
        held = threading.Lock()
        WorkerVectorEnv([lambda: wrap(held)], workers=1)
    with pytest.raises(ConfigError, match="need functions"):
        WorkerVectorEnv([wrap(CountingEnv())], workers=1)
    with pytest.raises(ConfigError, match="lanes must have one spec"):
        WorkerVectorEnv([troubled(), troubled(action="box")], workers=2)
    with pytest.raises(EnvError, match=r"worker 0 \(lane 0\) died: exit code 1"):
        WorkerVectorEnv([exit_at_once], workers=1)
    assert multiprocessing.active_children() == []


def exit_at_once():
    sys.exit("no licence")


def test_actions_are_checked_before_they_are_sent(workers):
    env = workers([troubled()] * 2)
    env.step(np.full((2, 5), np.nan))  # resets ignore actions
    with pytest.raises(EnvError, match=r"not finite.*\n.*lane 1"):
        env.step(np.stack([ACTION, np.full(5, np.nan)]))
    with pytest.raises(EnvError, match=r"expected actions of shape \(2, 5\)"):
        env.step(np.zeros((1, 5)))
    with pytest.raises(EnvError, match="without send"):
        env.receive()
    env.send(actions(2))
    with pytest.raises(EnvError, match="twice"):
        env.send(actions(2))
    assert env.receive().obs["state"][:, 1].tolist() == [1, 1]  # none of that was a step
    env.close()
    with pytest.raises(EnvError, match="closed"):
        env.step(actions(2))


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("raise", r"ZeroDivisionError: the physics.*\nin lane 1"),
        ("kill", "worker 1 .lane 1. died: by signal SIGKILL"),
        ("exit", "worker 1 .lane 1. died: exit code 7"),
        ("hang", "worker 1 .lane 1. hangs: no answer within"),
    ],
)
def test_a_worker_that_fails_is_started_again_and_its_episode_ends_there(workers, tmp_path, caplog, trouble, says):
    calm = troubled(truncate_at=12)
    once = troubled(trouble=trouble, at=5, once=str(tmp_path / "once"), truncate_at=12)
    env = workers([calm, once], workers=2, timeout=4 if trouble == "hang" else 60)
    seen = run(env, 22)
    assert seen["time"][0].tolist() == [*range(13), *range(9)]  # nobody else noticed
    assert seen["time"][1].tolist() == [*range(5), *range(13), *range(4)]
    assert np.flatnonzero(seen["is_first"][1]).tolist() == [0, 5, 18]
    assert np.flatnonzero(seen["is_last"][1]).tolist() == [17] and not seen["is_terminal"].any()
    assert seen["reward"][1].tolist() == seen["time"][1].tolist()
    assert [lane["episode"] for lane in env.state()["lanes"]] == [1, 2] and env.restarts == 1
    assert re.search(says, caplog.text, re.DOTALL) and "starting it again (1 of 3 in a row)" in caplog.text


def test_one_that_always_fails_stops_with_its_own_traceback(workers):
    env = workers([troubled(trouble="raise", at=2)], max_restarts=2)
    with pytest.raises(EnvError) as caught:
        run(env, 20)
    text = str(caught.value)
    assert "ZeroDivisionError: the physics of this task divided by zero" in text and "troubled.py" in text
    assert "in lane 0" in text and "2 restarts in a row did not help (env.max_restarts)" in text
    assert env.restarts == 2 and multiprocessing.active_children() == []


def test_finished_episodes_forgive_failures(workers):
    """An episode of 4 steps is finished between two failures, so they never are two in a row."""
    env = workers([troubled(trouble="raise", at=3)], max_restarts=1)
    run(env, 4)  # the first failure, and its restart
    with pytest.raises(EnvError, match="1 restarts in a row"):
        run(env, 4)
    forgiving = workers([troubled(truncate_at=2), troubled(trouble="raise", at=3)], max_restarts=1)
    run(forgiving, 40)
    assert forgiving.restarts > 2


def test_a_worker_that_dies_while_idle_or_drawing(workers):
    env = workers([troubled()] * 2, workers=2)
    run(env, 3)
    os.kill(env._workers[0].process.pid, signal.SIGKILL)
    assert run(env, 2)["time"].tolist() == [[0, 1], [3, 4]]
    os.kill(env._workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(EnvError, match=r"lane 1 could not be drawn.*SIGKILL"):
        env.render(1)
    assert run(env, 1)["time"].tolist() == [[2], [0]]
    os.kill(env._workers[0].process.pid, signal.SIGKILL)
    assert env.reset_lane(0).is_first and run(env, 1)["time"].tolist() == [[1], [1]]


def test_lanes_beside_one_that_is_reset_begin_anew_where_their_worker_fails(workers):
    env = workers([troubled()] * 2)
    run(env, 3)
    os.kill(env._workers[0].process.pid, signal.SIGKILL)
    assert env.reset_lane(0).is_first and env.reset_mask.tolist() == [False, True]
    assert run(env, 2)["time"].tolist() == [[1, 2], [0, 1]]


def test_ctrl_c_is_the_parents(workers):
    env = workers([troubled()])
    run(env, 2)
    os.kill(env._workers[0].process.pid, signal.SIGINT)
    assert run(env, 2)["time"].tolist() == [[2, 3]] and env.restarts == 0


def test_a_worker_that_is_asked_to_end_in_the_midst_of_a_step_is_not_told_as_its_environments_fault():
    with pytest.raises(worker._Asked) as asked, reporting("step of <Env>"):
        raise worker._Asked(143)
    assert asked.value.code == 143  # multiprocessing ends the process by it, without a traceback


def test_episodes_are_played_again_from_their_seeds(workers):
    make = [troubled(truncate_at=6)] * 3
    straight, first = workers(make, workers=2), workers(make, workers=2)
    before = [straight.step(actions(3)) for _ in range(10)]
    for _ in range(10):
        first.step(actions(3))
    state = first.state()
    first.close()
    again = workers(make, workers=1)  # another number of processes makes no difference
    steps = state["lanes"][0]["steps"]
    found = again.restore(state, [actions(steps), actions(steps), None])
    np.testing.assert_array_equal(found[0].obs["state"], before[-1].obs["state"][0])
    assert found[2] is None and again.reset_mask.tolist() == [False, False, True]
    assert_same_lanes(straight.step(actions(3)), again.step(actions(3)), [0, 1])
    assert again.agent_steps == straight.agent_steps - 1  # lane 2 was reset instead
    with pytest.raises(EnvError, match=r"had done .* steps"):
        again.restore(state, [actions(1), None, None])


def test_a_worker_that_fails_while_playing_again_leaves_its_lanes_to_be_reset(workers, caplog):
    env = workers([troubled(), troubled(trouble="raise", at=3)], workers=2)
    state = {"seed": 3, "agent_steps": 10, "lanes": [{"episode": 0, "steps": 5, "needs_reset": False}] * 2}
    found = env.restore(state, [actions(5), actions(5)])
    assert found[0].obs["state"][1] == 5 and found[1] is None
    assert env.reset_mask.tolist() == [False, True] and "ZeroDivisionError" in caplog.text
    assert run(env, 1)["time"].tolist() == [[6], [0]]


def assert_same_lanes(left, right, lanes):
    for key in left.obs:
        np.testing.assert_array_equal(left.obs[key][lanes], right.obs[key][lanes])


def test_lanes_advance_between_send_and_receive(workers):
    env = workers([lambda: wrap(Slow())] * 2, workers=2)
    env.step(actions(2))
    start = time.perf_counter()
    for _ in range(10):
        env.send(actions(2))
        time.sleep(0.02)  # learning, say
        env.receive()
    assert time.perf_counter() - start < 0.75 * 10 * (0.02 + 2 * 0.02)


def test_nothing_is_left_behind(tmp_path):
    """Neither after an exception, nor where close was forgotten or comes too late; and nothing is said."""
    gone = (
        "import os; os.unlink('/dev/shm/' + env._memory.name); env._workers[0].process.kill(); env.close(); env.close()"
    )
    at_once = "from jaxdreamer.envs.endings import end_everything; end_everything(); end_everything(); env.close()"
    for ending in ("", "raise SystemExit", "env.close(); env.close()", gone, at_once):
        script = (
            "import numpy as np\n"
            "from tests.envs.host.troubled import troubled\n"
            "from jaxdreamer.envs import WorkerVectorEnv\n"
            "env = WorkerVectorEnv([troubled()] * 2, workers=2)\n"
            "env.step(np.zeros((2, 5)))\n"
            "print([worker.process.pid for worker in env._workers], env._memory.name)\n"
            f"{ending}\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
                              cwd=Path(__file__).parents[3])  # fmt: skip
        assert done.stderr == ""
        pids, name = done.stdout.strip().rsplit("] ", 1)
        assert not [pid for pid in pids[1:].split(", ") if psutil.pid_exists(int(pid))]
        assert not Path("/dev/shm", name).exists()


def test_workers_end_with_a_parent_that_was_killed():
    script = (
        "import os, time, numpy as np\n"
        "from tests.envs.host.troubled import troubled\n"
        "from jaxdreamer.envs import WorkerVectorEnv\n"
        "env = WorkerVectorEnv([troubled()], workers=1)\n"
        "env.step(np.zeros((1, 5)))\n"
        "print(env._workers[0].process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              cwd=Path(__file__).parents[3])  # fmt: skip
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([worker], timeout=20)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_many_starts_and_stops_leave_no_child_and_no_memory():
    before = psutil.Process().num_fds()
    for _ in range(5):
        env = WorkerVectorEnv([troubled()], workers=1)
        env.step(actions(1))
        env.close()
    assert multiprocessing.active_children() == [] and psutil.Process().num_fds() <= before + 2


def test_a_vector_environment_says_once_what_its_workers_log(workers, caplog):
    def make():
        import logging

        logging.getLogger("task").warning("this task is deprecated")
        return wrap(CountingEnv())

    workers([make] * 3, workers=3)
    assert caplog.text.count("this task is deprecated") == 1
    here = LocalVectorEnv([troubled()] * 2)
    assert here.notes == []


def test_spying_tells_the_truth():
    """The test above would pass with a spy that sees nothing: here it is in a process that has jax."""
    import jax  # noqa: F401

    assert Spying().reset()[0][0] > 0
