"""The Unity backend against a real peer on the wire, launched by mlagents_envs as a Unity build is."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra
from jaxdreamer.deploy.agent import load_agent
from jaxdreamer.envs import EnvError, SpaceError, make_vector
from jaxdreamer.envs.unity import process as unity_process
from jaxdreamer.envs.unity.view import allow
from jaxdreamer.train.api import train_agent
from jaxdreamer.train.host.loop import HostLoop
from tests.envs.unity.unity_venv import ROOT, log_of, make_player, unity_python
from tests.unity_scene import picture

VECTOR = "VectorSensor_size6"
HYBRID = {"continuous": 2, "branches": [3, 2], "mask": True}
DUO = {"agents": [{"length": 5}, {"length": 3, "interrupted": True}], **HYBRID}


TAG = "JAXDREAMER_TEST_TAG"  # in the environment of everything that a test starts


@pytest.fixture(autouse=True)
def tag(tmp_path, monkeypatch):
    monkeypatch.setenv(TAG, str(tmp_path))


@pytest.fixture
def play(tmp_path):
    """``play(settings={...}, **scene)``: the lanes of a player, and its file; everything is closed at the end."""
    opened = []

    def make(count: int = 1, seed: int = 3, settings: dict | None = None, **scene):
        path = make_player(tmp_path / f"player{len(opened)}", **scene)
        lanes = make_vector(config(path, num_envs=count, **(settings or {})), count, seed)
        opened.append(lanes)
        return lanes, path

    yield make
    for lanes in opened:
        lanes.close()
    assert_nothing_runs(tmp_path)


def config(path: Path | str, **settings) -> EnvConfig:
    given = {"backend": "unity", "unity_file_name": str(path), "unity_python": unity_python(), "image_size": (12, 16),
             "unity_timeout_wait": 30, "unity_no_graphics": False}  # fmt: skip
    return configs.replace_env(EnvConfig(), {**given, **settings})


def processes(folder: Path) -> list[psutil.Process]:
    """What was started in tests that work in ``folder``: workers, players, their helpers."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"].startswith("python") and any(
                str(folder) in word for word in [*process.cmdline(), process.environ().get(TAG, "")]
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


def assert_nothing_runs(folder: Path, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while processes(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes(folder), [process.cmdline() for process in processes(folder)]


def actions(lanes, rng) -> np.ndarray:
    return rng.uniform(-1, 1, (lanes.num_envs, lanes.spec.action.size)).astype(np.float32)


def roll(lanes, calls: int) -> tuple[list, list]:
    """Entries and the actions that led to them."""
    rng = np.random.default_rng(0)
    chosen = [actions(lanes, rng) for _ in range(calls)]
    return [lanes.step(action) for action in chosen], chosen


FLAGS = ("reward", "is_first", "is_last", "is_terminal")


def column(entries, name: str, lane: int) -> list:
    if name in FLAGS:
        return [getattr(entry, name)[lane].item() for entry in entries]
    index = ("agent", "episode", "time").index(name)
    return [int(entry.obs[VECTOR][lane, index]) for entry in entries]


# ---- what is seen, done and stored --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def duo(tmp_path_factory):
    """Twelve entries of the two agents, and what the player wrote down."""
    folder = tmp_path_factory.mktemp("duo")
    path = make_player(folder / "duo", image="png", **DUO)
    settings = {"unity_quality_level": 3, "unity_time_scale": 7.5, "unity_additional_args": ("--extra", "word")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TAG, str(folder))
        lanes = make_vector(config(path, **settings), 1, seed=3)
    assert len(processes(folder)) == 2  # a worker and a player: what is searched for is found while it is there
    entries, chosen = roll(lanes, 12)
    state = lanes.state()
    lanes.close()
    assert_nothing_runs(folder)
    return lanes, entries, chosen, log_of(path), state


def test_the_spec_of_vector_image_and_hybrid_actions(duo):
    lanes = duo[0]
    assert {key: (spec.shape, spec.dtype, spec.kind) for key, spec in lanes.spec.obs.items()} == {
        VECTOR: ((6,), "float32", "vector"),
        "image": ((12, 16, 3), "uint8", "image"),
        "action_mask": ((5,), "float32", "vector"),
    }
    assert [(part.kind, part.size) for part in lanes.spec.action.parts] == [
        ("continuous", 2), ("discrete", 3), ("discrete", 2),
    ]  # fmt: skip
    assert lanes.num_envs == 2 and lanes.can_render and lanes.frame_rate == 10


def test_two_agents_that_end_at_different_times(duo):
    """Agent 0 terminates at 5, agent 1 is interrupted at 3, each while the other goes on."""
    _, entries, _, _, state = duo
    assert [column(entries, "agent", lane) for lane in (0, 1)] == [[0] * 12, [1] * 12]
    # An episode's last entry and the next one's first are one call apart, and the other agent's time goes on in
    # between: an agent's first decision is then answered neutrally, and its episode is seen from time 1.
    assert column(entries, "time", 0) == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1]
    assert column(entries, "time", 1) == [0, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]
    assert column(entries, "episode", 0) == [0] * 6 + [1] * 5 + [2]
    assert column(entries, "episode", 1) == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 2
    for lane, length in ((0, 5), (1, 3)):
        times, episodes = column(entries, "time", lane), column(entries, "episode", lane)
        first = [i == 0 or episodes[i] != episodes[i - 1] for i in range(12)]
        assert column(entries, "is_first", lane) == first
        assert column(entries, "is_last", lane) == [t == length for t in times]
        forbidden = [(entry.obs["action_mask"][lane] == 0).sum() for entry in entries]
        assert forbidden == [t != length for t in times]  # nothing is decided in the last entry
        assert column(entries, "is_terminal", lane) == [t == length and lane == 0 for t in times]
        # Rewards are the agent's own and its group's (0.25 in every message).
        assert column(entries, "reward", lane) == [0 if f else t + 0.25 for t, f in zip(times, first)]
    assert state == {"seed": 3, "agent_steps": 24 - 3 - 4, "lanes": [{}, {}]}


def test_the_image_is_the_one_that_was_sent(duo):
    lanes, entries, *_ = duo
    for entry in entries:
        for lane in (0, 1):
            now = int(entry.obs[VECTOR][lane, 2])
            np.testing.assert_array_equal(entry.obs["image"][lane], picture(lane, now, [12, 16, 3]))
    np.testing.assert_array_equal(lanes.render(1), entries[-1].obs["image"][1])


def test_actions_arrive_and_a_forbidden_choice_never_does(duo):
    """The player ends itself at a forbidden choice; in its place the next allowed one is taken."""
    _, entries, chosen, log, _ = duo
    sent = {(line["agent"], line["episode"], line["time"]): line["action"] for line in log if "action" in line}
    replaced = 0
    for before, entry, action in zip(entries, entries[1:], chosen[1:]):
        for lane in (0, 1):
            if entry.is_first[lane]:
                continue
            _, episode, now = (int(x) for x in before.obs[VECTOR][lane, :3])
            continuous, (first, second) = sent[lane, episode, now]
            np.testing.assert_array_equal(np.float32(continuous), action[lane, :2])
            wanted = int(np.argmax(action[lane, 2:5]))
            allowed = before.obs["action_mask"][lane, :3]
            assert allowed.tolist() == [float(c != now % 3) for c in range(3)]
            assert first == (wanted if allowed[wanted] else (wanted + 1) % 3) and allowed[first]
            assert second == int(np.argmax(action[lane, 5:]))
            replaced += first != wanted
            # The world answers to what it was sent: the observation carries it, as float32.
            np.testing.assert_allclose(entry.obs[VECTOR][lane, 3:], [np.float32(continuous[0]), first, second])
    assert replaced >= 2
    neutral = [sent[key] for key in sent if key[1] > 0 and key[2] == 0]
    assert len(neutral) >= 5 and all(action == [[0.0, 0.0], [1, 0]] for action in neutral)


def test_what_the_player_was_told(duo):
    _, _, _, log, _ = duo
    launch = log[0]
    assert launch["extra"] == "word" and not launch["nographics"] and launch["port"] >= 5005
    assert any(line.get("engine") == {"quality_level": 3, "time_scale": 7.5} for line in log)
    assert log[1]["python_api"] == "1.5.0" and log[1]["seed"] > 0


def test_nothing_of_the_stubs_is_in_this_process(duo):
    assert not {"mlagents_envs", "grpc", "google.protobuf.message"} & {
        name for name in sys.modules if name in ("mlagents_envs", "grpc") or name.startswith("mlagents_envs")
    }


@pytest.mark.parametrize("reuse_ids", [False, True])
def test_agents_that_end_together_lose_nothing(play, reuse_ids):
    pair = [{"length": 2}, {"length": 2}]
    lanes, _ = play(agents=pair, branches=[4], settings={"unity_no_graphics": True}, reuse_ids=reuse_ids)
    entries, _ = roll(lanes, 7)
    for lane in (0, 1):
        assert column(entries, "time", lane) == [0, 1, 2, 0, 1, 2, 0]
        assert column(entries, "episode", lane) == [0, 0, 0, 1, 1, 1, 2]
        assert column(entries, "reward", lane) == [0, 1.25, 2.25, 0, 1.25, 2.25, 0]
    assert list(lanes.spaces["action"].nvec) == [4] and lanes.spec.action.is_discrete
    assert not lanes.can_render


@pytest.mark.parametrize("reuse_ids", [False, True])
def test_an_agent_that_is_away_and_comes_back(play, reuse_ids):
    """Its lane waits with resets; the other's episode is untouched."""
    lanes, _ = play(agents=[{"length": 9}, {"length": 2}], continuous=1, respawn=4, reuse_ids=reuse_ids)
    entries, chosen = roll(lanes, 9)
    assert column(entries, "time", 0) == list(range(9))
    assert column(entries, "episode", 1) == [0] * 6 + [1] * 3
    assert column(entries, "time", 1) == [0, 1, 2, 2, 2, 2, 0, 1, 2]
    assert column(entries, "is_first", 1) == [t in (0, 3, 4, 5, 6) for t in range(9)]
    assert column(entries, "is_last", 1) == [t in (2, 8) for t in range(9)]
    assert [r for r, f in zip(column(entries, "reward", 1), column(entries, "is_first", 1)) if f] == [0] * 5
    np.testing.assert_array_equal(entries[7].obs[VECTOR][1, 3], chosen[7][1, 0])


def test_agents_that_decide_at_different_rates(play):
    """The fast one keeps its action until the slow one decides; its rewards add up, its end is not missed."""
    lanes, path = play(agents=[{"length": 7}, {"length": 0, "period": 3}], continuous=1)
    entries, chosen = roll(lanes, 4)
    assert column(entries, "time", 1) == [0, 1, 2, 3]
    assert column(entries, "time", 0) == [0, 3, 6, 7]
    assert column(entries, "reward", 0) == [0, 1 + 2 + 3 + 0.75, 4 + 5 + 6 + 0.75, 7.25]
    assert column(entries, "is_last", 0) == [False, False, False, True]
    sent = [line["action"][0][0] for line in log_of(path) if line.get("agent") == 0]
    np.testing.assert_array_equal(np.float32(sent[:6]), np.repeat([c[0, 0] for c in chosen[1:3]], 3))


def test_an_action_is_counted_from_when_it_could_be_taken(play):
    """Of agents that decide every 3 and every 4 ticks one is ahead at times: it decides out of turn, with its old action."""
    lanes, _ = play(agents=[{"length": 0, "period": 3}, {"length": 0, "period": 4}], continuous=1)
    entries, chosen = roll(lanes, 6)
    for entry, action in zip(entries[1:], chosen[1:]):
        np.testing.assert_array_equal(entry.obs[VECTOR][:, 3], action[:, 0])
    paid = [np.cumsum([0.25 + t for t in range(1, 20)]) for _ in range(2)]
    for lane in (0, 1):  # nothing is lost on the way
        total, now = sum(column(entries, "reward", lane)), column(entries, "time", lane)[-1]
        assert total == paid[lane][now - 1]


def test_a_time_limit_cuts_and_begins_anew_where_it_can(play):
    lanes, _ = play(agents=[{"length": 0}], continuous=1, settings={"time_limit": 3})
    entries, _ = roll(lanes, 9)
    assert column(entries, "time", 0) == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert column(entries, "is_last", 0) == [t == 3 for t in column(entries, "time", 0)]
    assert column(entries, "is_first", 0) == [t == 0 for t in column(entries, "time", 0)]
    assert not any(column(entries, "is_terminal", 0))
    both, _ = play(agents=[{"length": 3}, {"length": 0}], continuous=1, settings={"time_limit": 4})
    entries, _ = roll(both, 8)
    # The other agent is in mid-episode: the one that was cut goes on, in another episode.
    assert column(entries, "time", 1) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert column(entries, "is_last", 1) == [t == 4 for t in range(8)]
    assert column(entries, "is_first", 1) == [t in (0, 5) for t in range(8)]


def test_resetting_one_lane(play):
    alone, _ = play(agents=[{"length": 3}], continuous=1)
    assert alone.reset_lane(0).obs[VECTOR][2] == 0
    roll(alone, 2)
    entry = alone.reset_lane(0)
    assert entry.is_first and entry.obs[VECTOR][2] == 0 and entry.obs[VECTOR].shape == (6,)
    entries, _ = roll(alone, 4)
    assert column(entries, "time", 0) == [1, 2, 3, 0] and column(entries, "is_last", 0) == [False, False, True, False]
    two, _ = play(agents=[{"length": 3}, {"length": 0}], continuous=1, respawn=2)
    first, _ = roll(two, 4)
    assert column(first, "is_last", 0)[-1]
    entry = two.reset_lane(0)  # time passes until its agent is there again
    assert entry.is_first and entry.obs[VECTOR][:3].tolist() == [0, 1, 0]
    entries, _ = roll(two, 2)
    assert column(entries, "time", 0) == [1, 2] and column(entries, "time", 1) == [6, 7]
    with pytest.raises(EnvError, match="2 lanes"):
        two.reset_lane(2)


def test_action_repeat(play):
    lanes, path = play(agents=[{"length": 5}, {"length": 0}], continuous=1, settings={"action_repeat": 2})
    entries, chosen = roll(lanes, 4)
    assert column(entries, "time", 0) == [0, 2, 4, 5] and column(entries, "time", 1) == [0, 2, 4, 6]
    assert column(entries, "reward", 0) == [0, 3.5, 7.5, 5.25]
    assert column(entries, "is_terminal", 0) == [False, False, False, True]
    assert lanes.agent_steps == 6 and lanes.frame_rate == 5
    sent = [line["action"][0][0] for line in log_of(path) if line.get("agent") == 1]
    np.testing.assert_array_equal(np.float32(sent), np.repeat([c[1, 0] for c in chosen[1:]], 2))


def test_float_images_with_channels_first_and_only_pixels(play):
    lanes, _ = play(
        agents=[{"length": 0}], branches=[2], image="float", channels_first=True,
        settings={"obs": "pixels", "exclude": ("action_mask",)},
    )  # fmt: skip
    entries, _ = roll(lanes, 3)
    assert list(lanes.spec.obs) == ["image"]
    for now, entry in enumerate(entries):
        np.testing.assert_array_equal(entry.obs["image"][0], picture(0, now, [12, 16, 3]))


def test_images_are_resized(play):
    lanes, _ = play(
        agents=[{"length": 0}], continuous=1, image="png", settings={"image_size": (6, 8), "exclude": ("Vec*",)}
    )
    entries, _ = roll(lanes, 1)
    assert list(lanes.spec.obs) == ["image"]
    blocks = picture(0, 0, [12, 16, 3]).reshape(6, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(entries[0].obs["image"][0] - blocks).max() <= 1


# ---- ports and processes ------------------------------------------------------------------------------------------


def test_players_side_by_side_where_the_port_is_taken(play):
    with socket.socket() as taken, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        base = taken.getsockname()[1] - 2  # worker ids count from there
        with contextlib.suppress(OSError):  # held by another program, which serves as well
            held.bind(("127.0.0.1", base + 3))  # as by another of our workers, just before its server listens
        lanes, path = play(count=2, settings={"unity_base_port": base, "unity_worker_id": 2}, **DUO)
    ports = [line["port"] for line in log_of(path) if "port" in line]
    assert len(set(ports)) == 2 and min(ports) > base + 3
    assert lanes.num_envs == 4
    entries, _ = roll(lanes, 6)
    for lane in (0, 2):
        assert column(entries, "time", lane) == [0, 1, 2, 3, 4, 5]
        assert column(entries, "time", lane + 1) == [0, 1, 2, 3, 1, 2]
    seeds = {line["seed"] for line in log_of(path) if "seed" in line}
    assert len(seeds) == 2


def test_closing_and_starting_again_at_once(play):
    for _ in range(2):
        lanes, path = play(agents=[{"length": 0}], continuous=1)
        roll(lanes, 2)
        logs = lanes.players[0]._process.log_folder
        assert (logs / "worker-0.log").exists()
        lanes.close()
        lanes.close()
        assert not logs.exists()
        assert log_of(path)[0]["port"] >= 5005


def test_the_editor_is_shared_by_a_run_and_its_evaluations(tmp_path):
    """It is not started by us, and connects to one port only; a second user borrows it, and the first begins anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = make_player(tmp_path / "editor", agents=[{"length": 5}, {"length": 0}], continuous=1)
    with subprocess.Popen([f"{path}.x86_64", "--mlagents-port", str(port)]) as editor:
        lanes = make_vector(config("", unity_base_port=port), 1, 0)
        try:
            entries, _ = roll(lanes, 4)
            borrowed = make_vector(config("", unity_base_port=port), 1, 1)
            others, _ = roll(borrowed, 3)
            assert column(others, "time", 0) == [0, 1, 2] and column(others, "episode", 0) == [1, 1, 1]
            borrowed.close()
            borrowed.close()
            more, _ = roll(lanes, 3)
            assert column(entries, "time", 1) == [0, 1, 2, 3] and column(more, "time", 1) == [0, 1, 2]
            assert column(more, "is_first", 0) == [True, False, False] and column(more, "episode", 0) == [2, 2, 2]
            assert not column(entries, "is_last", 0)[-1]
        finally:
            lanes.close()
        assert editor.wait(10) == 0  # told to end, as it ended by itself
    assert not [line for line in log_of(path) if line.get("nographics")]


def test_helpers_of_a_player_end_with_it(play, tmp_path):
    lanes, path = play(agents=[{"length": 0}], continuous=1, fault={"kind": "spawn", "at": 2})
    roll(lanes, 4)
    player = psutil.Process(log_of(path)[0]["launch"])
    helpers = player.children()
    assert len(helpers) == 1 and "jaxdreamer-test-helper" in helpers[0].cmdline()
    lanes.close()
    assert psutil.wait_procs([player, *helpers], timeout=5)[1] == []


@pytest.mark.parametrize("kind", ["kill", "hang", "raise", "nan"])
def test_a_player_that_fails_in_mid_run_is_replaced(play, caplog, kind):
    settings = {"unity_timeout_wait": 2} if kind == "hang" else {}
    lanes, path = play(fault={"kind": kind, "at": 4}, settings=settings, **{**DUO, "agents": [{"length": 6}] * 2})
    entries, _ = roll(lanes, 9)
    launches = [line for line in log_of(path) if "launch" in line]
    assert len(launches) == 2
    # Three good exchanges after the first; then a reset that no end came before, and whole episodes again.
    cut = 3 if kind != "nan" else 4
    for lane in (0, 1):
        assert column(entries, "time", lane) == [*range(cut), *range(9 - cut)][:9]
        assert column(entries, "is_first", lane) == [i in (0, cut) for i in range(9)]
        assert not any(column(entries, "is_last", lane)[: cut + 1])
    told = {
        "kill": "exit code -9",
        "hang": "did not answer within 2 s",
        "raise": "the scene's own trouble",
        "nan": "NaN",
    }
    assert told[kind] in caplog.text and "starting it again (1 of at most 5 times)" in caplog.text
    assert not psutil.pid_exists(launches[0]["launch"])


def test_a_worker_that_is_killed_is_replaced_and_its_player_ended(play, caplog):
    lanes, path = play(agents=[{"length": 0}], continuous=1)
    roll(lanes, 3)
    first = psutil.Process(log_of(path)[0]["launch"])
    worker = first.parent()
    worker.kill()
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    entries, _ = roll(lanes, 3)
    assert column(entries, "is_first", 0) == [True, False, False] and column(entries, "time", 0) == [0, 1, 2]
    assert psutil.wait_procs([first], timeout=5)[1] == []
    assert "worker process" in caplog.text and sum("launch" in line for line in log_of(path)) == 2


def test_a_worker_that_is_killed_while_its_player_hangs(play):
    """Nobody is left to tell the player, so it is ended by its number."""
    lanes, path = play(agents=[{"length": 0}], continuous=1, fault={"kind": "hang", "at": 3})
    player = psutil.Process(log_of(path)[0]["launch"])
    timer = threading.Timer(0.5, player.parent().kill)
    timer.start()
    entries, _ = roll(lanes, 5)
    timer.join()
    assert column(entries, "time", 0) == [0, 1, 0, 1, 2] and psutil.wait_procs([player], timeout=5)[1] == []


def test_restarts_are_bounded(play):
    lanes, path = play(
        agents=[{"length": 0}], continuous=1, fault={"kind": "kill", "at": 2, "launches": 99},
        settings={"unity_max_restarts": 2},
    )  # fmt: skip
    with pytest.raises(
        EnvError, match=r"(?s)exit code -9.*about to kill.*started again 2 times, env.unity_max_restarts"
    ):
        roll(lanes, 9)
    assert sum("launch" in line for line in log_of(path)) == 3


def start(path: Path, **settings) -> None:
    make_vector(config(path, **settings), 1, 0).close()


@pytest.mark.parametrize("at", [0, "hello"])
def test_a_player_that_never_connects(tmp_path, at):
    """Or says one word and then nothing."""
    path = make_player(tmp_path / "mute", agents=[{"length": 0}], continuous=1, fault={"kind": "silent", "at": at})
    began = time.monotonic()
    with pytest.raises(EnvError) as caught:
        start(path, unity_timeout_wait=2)
    assert time.monotonic() - began < 2 + 5
    message = str(caught.value)
    assert "did not connect within 2 s" in message and "player: about to silent" in message
    assert "player: the scene is loaded" in message  # of the player's own log file
    assert "Behavior Type must be Default" in message and "unity_timeout_wait, now 2 s" in message
    assert "xvfb-run" in message
    assert_nothing_runs(tmp_path)


def test_a_player_that_ends_at_once(tmp_path):
    path = make_player(tmp_path / "brief", agents=[{"length": 0}], continuous=1, fault={"kind": "exit"})
    began = time.monotonic()
    with pytest.raises(EnvError, match=r"(?s)return code 3.*\nexit code 3.*player: about to exit.*known causes"):
        start(path)
    assert time.monotonic() - began < 10  # not the 30 s it has to connect


def test_another_version_of_the_protocol(tmp_path):
    path = make_player(tmp_path / "old", agents=[{"length": 0}], continuous=1, api="0.15.0")
    with pytest.raises(EnvError) as caught:
        start(path)
    assert all(part in str(caught.value) for part in ("1.5.0", "0.15.0", "com.unity.ml-agents", "env.unity_python"))
    assert_nothing_runs(tmp_path)


def test_logs_are_kept_where_a_folder_is_given(tmp_path):
    path = make_player(tmp_path / "logged", agents=[{"length": 0}], continuous=1)
    start(path, unity_log_folder=str(tmp_path / "logs"), unity_worker_id=4)
    logs = {file.name: file.read_text() for file in (tmp_path / "logs").iterdir()}
    assert logs.keys() == {"worker-4.log", "Player-4.log"} and "the scene is loaded" in logs["Player-4.log"]


RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs tests in the background has it ignored
from jaxdreamer.envs import make_vector
from tests.envs.unity.test_unity_env import config, roll
lanes = make_vector(config(sys.argv[1]), 1, 0)
roll(lanes, 3)
print("playing", flush=True)
if sys.argv[2] == "exception":
    raise RuntimeError("of the program itself")
while sys.argv[2] != "exit":
    roll(lanes, 1)
"""


@pytest.mark.parametrize("end", ["exit", "exception", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_however_a_program_ends(tmp_path, end):
    """Nobody calls close. Signals go to the whole foreground group, as those of a terminal do."""
    path = make_player(tmp_path / "player", agents=[{"length": 0}], continuous=1)
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), end], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as program:  # fmt: skip
        assert program.stdout.readline() == b"playing\n", program.stderr.read().decode()
        if end.startswith("SIG"):
            assert len(processes(tmp_path)) == 3
            os.killpg(program.pid, getattr(signal, end))
        try:
            errors = program.communicate(timeout=60)[1].decode()
        finally:
            program.kill()  # or its pipes keep this test waiting
    code = program.returncode
    assert code == {"exit": 0, "exception": 1}.get(end, -getattr(signal, end, 0))
    last = {"exit": "", "exception": "RuntimeError: of the program itself", "SIGINT": "KeyboardInterrupt"}.get(end, "")
    assert errors.strip().splitlines()[-1:] == ([last] if last else [])
    assert_nothing_runs(tmp_path)


def test_ctrl_c_while_a_player_does_not_connect(tmp_path):
    path = make_player(tmp_path / "mute", agents=[{"length": 0}], continuous=1, fault={"kind": "silent"})
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), "SIGINT"], cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as program:  # fmt: skip
        end = time.monotonic() + 60
        while not log_of(path):
            assert program.poll() is None and time.monotonic() < end, program.stderr.read().decode()
            time.sleep(0.1)
        began = time.monotonic()
        os.killpg(program.pid, signal.SIGINT)
        assert program.stderr.read().decode().strip().endswith("KeyboardInterrupt")
        assert time.monotonic() - began < 20  # of the 30 s that the player has
    assert_nothing_runs(tmp_path)


def test_where_one_of_several_players_fails_the_others_are_ended(tmp_path):
    path = make_player(tmp_path / "pair", agents=[{"length": 0}], continuous=1, fault={"kind": "exit", "launches": 1})
    with pytest.raises(EnvError, match="exit code 3"):
        make_vector(config(path, num_envs=2), 2, 0)
    assert sum("launch" in line for line in log_of(path)) == 2
    assert_nothing_runs(tmp_path)


# ---- whole runs ---------------------------------------------------------------------------------------------------

BRIEF = ["env.backend=unity", "prefill=20", "pretrain=1", "train_every=10", "updates=1", "eval_every=0", "eval_episodes=3",
         "batch_size=2", "batch_length=4", "capacity=1000", "imagine_horizon=3", "log_every=20"]  # fmt: skip


def brief(path: Path, *words: str) -> configs.Config:
    place = [f"unity_file_name={path}", f"unity_python={unity_python()}", "unity_timeout_wait=30"]
    return configs.preset("dreamer_v2,tiny", *BRIEF, *place, "action_repeat=1", *words)


def test_a_run_outlives_its_player_and_is_resumed_with_another(tmp_path, monkeypatch, caplog):
    path = make_player(
        tmp_path / "player", agents=[{"length": 6}, {"length": 4, "interrupted": True}], continuous=1,
        fault={"kind": "kill", "at": 12},
    )  # fmt: skip
    trainers = []

    class Watched(HostLoop):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            trainers.append(self)

    monkeypatch.setattr("jaxdreamer.train.host.world.HostLoop", Watched)
    quiet = Console(file=io.StringIO())
    result = train_agent(brief(path, "frames=60"), tmp_path / "run", console=quiet)
    assert result.finished and len(result.evaluation.returns) == 3
    # An evaluation's episodes are those of two agents dealt out beforehand, without the first decision of some.
    assert set(result.evaluation.lengths) <= {6, 5, 4, 3} and "exit code -9" in caplog.text
    rows = trainers[0].replay.read_rows(0, trainers[0].replay.total)
    assert check_rows(rows, {0: (6, True), 1: (4, False)}) == 2
    steps = trainers[0].tally.agent_steps
    assert trainers[0].position == 60 and steps == (~rows["is_first"]).sum() and trainers[0].updates == 1 + 4

    with pytest.raises(ConfigError, match="unity_time_scale"):
        train_agent(brief(path, "frames=80", "unity_time_scale=1"), tmp_path / "run", console=quiet)
    again = train_agent(brief(path, "frames=80", "unity_base_port=6005"), tmp_path / "run", console=quiet)
    assert again.finished and "could not be brought back" in caplog.text
    later = trainers[-1].replay.read_rows(0, trainers[-1].replay.total)
    assert check_rows(later, {0: (6, True), 1: (4, False)}) in (3, 4)
    assert trainers[-1].position == 80 and trainers[-1].tally.agent_steps == (~later["is_first"]).sum()
    np.testing.assert_array_equal(later["reward"][: len(rows["reward"])], rows["reward"])
    # Without a player, the agent takes what mlagents_envs gives and gives what it takes.
    agent = load_agent(tmp_path / "run")
    action = agent.act({VECTOR: np.zeros(6)})
    assert action.shape == (1,) and action.dtype == np.float32 and agent.action_space.contains(action)
    assert [line["port"] >= 6005 for line in log_of(path) if "launch" in line] == [False] * 3 + [True] * 2
    assert_nothing_runs(tmp_path)


def check_rows(rows, ends) -> int:
    """Stored episodes are whole, nothing crosses from one to the next, and each entry has the action that led there.

    Returns how many episodes were cut.
    """
    cuts = 0
    for lane, (length, terminal) in ends.items():
        agent, episode, time, acted = (rows[f"obs/{VECTOR}"][:, lane, i] for i in range(4))
        first, last = rows["is_first"][:, lane], rows["is_last"][:, lane]
        assert (agent == lane).all() and not (last[:-1] & ~first[1:]).any() and (first[1:] == last[:-1]).all()
        inside = ~first[1:]
        np.testing.assert_array_equal(episode[1:][inside], episode[:-1][inside])
        np.testing.assert_array_equal(time[1:][inside], time[:-1][inside] + 1)
        np.testing.assert_array_equal(rows["reward"][:, lane], np.where(first, 0, time + 0.25))
        np.testing.assert_array_equal(rows["action"][~first, lane, 0], acted[~first])
        assert (time[first] <= 1).all() and not rows["action"][first, lane].any()
        np.testing.assert_array_equal(rows["is_terminal"][:, lane], last & (time == length) & terminal)
        assert (last & (time == length)).sum() >= 3
        cuts += (last & (time != length)).sum()
    return cuts


def test_interrupting_a_run_leaves_nothing(tmp_path):
    path = make_player(tmp_path / "player", agents=[{"length": 0}], continuous=1)
    words = [*BRIEF, f"unity_file_name={path}", f"unity_python={unity_python()}", "prefill=10_000_000", "log_every=5"]
    with subprocess.Popen(
        [sys.executable, "-m", "jaxdreamer", "train", "--preset", "dreamer_v2,tiny", *words, "--logdir", "run"],
        cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as run:  # fmt: skip
        end = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").read_text():
            assert run.poll() is None and time.monotonic() < end, run.stderr.read().decode()
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(30) == 130, run.stderr.read().decode()
    assert_nothing_runs(tmp_path)


# ---- refused ------------------------------------------------------------------------------------------------------


def test_images_without_graphics_are_refused_before_they_are_black(tmp_path):
    path = make_player(tmp_path / "seeing", agents=[{"length": 0}], continuous=1, image="png")
    with pytest.raises(SpaceError, match=r"CameraSensor.*unity_no_graphics=false.*xvfb-run.*env.exclude=image"):
        start(path, unity_no_graphics=True)
    assert_nothing_runs(tmp_path)


def test_a_camera_that_shows_one_colour_is_an_error(play):
    lanes, _ = play(agents=[{"length": 0}], continuous=1, image="float", blank=True)
    with pytest.raises(EnvError, match="image showed one colour only in the first 10 steps"):
        roll(lanes, 11)
    assert lanes.agent_steps == 9


def test_settings_that_cannot_be(tmp_path, monkeypatch):
    path = make_player(tmp_path / "player", agents=[{"length": 0}], continuous=1)
    with pytest.raises(ConfigError, match="no behaviour 'Trio'; it has: Duo"):
        start(path, unity_behavior_name="Trio")
    with pytest.raises(SpaceError, match=r"env\.obs=pixels"):
        start(path, obs="pixels")
    with pytest.raises(EnvError, match="Couldn't launch"):
        start(tmp_path / "missing")
    with pytest.raises(ConfigError, match="cannot be started"):
        start(path, unity_python=str(tmp_path / "python"))
    with pytest.raises(ConfigError, match="one Unity Editor"):
        make_vector(config("", num_envs=2), 2, 0)


def test_an_interpreter_without_the_library(tmp_path, monkeypatch):
    """Stand-ins for what is installed wrongly, found by this interpreter before whatever it has."""
    path = make_player(tmp_path / "player", agents=[{"length": 0}], continuous=1)
    (tmp_path / "google" / "protobuf").mkdir(parents=True)
    version = tmp_path / "google" / "protobuf" / "__init__.py"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    version.write_text("__version__ = '7.36.2'")
    with pytest.raises(
        MissingExtra, match=r"(?s)needs? protobuf 3.20, .* has 7.36.2.*pip install 'jaxdreamer\[unity\]'$"
    ):
        start(path, unity_python="")
    version.write_text("__version__ = '3.20.3'")
    (tmp_path / "mlagents_envs.py").write_text("raise ImportError('no such thing')")
    with pytest.raises(MissingExtra, match=r"(?s)no such thing.*unity-venv/bin/pip install 'mlagents-envs==0.28.0'"):
        start(path, unity_python="")
    start(path)  # another interpreter is not led astray by what is meant for this one
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -s "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(MissingExtra, match="cannot import numpy"):
        start(path, unity_python=str(bare))


def test_the_extra_is_what_is_advised():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {item.partition(";")[0] for item in project["optional-dependencies"]["unity"]}
    assert {*extra, "numpy>=2"} == set(shlex.split(unity_process.REQUIREMENTS)) and "numpy>=2" in project[
        "dependencies"
    ]


# ---- pieces -------------------------------------------------------------------------------------------------------


def test_masks():
    branches = (3, 2)
    for code in range(1, 2**5):
        allowed = np.array([code >> i & 1 for i in range(5)], bool)
        for first in range(3):
            for second in range(2):
                wanted = np.array([first, second], np.int32)
                if not (allowed[:3].any() and allowed[3:].any()):
                    with pytest.raises(EnvError, match="forbids every choice"):
                        allow(wanted, allowed, branches)
                    continue
                found = allow(wanted, allowed, branches)
                assert allowed[found[0]] and allowed[3 + found[1]] and found.dtype == np.int32
                assert found[0] == next(c % 3 for c in range(first, first + 3) if allowed[c % 3])
                assert wanted.tolist() == [first, second]
