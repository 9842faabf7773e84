"""Whole runs: what is stored, counted, logged and saved, and that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer import families
from jaxdreamer.config import ConfigError
from jaxdreamer.envs import backends, make_env, make_vector, register
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.gymnasium_env import wrap
from jaxdreamer.envs.host.vector import LocalVectorEnv
from jaxdreamer.errors import MissingExtra
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.replay import disk
from jaxdreamer.replay.host import HostReplay
from jaxdreamer.train.api import evaluate_agent, train_agent
from jaxdreamer.train.folder import load_run
from jaxdreamer.train.hooks import Hooks
from jaxdreamer.train.host.loop import HostLoop
from jaxdreamer.train.telemetry import Diverged
from tests.envs.toy import CountingEnv
from tests.replay.feed import content_hash

TINY = ["prefill=40", "pretrain=2", "train_every=10", "updates=2", "updates_per_call=2", "eval_every=0", "log_every=50",
        "eval_episodes=3", "checkpoint_every=500", "video=false", "capacity=2000", "action_repeat=1"]  # fmt: skip


def tiny(*overrides: str, preset: str = "dreamer_v1,tiny") -> configs.Config:
    return configs.preset(preset, *TINY, *overrides)


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def make_trainer(start_host):
    """A trainer on counting environments, which are its ``raw``."""

    def make(config, **env) -> HostLoop:
        envs = [CountingEnv(**env) for _ in range(config.env.num_envs)]

        def make_envs(lanes, seed):
            return LocalVectorEnv([wrap(CountingEnv(**env), config.env) for _ in range(lanes)], seed=seed)

        vector = LocalVectorEnv([wrap(item, config.env) for item in envs], seed=config.seed)
        trainer = start_host(config, vector, make_envs)
        trainer.raw = envs
        return trainer

    return make


def test_final_observations_are_stored_and_resets_are_entries_of_their_own(make_trainer):
    trainer = make_trainer(tiny("frames=39"), terminate_at=4, truncate_at=0)
    trainer.run()
    rows = trainer.replay.read_rows(0, trainer.replay.total)
    times = rows["obs/state"][:, 0, 1]
    np.testing.assert_array_equal(times[:10], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows["reward"][:10, 0], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(rows["is_last"][:, 0], times == 4)
    np.testing.assert_array_equal(rows["is_terminal"][:, 0], times == 4)
    np.testing.assert_array_equal(rows["is_first"][:, 0], times == 0)
    assert not rows["action"][times == 0].any()
    # The action of an entry is the one that led to it: a one-hot choice, whose index sum the environment reported.
    acted = rows["obs/state"][:, 0, 2]
    np.testing.assert_array_equal(acted[times > 0], rows["action"][times[:] > 0, 0].sum(-1))


def test_an_episode_that_breaks_off_is_closed_at_its_last_entry(make_trainer):
    trainer = make_trainer(tiny("frames=30", "num_envs=2"), terminate_at=8, truncate_at=0)
    for _ in range(4):
        trainer.step()
    trainer.envs.abandon(1)  # as where a simulator died and another took its place
    for _ in range(3):
        trainer.step()
    rows = trainer.replay.read_rows(0, trainer.replay.total)
    assert rows["is_first"].T.astype(int).tolist() == [[1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, 0]]
    assert rows["is_last"].T.astype(int).tolist() == [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]]
    assert not rows["is_terminal"].any()


def test_a_backend_may_bring_its_own_lanes(tmp_path):
    """Two agents an environment: replay, training and evaluation follow the number of lanes there are."""
    made = []

    def make_lanes(config, count, seed):
        made.append(LocalVectorEnv([wrap(CountingEnv(truncate_at=4), config) for _ in range(2 * count)], seed=seed))
        return made[-1]

    register("pairs", make_lanes, kind="lanes")
    try:
        config = tiny("frames=60", "num_envs=2", "backend=pairs", "eval_episodes=3", "batch_length=4")
        result = train_agent(config, tmp_path / "run", console=quiet())
        again = evaluate_agent(tmp_path / "run")
        with pytest.raises(ConfigError, match="brings its own lanes: use make_vector"):
            make_env(config.env)
        assert "pairs" in backends()
        register("pairs", lambda config: wrap(CountingEnv(), config))  # replaced by one of single environments
        assert make_env(config.env).spec.obs and make_vector(config.env, 3).num_envs == 3
    finally:
        families._registered.pop("pairs")
    assert [vector.num_envs for vector in made] == [4, 6, 6]
    assert result.evaluation.returns == again.returns == [1 + 2 + 3 + 4] * 3
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["agent_steps"] == 60 - 4 * 3  # a fifth of all entries are resets


@pytest.mark.parametrize(
    ("ends", "terminal"), [({"terminate_at": 5, "truncate_at": 0}, True), ({"truncate_at": 5}, False)]
)
def test_a_time_limit_is_last_without_being_terminal(make_trainer, ends, terminal):
    trainer = make_trainer(tiny("frames=30"), **ends)
    trainer.run()
    rows = trainer.replay.read_rows(0, trainer.replay.total)
    last = rows["is_last"]
    assert last.sum() == 5
    assert (rows["is_terminal"] == (last if terminal else False)).all()


def test_the_three_counters_and_the_train_ratio(make_trainer):
    """A budget of 200 entries, 400 frames: two environments with action repeat 2, episodes of 7 simulator steps."""
    config = tiny("frames=400", "action_repeat=2", "num_envs=2", "updates=4", "updates_per_call=4", "batch_length=4")
    trainer = make_trainer(config, truncate_at=7)
    trainer.run()
    assert trainer.position == 200
    assert trainer.tally.agent_steps == 160 and trainer.env_frames == 320  # 4 steps an episode, and a reset
    raw = sum(env.raw_steps for env in trainer.raw)
    ended = int(trainer.replay.read_rows(0, trainer.replay.total)["is_last"].sum())
    assert raw == 320 - ended  # the last repeat of each episode finds it over after one simulator step
    trainings = (200 - 40) // 10
    # The pretrain's 2 updates are one call of 4: calls have one size.
    assert trainer.updates == 4 + 4 * trainings == int(trainer.state.updates)
    line = [record for record in metrics.read(trainer.rundir.metrics) if "train_ratio" in record][-1]
    assert (line["agent_steps"], line["env_frames"]) == (160, 320)
    assert line["train_ratio"] == pytest.approx(0.4)


def test_the_update_is_traced_once_and_the_policy_compiled_once(make_trainer):
    trainer = make_trainer(tiny("frames=200", "updates=1", "updates_per_call=1"), truncate_at=9)
    trainer.run()
    assert trainer.updates > 6
    assert trainer.traces == 1
    update, state = jax.jit(trainer.algorithm.update), trainer.state
    for seed in range(4):
        batch = trainer.replay.gather(trainer.replay.sample_indices(np.random.default_rng(seed), 4))
        state, _ = update(state, batch)
    assert update._cache_size() == 1
    assert [act._cache_size() for act in trainer.collector._acts.values()] == [1, 1]


def test_the_loop_runs_without_implicit_transfers_in_the_update(make_trainer):
    trainer = make_trainer(tiny("frames=60"), truncate_at=9)
    trainer.run()
    with jax.transfer_guard_host_to_device("disallow"):
        trainer.train()


def poison(trainer, rows: slice) -> None:
    """Put nan into stored rewards: nothing that environments do gets there."""
    trainer.replay._arrays["reward"][rows] = np.nan


def test_bad_updates_are_skipped_and_counted_and_training_goes_on(make_trainer):
    trainer = make_trainer(tiny("frames=100", "updates=1", "updates_per_call=1"), truncate_at=9)
    trainer.run()
    poison(trainer, slice(0, 6))
    for _ in range(12):
        trainer.train()
    trainer.log()
    line = metrics.read(trainer.rundir.metrics)[-1]
    assert line["skipped"] == int(trainer.state.skipped) and 1 <= line["skipped"] < 12
    assert np.isfinite(line["loss/model"]) and np.isfinite(line["loss/reward"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trainer.state.params))


def test_twenty_bad_updates_in_a_row_stop_the_run_and_name_the_term(make_trainer):
    trainer = make_trainer(tiny("frames=100", "updates=10", "updates_per_call=10"), truncate_at=9)
    trainer.run()
    poison(trainer, slice(None))
    with pytest.raises(Diverged, match=r"updates in a row.*first to look at: loss/reward\.") as caught:
        for _ in range(6):
            trainer.train()
    assert 20 <= int(str(caught.value).split()[0]) <= 30


class Broken(CountingEnv):
    """A reward of nan at the raw steps in ``bad``."""

    bad = (17,)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, float("nan") if self.raw_steps in self.bad else reward, *rest


def test_an_entry_that_is_not_finite_never_reaches_replay(tmp_path):
    config = tiny("frames=60", "eval_episodes=1")
    train_agent(config, tmp_path, make=lambda: wrap(Broken(truncate_at=10), config.env), console=quiet())
    replay = HostReplay(load_run(tmp_path)[1], capacity=2000, lanes=1, length=8, cross_episodes=True)
    disk.load(replay, tmp_path / "replay", checkpoint.hosts(tmp_path / "checkpoints")[60]["replay"])
    rows = replay.read_rows(0, replay.total)
    assert np.isfinite(rows["reward"]).all()
    # Raw step 17 is the seventh of the second episode, which so ends after its sixth without being terminal.
    assert rows["obs/state"][rows["is_last"]][1, 1] == 6 and not rows["is_terminal"].any()
    np.testing.assert_array_equal(rows["is_first"][1:], rows["is_last"][:-1])
    assert metrics.read(tmp_path / "metrics.jsonl")[-2]["env/broken_entries"] == 1


def test_an_environment_that_is_never_finite_stops_the_run(tmp_path):
    config = tiny("frames=60")
    broken = type("Hopeless", (Broken,), {"bad": range(10**9)})
    with pytest.raises(EnvError, match=r"environment 0 gave rewards.* not finite 20 times in a row.*reward nan"):
        train_agent(config, tmp_path, make=lambda: wrap(broken(), config.env), console=quiet())


# ---- saving and resuming -------------------------------------------------------------------------------------------

CHILD = """
import sys
from jaxdreamer.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(logdir: Path, *overrides: str) -> list[str]:
    words = [*TINY, "frames=1000", "capacity=600", "num_envs=2", "time_limit=37", *overrides]
    return [sys.executable, "-c", CHILD, "train", "--preset", "dreamer_v1,tiny", "--logdir", str(logdir), *words]


def contents(logdir: Path) -> tuple[list, str, list]:
    """Parameters and optimizer states, the replay's hash, and the metrics without wall-clock times."""
    config, spec = load_run(logdir)
    rundir = RunDir(logdir)
    step = checkpoint.steps(rundir.checkpoints)[-1]
    manifest = json.loads((rundir.checkpoints / f"{step:012d}" / "manifest.json").read_text())
    state = manifest["leaves"], step
    arrays = checkpoint_arrays(rundir.checkpoints / f"{step:012d}")
    replay = HostReplay(
        spec,
        capacity=config.replay.capacity,
        lanes=config.env.num_envs,
        length=config.replay.batch_length,
        cross_episodes=config.replay.cross_episodes,
    )
    disk.load(replay, rundir.replay, checkpoint.read_host(rundir.checkpoints, step)["replay"])
    records = [metrics.without_time(record) for record in metrics.read(rundir.metrics)]
    return [state, *arrays.values()], content_hash(replay), records


def checkpoint_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Every array's bytes by its path, as the manifest places them."""
    data = (folder / "arrays.bin").read_bytes()
    leaves = json.loads((folder / "manifest.json").read_text())["leaves"]
    ends = [leaf["offset"] for leaf in leaves[1:]] + [len(data)]
    return {
        "/".join(leaf["path"]): np.frombuffer(data[leaf["offset"] : end], np.uint8)
        if leaf["dtype"].startswith("key")
        else np.frombuffer(data[leaf["offset"] : end], leaf["dtype"]).reshape(leaf["shape"])
        for leaf, end in zip(leaves, ends, strict=True)
    }


@pytest.mark.slow
def test_killed_and_resumed_equals_straight(tmp_path):
    """1,000 steps straight, against SIGKILL somewhere after step 500 and the same command again: bit for bit."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    # Compiled as users compile it: the other tests go without LLVM's optimisations.
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    subprocess.run(command(straight), check=True, capture_output=True, env=env)
    child = subprocess.Popen(command(broken), stderr=subprocess.DEVNULL, env=env)
    half = broken / "checkpoints" / f"{500:012d}" / "manifest.json"
    deadline = time.monotonic() + 240
    while not half.exists():
        assert child.poll() is None and time.monotonic() < deadline, "no checkpoint at step 500"
        time.sleep(0.005)
    # Some way into the second half, if the machine lets us.
    while child.poll() is None and len((broken / "metrics.jsonl").read_text().splitlines()) < 12:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (broken / "checkpoints" / f"{1000:012d}").exists(), "it was over before it was killed"
    again = subprocess.run(command(broken), check=True, capture_output=True, text=True, env=env)
    assert "resumed at 500 entries" in again.stderr

    (arrays, replay, records), (arrays2, replay2, records2) = contents(straight), contents(broken)
    assert arrays[0] == arrays2[0]
    for one, two in zip(arrays[1:], arrays2[1:], strict=True):
        np.testing.assert_array_equal(one, two)
    assert replay == replay2
    assert records == records2 and len(records) > 15


@pytest.mark.slow
def test_interrupted_runs_save_say_how_to_go_on_and_do(tmp_path):
    child = subprocess.Popen(command(tmp_path, "frames=1000000"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    assert f"resume with: jaxdreamer train --logdir {tmp_path}" in errors
    step = checkpoint.steps(tmp_path / "checkpoints")[-1]
    more = subprocess.run(
        [sys.executable, "-c", CHILD, "train", "--logdir", str(tmp_path), f"frames={step + 30}"],
        check=True, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert f"resumed at {step:,} entries" in more.stderr
    assert f"changed since the run began: run.frames 1000000 -> {step + 30}" in more.stderr
    assert checkpoint.steps(tmp_path / "checkpoints")[-1] >= step + 30


@pytest.mark.parametrize("at", [4, 10])  # while pretraining, and in the first training after it
def test_a_stop_amid_many_updates_leaves_the_rest_owed(tmp_path, monkeypatch, at):
    """It takes one call's time, not all of them; what is owed comes first when the run goes on, with the same numbers."""
    config = tiny("frames=60", "pretrain=6", "updates=6", "time_limit=20", "eval_episodes=1", "num_envs=2")
    straight = train_agent(config, tmp_path / "straight", console=quiet())
    train = HostLoop.train

    def train_and_stop(self):
        train(self)
        self.stop_requested = self.updates == at

    monkeypatch.setattr(HostLoop, "train", train_and_stop)
    stopped = train_agent(config, tmp_path / "stopped", console=quiet())
    assert not stopped.finished and int(stopped.state.updates) == at
    monkeypatch.undo()
    resumed = train_agent(config, tmp_path / "stopped", console=quiet())
    assert resumed.finished and int(resumed.state.updates) == int(straight.state.updates) == 18
    for one, two in zip(jax.tree.leaves(straight.state.params), jax.tree.leaves(resumed.state.params)):
        np.testing.assert_array_equal(one, two)
    records = [[metrics.without_time(r) for r in metrics.read(s.logdir / "metrics.jsonl")] for s in (straight, resumed)]
    assert records[0] == records[1]


def test_a_task_that_is_not_deterministic_has_its_episode_cut_on_resume(tmp_path, caplog):
    class Drifting(CountingEnv):
        born = 0

        def reset(self, **arguments):
            type(self).born += 1
            return super().reset(**arguments)

        def _observe(self):
            return super()._observe() + np.float32(self.born)

    def make():
        return wrap(Drifting(truncate_at=50), config.env)

    config = tiny("frames=75", "eval_episodes=1")
    train_agent(config, tmp_path, make=make, console=quiet())
    result = train_agent(configs.replace(config, {"frames": 120}), tmp_path, make=make, console=quiet())
    assert result.finished
    assert "could not be brought back" in caplog.text
    replay = HostReplay(load_run(tmp_path)[1], capacity=2000, lanes=1, length=8, cross_episodes=True)
    newest = checkpoint.steps(tmp_path / "checkpoints")[-1]
    disk.load(replay, tmp_path / "replay", checkpoint.read_host(tmp_path / "checkpoints", newest)["replay"])
    rows = replay.read_rows(0, replay.total)
    # Every reset follows an entry that ended its episode, the one that was cut included.
    firsts = np.flatnonzero(rows["is_first"][:, 0])
    assert rows["is_last"][firsts[1:] - 1, 0].all()
    assert not rows["is_terminal"].any()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("finished") / "run"
    return train_agent(tiny("frames=120", "time_limit=20"), logdir, console=quiet())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("deter_size=17", "model.deter_size: the run has 16, asked for 17"),
        ("env=CartPole-v1", "env.id: the run has 'Pendulum-v1', asked for 'CartPole-v1'"),
        ("seed=3", "seed: the run has 0, asked for 3"),
        ("capacity=3000", "replay.capacity: the run has 2000, asked for 3000"),
    ],
)
def test_a_folder_of_another_run_is_refused_by_name(finished, change, message):
    config = tiny("frames=120", "time_limit=20", change)
    with pytest.raises(ConfigError, match="holds another run") as caught:
        train_agent(config, finished.logdir, console=quiet())
    assert message in str(caught.value)


def test_settings_that_may_change_are_shown_and_applied(finished):
    console = quiet()
    config = tiny("frames=130", "time_limit=20", "actor_learning_rate=1e-3", "batch_size=3", "batch_length=6")
    train_agent(config, finished.logdir, console=console)
    shown = console.file.getvalue()
    assert "changed since the run began: optimizer.actor_learning_rate 8e-05 -> 0.001" in shown
    assert load_run(finished.logdir)[0].optimizer.actor_learning_rate == 1e-3


def test_a_sink_without_its_library_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[tensorboard\]'"):
        train_agent(tiny("frames=60"), tmp_path / "run", sinks=["tensorboard"], console=quiet())
    assert not (tmp_path / "run").exists()


def test_a_refused_start_leaves_no_settings_behind(tmp_path):
    with pytest.raises(ConfigError, match="sequences of 8"):
        train_agent(tiny("frames=60", "train_every=2000"), tmp_path, console=quiet())
    # Another task, in the same folder: nothing was begun there.
    result = train_agent(tiny("frames=60", "env=CartPole-v1", "eval_episodes=1"), tmp_path, console=quiet())
    assert result.finished and load_run(tmp_path)[1].action.is_discrete


def test_a_task_that_cannot_be_drawn_is_evaluated_all_the_same(tmp_path, caplog):
    class Blind(CountingEnv):
        def render(self):
            raise RuntimeError("no display")

    config = tiny("frames=60", "video=true", "eval_episodes=2")
    result = train_agent(config, tmp_path, make=lambda: wrap(Blind(truncate_at=9), config.env), console=quiet())
    assert len(result.evaluation.returns) == 2
    assert "no film: drawing the environment failed: render of <Blind" in caplog.text and "no display" in caplog.text
    with pytest.raises(EnvError, match=r"film\.gif was not written: drawing the environment failed"):
        evaluate_agent(tmp_path, make=lambda: Blind(truncate_at=9), episodes=1, film=tmp_path / "film.gif")
    with pytest.raises(ConfigError, match=r"no film can be made: this environment cannot be drawn"):
        evaluate_agent(tmp_path, make=lambda: CountingEnv(render_mode=None), episodes=1, film=tmp_path / "film.gif")


def test_what_a_bare_environment_leaves_undone_is_said_at_the_start_and_a_shared_one_is_refused(tmp_path):
    class Symbols(CountingEnv):
        def __init__(self):
            super().__init__(truncate_at=9, render_mode=None)
            self.observation_space = spaces.Box(0, 255, (3,), np.uint8)

        def _observe(self):
            return np.full(3, self.time, np.uint8)

    said = Console(file=io.StringIO(), width=300)
    config = tiny("frames=19", "prefill=12", "pretrain=0", "eval_episodes=1", "action_bound=2", "video=true")
    result = train_agent(config, tmp_path / "run", make=Symbols, console=said)
    assert result.finished
    for line in (
        "  environment        custom (env.backend=custom)\n",
        "no films are made: this environment cannot be drawn (in gymnasium, set render_mode='rgb_array')",
        "env.action_bound=2 is not used",
        "observation 'state' stays within 0.035 of 0",
    ):
        assert said.file.getvalue().count(line) == 1
    shared = CountingEnv(truncate_at=9)
    with pytest.raises(ConfigError, match="was given twice"):
        train_agent(config, tmp_path / "other", make=lambda: shared, console=quiet())
    assert not (tmp_path / "other" / "config.json").exists()


def test_a_run_on_ones_own_environment_wants_it_again(tmp_path):
    config = tiny("frames=60", "eval_episodes=1")

    def make():
        return wrap(CountingEnv(truncate_at=9), config.env)

    result = train_agent(config, tmp_path, make=make, console=quiet())
    assert evaluate_agent(tmp_path, make=make).returns == result.evaluation.returns
    with pytest.raises(ConfigError, match="give it again as make"):
        evaluate_agent(tmp_path)
    with pytest.raises(ConfigError, match="not what the run was trained on"):
        evaluate_agent(tmp_path, make=lambda: wrap(CountingEnv(action="box"), config.env))


def test_episodes_shorter_than_a_sequence_are_learned_from(tmp_path):
    config = tiny("frames=80", "cross_episodes=false", "eval_episodes=1")
    result = train_agent(config, tmp_path, make=lambda: wrap(CountingEnv(truncate_at=4), config.env), console=quiet())
    assert result.finished and int(result.state.updates) > 0


class Notes:
    """A sink that keeps what it is given."""

    name = "notes"

    def __init__(self):
        self.records, self.pictures, self.closed = [], [], False

    def write(self, record, step):
        self.records.append((step, record))

    def image(self, name, image, step):
        self.pictures.append((name, step))

    def film(self, name, path, step):
        self.pictures.append((name, path.name, step))

    def settings(self, settings):
        self.given = settings

    def close(self):
        self.closed = True


def test_ones_own_sink_gets_every_record_and_saves_are_told(tmp_path):
    notes, saves = Notes(), []

    def saved(moment):
        bias = np.asarray(moment.state().params["actor"]["out"]["bias"])
        saves.append((moment.env_frames, int(moment.state().updates), bias))

    config = tiny("frames=120", "time_limit=20", "eval_episodes=1", "checkpoint_every=50")
    result = train_agent(
        config,
        tmp_path,
        console=quiet(),
        sinks=[notes],
        hooks=Hooks(on_save=saved),
    )
    assert [record for _, record in notes.records] == metrics.read(tmp_path / "metrics.jsonl") and notes.closed
    assert all(step == record["env_frames"] for step, record in notes.records)
    assert notes.given == configs.fields(config) and not notes.pictures
    assert [frames for frames, _, _ in saves] == [47, 95, 114]  # entries 50, 100, 120 without their resets
    assert saves[0][1] < saves[1][1] < saves[2][1] == int(result.state.updates)
    np.testing.assert_array_equal(saves[-1][2], result.state.params["actor"]["out"]["bias"])
    assert not np.array_equal(saves[0][2], saves[-1][2])


def test_a_run_can_begin_from_what_another_has_learned(tmp_path):
    first = train_agent(tiny("frames=80", "time_limit=20", "eval_episodes=1"), tmp_path / "first", console=quiet())
    bias = np.asarray(first.state.params["actor"]["out"]["bias"])
    begun = train_agent(  # no update is due: what comes out went in
        tiny("frames=30", "time_limit=20", "eval_episodes=1"), tmp_path / "second", console=quiet(), start=first.state
    )
    np.testing.assert_array_equal(begun.state.params["actor"]["out"]["bias"], bias)
    assert int(begun.state.updates) == int(first.state.updates) > 0
    # Its prefill is the policy's, not chance's: the parameters decide what is played.
    fresh = train_agent(tiny("frames=30", "time_limit=20", "eval_episodes=1"), tmp_path / "fresh", console=quiet())
    played = [stored_actions(tmp_path / name, step=30) for name in ("second", "fresh")]
    assert not np.array_equal(*played)
    assert fresh.state is not None and not first.state.params["actor"]["out"]["bias"].is_deleted()
    with pytest.raises(ConfigError, match="start: the train state given is of other networks"):
        train_agent(tiny("units=17"), tmp_path / "third", console=quiet(), start=first.state)


def stored_actions(folder, step):
    replay = HostReplay(load_run(folder)[1], capacity=2000, lanes=1, length=8, cross_episodes=True)
    disk.load(replay, folder / "replay", checkpoint.hosts(folder / "checkpoints")[step]["replay"])
    return replay.read_rows(0, replay.total)["action"]


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        train_agent(tiny(), tmp_path, console=quiet())


def test_compiling_is_announced_and_progress_told(tmp_path):
    console = quiet()
    train_agent(tiny("frames=80", "eval_episodes=1"), tmp_path, console=console)
    shown = console.file.getvalue()
    assert "compiling 2 updates of dreamer_v1,tiny, unless it is cached ..." in shown
    header = dict(re.findall(r"^  (\S+(?: \S+)?)  +(.*)$", shown[shown.index("training ---") :], re.M))
    assert list(header) == [
        "environment", "observation state", "action", "agent", "device", "replay", "budget", "time", "folder"
    ]  # fmt: skip
    assert header["environment"] == "Pendulum-v1 (env.backend=gym)" and header["folder"] == str(tmp_path)
    assert header["observation state"] == "3 float32 -> dense layers" and header["action"] == "1 number in [-1, 1]"
    assert header["device"] == "cpu (cpu), environments on the host" and "of host memory" in header["replay"]
    assert header["budget"] == "80 frames, 10 updates"
    assert re.fullmatch(r"dreamer_v1,tiny \(algorithm dreamer\), seed 0, [\d,]+ parameters", header["agent"])
    assert "final evaluation of 1 episodes" in shown and shown.count("80/80 frames") == 1
    assert "... done in" in shown


@pytest.mark.parametrize("preset", ["dreamer_v1,tiny", "dreamer_v2,tiny"])
def test_pixels_are_reconstructed_and_predicted_into_pictures(tmp_path, preset):
    config = tiny(
        "frames=120", "obs=pixels", "image_size=16x16", "video=true", "num_envs=2", "time_limit=30", preset=preset
    )
    result = train_agent(config, tmp_path, console=quiet(), sinks=[notes := Notes()])
    films = list((tmp_path / "videos").glob("policy-*.gif"))
    pictures = list((tmp_path / "videos").glob("open_loop-image-*.png"))
    assert films and pictures
    at = [int(film.stem.rpartition("-")[2]) for film in sorted(films)]
    # Everything that is drawn goes to the sinks, too.
    assert [picture for picture in notes.pictures if len(picture) == 3] == [
        ("eval/film", film.name, frames) for film, frames in zip(sorted(films), at)
    ]
    assert [picture for picture in notes.pictures if len(picture) == 2] == [("open_loop/image", n) for n in at]
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert any("open_loop/image" in line for line in lines)
    assert len(result.evaluation.returns) == 3


@pytest.mark.parametrize("key", ["observation", "reward"])
def test_an_episode_that_is_not_finite_when_it_is_played_again_is_cut(start_host, caplog, key):
    class Failing(CountingEnv):
        broken = False

        def step(self, action):
            obs, reward, *rest = super().step(action)
            spoilt = np.nan if self.broken else 1
            return (obs * spoilt, reward, *rest) if key == "observation" else (obs, reward * spoilt, *rest)

    def make(lanes=1, seed=0):
        return LocalVectorEnv([wrap(Failing(truncate_at=50), config.env) for _ in range(lanes)], seed=seed)

    config = tiny("frames=30")
    trainer = start_host(config, make(), make)
    for _ in range(8):
        trainer.step()
    trainer.save()
    trainer.rundir.release()
    again = start_host(config, make(), make)
    Failing.broken = True
    again.restore()
    Failing.broken = False
    assert "environment 0 could not be brought back" in caplog.text
    again.step()
    rows = again.replay.read_rows(0, again.replay.total)
    assert np.isfinite(rows["obs/state"]).all() and rows["is_last"][7, 0] and rows["is_first"][8, 0]
