"""Environments in an interpreter of their own: what they are, what becomes of one that fails, and that nothing is left."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from jaxdreamer import Hooks, evaluate_agent, train_agent
from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig
from jaxdreamer.envs import EnvError, LocalVectorEnv, make_env, make_vector, wrap
from jaxdreamer.envs.interpreter import gym_api, wire
from jaxdreamer.envs.trust import Untrusted
from jaxdreamer.record import metrics
from tests.envs.host.test_vector import assert_same
from tests.envs.interpreter import foreign

ROOT = Path(__file__).resolve().parents[3]
TAG = "JAXDREAMER_TEST_TAG"  # in the environment of everything that a test starts
THERE = [*(ROOT / "jaxdreamer/envs/interpreter").glob("*.py"), ROOT / "jaxdreamer/envs/unity/unity_worker.py"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Tests start in the folder that the module ``foreign`` is imported from, and leave no process."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setenv(TAG, str(tmp_path))
    yield
    assert_nothing_runs(tmp_path)


def workers(folder: Path) -> list[psutil.Process]:
    """What runs in other interpreters for the test of this folder, and what that started."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(TAG) == str(folder) and process.pid != os.getpid()
            if ours and not any(
                "resource_tracker" in word for word in process.cmdline()
            ):  # multiprocessing's, it stays
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def served(folder: Path) -> list[psutil.Process]:
    return sorted(
        (p for p in workers(folder) if any("gym_worker" in word for word in p.cmdline())), key=lambda p: p.create_time()
    )


def assert_nothing_runs(folder: Path, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while workers(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert not workers(folder), [process.cmdline() for process in workers(folder)]


def there(name: str, **settings) -> EnvConfig:
    given = {"id": f"foreign:{name}", "python": sys.executable, **settings}
    return configs.replace_env(EnvConfig(image_size=(16, 16), worker_timeout=30), given)


def interpreter(folder: Path, before: str = "", words: str = "") -> str:
    """A program that runs this interpreter, in another environment or with further words."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n{before} exec {sys.executable} {words} "$@"\n')
    path.chmod(0o755)
    return str(path)


def steps(env, count: int) -> list:
    rng = np.random.default_rng(0)
    return [env.step(rng.uniform(-1, 1, (env.num_envs, env.spec.action.size))) for _ in range(count)]


@pytest.fixture
def old_gym(tmp_path):
    """An interpreter in which ``gym`` is that of 2021."""
    (tmp_path / "site").mkdir()
    shutil.copy(Path(__file__).with_name("old_gym.py"), tmp_path / "site" / "gym.py")
    return interpreter(tmp_path, f"PYTHONPATH={tmp_path / 'site'}")


@pytest.mark.parametrize("name", ["dict_dict", "image_offset", "vector_tuple", "Pair"])
def test_entries_are_those_of_this_interpreter(name):
    exclude = {"exclude": ("1.say",)} if name == "Pair" else {}
    config = there(name, **exclude)
    here = LocalVectorEnv([lambda: wrap(getattr(foreign, name)(), configs.replace_env(config, {"python": ""}))], seed=5)
    other = LocalVectorEnv([lambda: make_env(config)], seed=5)
    try:
        assert other.spec == here.spec and (other.frame_rate, other.can_render) == (here.frame_rate, here.can_render)
        assert other.spaces["action"] == here.spaces["action"]
        for one, two in zip(steps(here, 9), steps(other, 9)):  # an end and a reset are among them
            assert_same(one, two)
        np.testing.assert_array_equal(here.render(), other.render())
    finally:
        other.close()


def test_an_old_gym_with_four_values_seeds_and_frames(old_gym):
    config = there("", id="OldCart-v0", python=old_gym)
    env = make_env(config)
    try:
        assert env.frame_rate == 25 and env.can_render
        falls, cut = np.float32([1, 0]), np.float32([0, 1])
        for seed, action, length, terminal in ((12, falls, 7, True), (34, cut, 10, False)):
            entries = [env.reset(seed)]
            while not entries[-1].is_last:
                entries.append(env.step(action))
            assert len(entries) == length + 1 and bool(entries[-1].is_terminal) == terminal
            assert [entry.obs["state"].tolist() for entry in entries] == [[seed, t] for t in range(length + 1)]
        assert env.render().shape == (20, 30, 3) and (env.render() == 10).all()
    finally:
        env.close()
    longer = make_env(configs.replace_env(config, {"time_limit": 6, "action_repeat": 2}))
    longer.reset(0)
    assert [bool(longer.step(cut).is_last) for _ in range(6)] == [False] * 5 + [True]  # not the registered ten
    longer.close()


def test_a_seed_that_goes_nowhere_is_none():
    """As Procgen's, whose ``seed`` takes nothing, below gym's wrapper, whose ``seed`` does."""

    class Inner:
        def seed(self):
            raise AssertionError("nobody calls it")

        def reset(self):
            return "begun"

    class Wrapper(Inner):
        unwrapped = Inner()

        def seed(self, seed=None):
            return self.unwrapped.seed(seed)

    assert not gym_api.has_seed(Wrapper()) and gym_api.begin(Wrapper(), 3, seedable=False) == "begun"
    assert gym_api.has_seed(np.random) and not gym_api.has_seed(object())


def test_a_killed_worker_is_replaced(tmp_path, caplog):
    env = make_vector(there("counting", id="foreign:counting"), 2)
    try:
        steps(env, 3)
        assert len(served(tmp_path)) == 2
        served(tmp_path)[0].kill()
        entries = steps(env, 3)
        assert sorted(np.array([entry.is_first for entry in entries]).sum(0)) == [0, 1] and env.restarts == 1
        lane = int(np.argmax(np.array([entry.is_first for entry in entries]).any(0)))
        assert entries[-1].obs["state"][:, 1].tolist() == ([2, 5] if lane == 0 else [5, 2])
        assert "its worker process ended: by signal SIGKILL" in caplog.text
        assert "starting it again (1 of 3 in a row)" in caplog.text and len(served(tmp_path)) == 2
    finally:
        env.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Troubled", r"(?s)step of .*:Troubled in .* raised, there:.*foreign\.py.*ZeroDivisionError: the physics"),
        ("Leaves", r"(?s)raised, there:.*SystemExit: no licence"),
        ("Exits", r"its worker process ended: exit code 7"),
    ],
)
def test_what_always_fails_stops_with_its_own_traceback(name, says):
    env = make_vector(there(name, max_restarts=1), 1)
    try:
        with pytest.raises(EnvError, match=rf"{says}(?s:.*)1 restarts in a row did not help"):
            steps(env, 20)
    finally:
        env.close()


def test_a_library_that_is_missing_there_is_named_and_ends_no_episode():
    env = make_env(there("Undrawn"))
    env.reset(0)
    with pytest.raises(EnvError, match=r"^render of .* not installed there: No module named 'no_such_library'$"):
        env.render()
    assert not env.step(np.eye(5)[0]).is_last
    env.close()


def test_an_environment_that_hangs_is_ended_with_its_helpers(tmp_path):
    env = make_env(there("Hangs", worker_timeout=3))
    env.reset(0)
    with pytest.raises(EnvError, match="no answer within 3 s"):
        for _ in range(3):
            env.step(np.eye(5)[0])
    assert_nothing_runs(tmp_path, seconds=1)
    env.close()


def test_interpreters_and_ids_that_cannot_be(tmp_path, monkeypatch):
    def refused(message, **settings):
        with pytest.raises(ConfigError, match=message):
            make_env(there("counting", **settings))

    refused(r"env\.python: '.*nothing' cannot be started", python=str(tmp_path / "nothing"))
    refused(r"env\.python: '/bin/true' does not answer as Python 3\.8 or later.*exit code 0", python="/bin/true")
    refused(r"does not answer as Python", python="/bin/cat")
    (tmp_path / "site").mkdir()
    for name in ("gym", "gymnasium"):
        (tmp_path / "site" / f"{name}.py").write_text(f"raise ImportError('no {name}')")
    bare = interpreter(tmp_path, words="-S -s")
    refused(rf"env\.python: .* cannot import numpy(?s:.*)\n{bare} -m pip install numpy gymnasium$", python=bare)
    without = interpreter(tmp_path, f"PYTHONPATH={tmp_path / 'site'}")
    refused(r"cannot import gymnasium or gym: no gymnasium; no gym\. It needs", python=without, id="CartPole-v1")
    refused(r"gymnasium [\d.]+ knows no 'CartPole-v7' \(did you mean CartPole-v1", id="CartPole-v7")
    refused(r"env\.id: 'no_such:Foo-v0' in .*importing no_such raised ModuleNotFoundError", id="no_such:Foo-v0")
    refused(r"foreign has no function 'nothing'", id="foreign:nothing")
    with pytest.raises(EnvError, match="'Silent' object has no attribute 'observation_space'"):
        make_env(there("Silent"))
    with pytest.raises(ConfigError, match=r"env\.python=.*what make returns runs in this interpreter"):
        make_vector(there("counting"), 1, make=foreign.counting)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    make_env(there("", id="CartPole-v1")).close()  # what leads this interpreter to its libraries is not for another


def test_numbers_of_an_episode_come_across():
    env = LocalVectorEnv([lambda: make_env(there("saying"))], seed=5)
    said = {}
    for _ in range(6):  # an episode lasts four steps at most
        steps(env, 1)
        said = said or env.said
    env.close()
    assert set(said[0]) == {"number", "even"} and said[0]["even"] in (0.0, 100.0)


def test_games_and_their_settings_are_played_here():
    with pytest.raises(ConfigError, match=r"env\.python: ALE/Pong-v5 is one of Atari's games, .*: leave it out"):
        make_env(there("", id="ALE/Pong-v5"))
    with pytest.raises(ConfigError, match=r"env\.noop_max is a setting of Atari's games"):
        make_env(there("counting", noop_max=3))


RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background has it ignored
from jaxdreamer.envs import make_env, make_vector
from tests.envs.interpreter.test_env_python import steps, there
if __name__ == "__main__":
    env = make_vector(there("counting"), 2)
    steps(env, 3)
    print("playing", flush=True)
    while sys.argv[1] != "exit":
        steps(env, 1)
"""


@pytest.mark.parametrize("end", ["exit", "SIGINT", "SIGKILL"])
def test_nothing_is_left_however_a_program_ends(tmp_path, end):
    """Nobody calls close. Signals go to the whole foreground group, as those of a terminal do."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", RUN, end], cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)},
    ) as program:  # fmt: skip
        assert program.stdout.readline() == b"playing\n", program.stderr.read().decode()
        if end.startswith("SIG"):
            assert len(served(tmp_path)) == 2
            os.killpg(program.pid, getattr(signal, end))
        try:
            errors = program.communicate(timeout=60)[1].decode()
        finally:
            program.kill()  # or its pipes keep this test waiting
    assert program.returncode == (0 if end == "exit" else -getattr(signal, end))
    assert errors.strip().splitlines()[-1:] == (["KeyboardInterrupt"] if end == "SIGINT" else [])
    assert_nothing_runs(tmp_path)
    assert list(scratch.iterdir()) == []


def test_a_run_trains_there_outlives_a_death_and_asks_for_trust(tmp_path, old_gym):
    """What was collected is what the old gym returned; a stored run names a program, which needs trust."""
    words = ["env=OldCart-v0", f"python={old_gym}", "num_envs=2", "prefill=40", "pretrain=1", "train_every=20",
             "updates=1", "batch_size=2", "batch_length=5", "log_every=20", "eval_every=0", "eval_episodes=1",
             "capacity=200", "video=false"]  # fmt: skip
    config = configs.preset("dreamer_v2,tiny", *words, "frames=100", "action_repeat=1")
    killed = []

    def kill(*_):
        if not killed:
            killed.append(served(tmp_path)[0])
            killed[0].kill()

    result = train_agent(config, tmp_path / "run", console=Console(file=io.StringIO()), hooks=Hooks(on_log=kill))
    assert result.finished and killed
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert max(row.get("env/restarts", 0) for row in rows) == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["env"]["options"]["python"] == old_gym
    with pytest.raises(Untrusted, match=r"start the program '.*python' \(env\.python\)"):
        evaluate_agent(tmp_path / "run")
    assert len(evaluate_agent(tmp_path / "run", trust=True).returns) == 1


def test_what_runs_in_another_interpreter_is_written_in_python_3_8():
    names = {"wire.py", "worker.py", "gym_api.py", "gym_worker.py", "unity_worker.py"}
    checked = [path for path in THERE if path.name in names]
    assert {path.name for path in checked} == names
    for path in checked:
        tree = ast.parse(path.read_text(), feature_version=(3, 8))
        imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        own = {"wire", "gym_api", "numpy", "mlagents_envs", "google"}
        assert {name.partition(".")[0] for name in imported} <= own | set(sys.stdlib_module_names), path.name


def test_messages_survive_and_nonsense_does_not():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.zeros((0, 2), bool), "c": np.int64(3)}
    stream = io.BytesIO()
    wire.send(stream, {"kind": "steps"}, arrays)
    data = stream.getvalue()
    header, found = wire.receive(io.BytesIO(data))
    assert header == {"kind": "steps"}
    for key, value in arrays.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].dtype == np.asarray(value).dtype and found[key].flags.writeable
    for cut in (0, 3, 10, len(data) - 1):
        with pytest.raises(EOFError):
            wire.receive(io.BytesIO(data[:cut]))
    with pytest.raises(wire.Damaged, match="header"):
        wire.receive(io.BytesIO(b"\xff" * 20))
    for bad in (b'{"arrays": [["a", "object", [1]]]}', b'{"arrays": [["a", "uint8", [-1]]]}',
                b'{"arrays": [["a", "uint8", [9999999, 9999999]]]}'):  # fmt: skip
        with pytest.raises(wire.Damaged, match="array a"):
            wire.receive(io.BytesIO(len(bad).to_bytes(4, "big") + bad + b"0" * 9))


def test_values_survive_packing():
    class Odd:
        def __str__(self):
            return "odd"

    swapped = np.arange(3, dtype=">f4")
    value = {"a": (np.int64(3), [1.5, 2.5], np.float32(np.inf)), 7: {"t": "x", "n": None}, "o": Odd(), "s": swapped}
    arrays: dict = {}
    found = wire.unpack(json.loads(json.dumps(wire.pack(value, arrays))), arrays)
    assert found[7] == {"t": "x", "n": None} and found["o"] == "odd"
    assert type(found["a"][0]) is np.int64 and found["a"][1].tolist() == [1.5, 2.5] and np.isinf(found["a"][2])
    assert found["s"].tolist() == [0, 1, 2] and found["s"].dtype.isnative
