"""Whole runs on the device: one program without transfers, saved and resumed bit for bit, several seeds side by side."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer import families
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.cli import main
from jaxdreamer.config import ConfigError
from jaxdreamer.envs import register, registry
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.device.functional import FunctionalEnv
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.api import evaluate_agent, train_agent, train_seeds
from jaxdreamer.train.device.evaluate import make_evaluate
from jaxdreamer.train.device.loop import DeviceLoop
from jaxdreamer.train.folder import load_run
from jaxdreamer.train.hooks import Hooks
from jaxdreamer.train.loop import Job, Run
from jaxdreamer.train.telemetry import Diverged
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec
from tests.agent.cases import raw, trees_equal
from tests.train.test_program import looking
from tests.train.test_run import Notes, checkpoint_arrays

# One set of sizes for nearly all tests, so that they share compiled programs. The ring is full before the end.
TINY = ["--preset", "dreamer_v2,tiny", "backend=pure", "env=pendulum", "num_envs=3", "action_repeat=1", "time_limit=17",
        "prefill=60", "pretrain=3", "train_every=10", "updates=2", "updates_per_call=4", "cross_episodes=true",
        "eval_every=0", "log_every=50", "eval_episodes=3", "checkpoint_every=150", "capacity=240"]  # fmt: skip


SHORT = ("prefill=48", "pretrain=0", "frames=57")  # no update is due


def tiny(*overrides: str) -> configs.Config:
    return configs.preset(TINY[1], *TINY[2:], *overrides)


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture
def make_trainer(tmp_path):
    """A trainer, and everything it opened closed at the end."""
    opened = []

    def make(config, env=None, name="run", seeds=1, algorithm=None) -> DeviceLoop:
        runs = []
        for index in range(seeds):
            rundir = RunDir(tmp_path / f"{name}-{index}").acquire()
            one = configs.replace(config, {"seed": config.seed + index})
            runs.append(Run(one, rundir, metrics.MetricsLog(rundir.metrics)))
            opened.append((runs[-1].metrics, rundir))
        env = env or registry.make_functional(config.env)
        console = quiet()
        algorithm = algorithm or make_algorithm(config, env.spec)
        job = Job(algorithm, runs, Progress(config.run.frames, console=console))
        trainer = DeviceLoop(job, env, make_evaluate(config.env, env, algorithm.policy))
        trainer.console = console
        return trainer

    yield make
    for log, rundir in opened:
        log.close()
        rundir.release()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing disturbed, by the command line."""
    logdir = tmp_path_factory.mktemp("straight") / "run"
    assert main(["train", *TINY, "frames=420", "--logdir", str(logdir)]) == 0
    return logdir


def contents(logdir: Path) -> tuple[list, list, list]:
    """What the newest checkpoint holds: named leaves and arrays; and the metrics without times."""
    folder = checkpoint.steps(logdir / "checkpoints")[-1]
    path = logdir / "checkpoints" / f"{folder:012d}"
    manifest = json.loads((path / "manifest.json").read_text())
    records = [metrics.without_time(record) for record in metrics.read(logdir / "metrics.jsonl")]
    return manifest["leaves"], list(checkpoint_arrays(path).values()), records


def assert_same_run(one: Path, two: Path) -> None:
    (leaves, arrays, records), (leaves2, arrays2, records2) = contents(one), contents(two)
    assert leaves == leaves2 and len(arrays) > 50
    for a, b in zip(arrays, arrays2, strict=True):
        np.testing.assert_array_equal(a, b)
    assert records == records2 and len(records) >= 9


# ---- the loop ------------------------------------------------------------------------------------------------------


def test_one_trace_no_transfers_and_everything_learns(make_trainer):
    """Prefill, pretraining, training: one compilation, whose program never turns to the host."""
    trainer = make_trainer(tiny("frames=300"))
    before = jax.device_get(trainer.carry.train.params)
    guards = []
    inner = jax.transfer_guard

    def guard(level):
        guards.append(level)
        return inner(level)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "transfer_guard", guard)
        while not trainer.spent:
            trainer.step()
    trainer.log()
    assert trainer.traces == 1 and set(guards) == {"disallow"} and len(guards) > 5
    assert trainer.segments.entries == 303 and trainer.updates == 3 + 2 * ((303 - 60) // 10)
    entries = np.asarray(trainer.carry.replay.entries.is_first)
    assert trainer.env_frames == 303 - 3 * -(-101 // 18) and entries.shape == (80, 3)
    for name, part in before.items():
        changed = jax.tree.map(lambda x, y: bool((x != y).any()), part, trainer.carry.train.params[name])
        same = [jax.tree_util.keystr(path) for path, moved in jax.tree.leaves_with_path(changed) if not moved]
        # Below the free nats the KL trains nothing, and biases are all of the prior that the decay leaves alone.
        assert all("prior_" in path and "bias" in path for path in same), (name, same)
    # Nothing in the compiled program calls the host, and the ring is in it once: every input is written in place.
    text = trainer._call.as_text()
    assert not re.findall(r"callback|infeed|outfeed|\bsend\b|\brecv\b", text)
    memory = trainer._call.memory_analysis()
    carried = sum(raw(x).nbytes for x in jax.tree.leaves(trainer.carry))
    assert memory.alias_size_in_bytes == carried - 9 * 4  # all but the nine counts that each call begins anew


def test_an_implicit_transfer_in_the_loop_would_be_found(make_trainer):
    """The plan left on the host is the only difference."""
    trainer = make_trainer(tiny("frames=300"))
    trainer.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "placement", trainer.placement._replace(put_state=lambda tree: tree))
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            trainer.step()


@pytest.mark.parametrize(("lanes", "seeds"), [(3, 1), (1, 1), (1, 2)])
def test_the_ring_is_not_copied_by_the_program(make_trainer, lanes, seeds):
    """What the program needs beside a ring of images is less than a copy of it; a single lane is XLA's odd case."""
    trainer = make_trainer(tiny("capacity=6000", f"num_envs={lanes}"), env=pictures(), seeds=seeds)
    trainer._compile(jax.device_put(trainer._plan()))
    ring = sum(raw(x).nbytes for x in jax.tree.leaves(trainer.carry.replay))
    assert ring > seeds * 70e6 and trainer._call.memory_analysis().temp_size_in_bytes < 0.8 * ring


def pictures() -> FunctionalEnv:
    """64x64 frames that tell the time."""
    return FunctionalEnv(
        spec=EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ActionSpec((ActionPart("continuous", 2),))),
        reset=lambda key: jnp.zeros((), jnp.int32),
        step=lambda time, action: (time + 1, jnp.sum(action), time > 9),
        observe=lambda time: {"image": jnp.full((64, 64, 3), time, jnp.uint8)},
        time_limit=20,
    )


def test_the_policy_sees_what_the_lanes_show(make_trainer):
    """After the prefill actions follow the observation: the same run with other parameters acts otherwise."""
    acted = []
    for scale in (1.0, 0.0):
        trainer = make_trainer(tiny("frames=48", "prefill=30", "updates=1", "pretrain=0"), name=str(scale))
        params = trainer.carry.train.params
        params = {**params, "model": jax.tree.map(lambda x, s=scale: x * s, params["model"])}
        trainer.carry = trainer.carry._replace(train=trainer.carry.train._replace(params=params))
        while not trainer.spent:
            trainer.step()
        acted.append(np.asarray(trainer.carry.replay.entries.action)[:16])
    np.testing.assert_array_equal(acted[0][:10], acted[1][:10])  # chance
    assert (acted[0][10:] != acted[1][10:]).sum() >= 15


def test_lines_say_what_happened(straight):
    lines = metrics.read(straight / "metrics.jsonl")
    trained = [line for line in lines if "train_ratio" in line]
    # 140 rows of 3 lanes, resets every 18: at entry e there were ceil(rows / 18) resets a lane.
    for line, entries in zip(trained, [54, 105, 150, 204, 258, 303, 357, 402, 420], strict=True):
        rows = entries // 3
        assert line["agent_steps"] == line["env_frames"] == entries - 3 * -(-rows // 18)
        assert line["replay/entries"] == min(entries, 240) and line["train_ratio"] == 0.2
        learned = max(0, entries - 60) // 10 * 2
        assert line["updates"] == (3 + learned if entries > 60 else 0)
        assert ("loss/model" in line) == (entries > 60) and line["env/broken_entries"] == line["skipped"] == 0
    episodes = sum(line.get("train/episodes", 0) for line in trained)
    assert episodes == 3 * 7 and all(line.get("train/length", 17) == 17 for line in trained)
    for line in trained:
        if "train/return" in line:
            assert -17 * 16.3 < line["train/return_min"] <= line["train/return"] <= line["train/return_max"] < 0
    # The newest episodes of the ring: their returns are those that were logged.
    _, tree = newest(straight)
    rewards = np.roll(tree["reward"], -(140 % 80), 0)
    starts = np.flatnonzero(np.roll(tree["is_first"], -(140 % 80), 0)[:, 0])
    last = trained[-2]  # 402 entries, 134 rows: the seventh episodes ended
    whole = rewards[starts[-2] : starts[-2] + 18].sum(0)
    assert last["train/episodes"] == 3
    np.testing.assert_allclose(
        [last["train/return"], last["train/return_min"], last["train/return_max"], last["train/return_std"]],
        [whole.mean(), whole.min(), whole.max(), whole.std()],
        rtol=1e-3,
    )


def newest(logdir):
    """Host state and the replay's entries of the newest checkpoint."""
    step = checkpoint.steps(logdir / "checkpoints")[-1]
    arrays = checkpoint_arrays(logdir / "checkpoints" / f"{step:012d}")
    entries = {key.removeprefix("loop/replay/entries/"): array for key, array in arrays.items()}
    return checkpoint.read_host(logdir / "checkpoints", step), entries


# ---- saving and resuming -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_resumed_equals_straight(straight, tmp_path):
    """SIGKILL after the checkpoint at 300, and the same command again: bit for bit, replay and environments too."""
    words = ["train", *TINY, "frames=420", "--logdir", str(tmp_path / "run")]
    with subprocess.Popen([sys.executable, "-c", KILLED, *words], stderr=subprocess.PIPE, text=True) as child:
        said = next(line for line in child.stderr if line.startswith("waiting"))
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert said == "waiting at 357\n"
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [150, 303]
    assert len(metrics.read(tmp_path / "run" / "metrics.jsonl")) == 7  # one of them after the checkpoint
    assert main(words) == 0
    assert_same_run(straight, tmp_path / "run")


KILLED = """
import sys, time
from jaxdreamer.cli import main
from jaxdreamer.train.device.loop import DeviceLoop
step = DeviceLoop.step
def watched(self):
    step(self)
    if self.segments.entries >= 350:
        print(f"waiting at {self.segments.entries}", file=sys.stderr, flush=True)
        time.sleep(600)
DeviceLoop.step = watched
main(sys.argv[1:])
"""


def test_a_damaged_checkpoint_is_passed_over(straight, tmp_path):
    import shutil

    shutil.copytree(straight, tmp_path / "run")
    newest = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    (tmp_path / "run" / "checkpoints" / f"{newest:012d}" / "manifest.json").write_text("{")
    console = quiet()
    train_agent(tiny("frames=420"), tmp_path / "run", console=console)
    assert f"checkpoint {newest} is damaged and skipped" in console.file.getvalue()
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("num_envs=4", "env.num_envs: the run has 3, asked for 4"),
        ("capacity=300", "replay.capacity: the run has 240, asked for 300"),
        ("env=counting", "env.id: the run has 'pendulum', asked for 'counting'"),
        (
            "loop=host",
            "was trained by the loop on the device, which the loop on the host cannot resume: set run.loop=device",
        ),
    ],
)
def test_a_folder_of_another_run_is_refused_by_name(straight, change, message):
    with pytest.raises(ConfigError, match=message):
        train_agent(tiny("frames=420", change), straight, console=quiet())


# ---- seeds side by side --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Four seeds by the command line, and what was said."""
    logdir = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        console = quiet()
        patch.setattr("jaxdreamer.record.progress.Console", lambda **_: console)
        assert main(["train", *TINY, "frames=180", "--seeds", "4", "--logdir", str(logdir)]) == 0
    return logdir, console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_seeds_side_by_side_equal_single_runs(four, tmp_path, seed):
    logdir, shown = four
    assert (
        re.search(rf"\n  seed-{seed} +-?\d+\.\d  ", shown)
        and f"  folder      {logdir}\n" in shown
        and "240 entries (80 x 3 environments) for each of 4" in shown
    )
    train_agent(tiny("frames=180", f"seed={seed}"), tmp_path / "alone", console=quiet())
    assert load_run(logdir / f"seed-{seed}") == load_run(tmp_path / "alone")
    (leaves, arrays, records), (leaves2, arrays2, records2) = (
        contents(logdir / f"seed-{seed}"),
        contents(tmp_path / "alone"),
    )
    assert leaves == leaves2
    for a, b, leaf in zip(arrays, arrays2, leaves, strict=True):
        # Sums of products in another order, for 27 updates: Adam makes a whole step of the smallest gradient.
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=2e-3, atol=2e-3, err_msg=str(leaf))
    assert [record.keys() for record in records] == [record.keys() for record in records2]
    for one, two in zip(records, records2):
        np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=5e-3, atol=5e-3, err_msg=str(one))


def test_each_seed_is_another_and_evaluates_alone(four):
    logdir, _ = four
    curves = [metrics.read(logdir / f"seed-{seed}" / "metrics.jsonl") for seed in range(4)]
    assert len({records[-1]["eval/return"] for records in curves}) == 4
    again = evaluate_agent(logdir / "seed-2")
    assert curves[2][-1]["eval/return"] == pytest.approx(np.mean(again.returns), rel=1e-5)


def test_seeds_are_resumed_together_from_the_folder(four, tmp_path, capsys):
    import shutil

    logdir, _ = four
    shutil.copytree(logdir, tmp_path / "more")
    assert main(["train", "--seeds=4", "frames=240", "--logdir", str(tmp_path / "more")]) == 0
    shown = capsys.readouterr().err
    assert "resumed at" in shown and "run.frames 180 -> 240" in shown
    ends = [metrics.read(tmp_path / "more" / f"seed-{seed}" / "metrics.jsonl")[-1] for seed in range(4)]
    assert {end["updates"] for end in ends} == {3 + 2 * 18} and len({end["eval/return"] for end in ends}) == 4
    with pytest.raises(
        ConfigError, match=r"only some of the seeds have a run to resume: .*seed-0, .*seed-3; choose an"
    ):
        train_seeds(tiny("frames=240"), tmp_path / "more", 5, console=quiet())
    with pytest.raises(
        ConfigError, match=r"more holds the runs of several seeds: .* with --seeds 4, or .*more/seed-0$"
    ):
        train_agent(tiny("frames=240"), tmp_path / "more", console=quiet())


def test_seeds_need_the_device(tmp_path, capsys):
    assert main(["train", "--env", "Pendulum-v1", "--seeds", "2", "--logdir", str(tmp_path)]) == 2
    assert "env.backend=gym steps its environments on the host: start a run for each seed" in capsys.readouterr().err
    assert main(["train", "--seeds", "two", "--logdir", str(tmp_path)]) == 2
    assert "--seeds: expected int, found 'two'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="seeds must be 1 to 1000, found 0"):
        train_seeds(tiny(), tmp_path, 0)


def test_the_lowest_seed_gives_the_settings(tmp_path):
    """Seeds 9 and 10: as words, 10 comes first."""
    from jaxdreamer.cli import parse_train

    for seed in (9, 10):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "config.json").write_text(json.dumps(configs.to_dict(tiny(f"seed={seed}"))))
    assert parse_train(["--seeds", "2", "--logdir", str(tmp_path)])[0].seed == 9


# ---- evaluation, loading, and ways to name what is trained on ---------------------------------------------------------


def test_ones_own_functions_are_trained_on_and_drawn(tmp_path):
    """make=FunctionalEnv: saves are told, a sink is fed, a film is kept, and it is wanted again for an evaluation."""
    mine = dataclasses.replace(
        pure.pendulum(), render=lambda state: jnp.full((8, 8, 3), state.velocity * 10 + 128).astype(jnp.uint8)
    )
    config, notes, saves = tiny("frames=150", "checkpoint_every=90", "env=Pendulum-v1", "backend=gym"), Notes(), []
    result = train_agent(
        config, tmp_path / "run", make=mine, console=quiet(), sinks=[notes],
        hooks=Hooks(on_save=lambda moment: saves.append((moment.env_frames, moment.updates))),
    )  # fmt: skip
    assert [frames for frames, _ in saves] == [96 - 6, 150 - 9] and saves[-1][1] == int(result.state.updates) == 21
    assert [record for _, record in notes.records] == metrics.read(tmp_path / "run" / "metrics.jsonl") and notes.closed
    films = list((tmp_path / "run" / "videos").glob("policy-*.gif"))
    assert len(films) == 1
    from PIL import Image

    with Image.open(films[0]) as film:
        assert film.n_frames == 18
    assert evaluate_agent(tmp_path / "run", make=mine).returns == result.evaluation.returns
    with pytest.raises(ConfigError, match="give it again as make"):
        evaluate_agent(tmp_path / "run")
    with pytest.raises(ConfigError, match="not what the run was trained on"):
        evaluate_agent(tmp_path / "run", make=pure.counting())
    with pytest.raises(ConfigError, match=r"run.loop=host: give make=... as a function that returns envs.hosted.host"):
        train_agent(tiny("loop=host"), tmp_path / "other", make=mine)


def test_a_run_can_begin_from_what_another_has_learned(straight, tmp_path):
    first = train_agent(tiny("frames=420"), straight, console=quiet())
    begun = train_agent(tiny(*SHORT), tmp_path / "run", console=quiet(), start=first.state)
    assert trees_equal(begun.state, first.state)  # no update was due: what comes out went in
    fresh = train_agent(tiny(*SHORT), tmp_path / "fresh", console=quiet())
    assert (newest(tmp_path / "run")[1]["action"] != newest(tmp_path / "fresh")[1]["action"]).any()
    with pytest.raises(ConfigError, match="start: the train state given is of other networks"):
        train_agent(tiny("units=17"), tmp_path / "third", console=quiet(), start=fresh.state)


def test_a_registered_backend_and_the_choice_of_the_loop(tmp_path):
    register("mine", lambda config: pure.pendulum(), kind="device")
    try:
        result = train_agent(tiny("backend=mine", *SHORT), tmp_path / "device", console=quiet())
        assert result.finished and result.evaluation.lengths == [17] * 3
        words = ("backend=mine", "loop=host", *SHORT, "eval_episodes=1", "num_envs=1")
        hosted = train_agent(tiny(*words), tmp_path / "host", console=quiet())
        assert hosted.evaluation.lengths == [17] and list((tmp_path / "host" / "replay").iterdir())
        assert not list((tmp_path / "device" / "replay").iterdir())  # it is in the checkpoints
        with pytest.raises(ConfigError, match="was trained by the loop on the host, which the loop on the de"):
            train_agent(tiny(*words, "loop=auto"), tmp_path / "host", console=quiet())
    finally:
        families._registered.pop("mine")
    with pytest.raises(
        ConfigError, match=r"run.loop=device needs an environment of pure functions .*found env.backend=gym"
    ):
        train_agent(tiny("backend=gym", "env=Pendulum-v1", "loop=device"), tmp_path / "gym")
    with pytest.raises(
        ConfigError, match=r"env.time_limit: counting has no time limit of its own, so an evaluation might"
    ):
        endless = lambda config: pure.counting(time_limit=0)  # noqa: E731
        register("endless", endless, kind="device")
        try:
            train_agent(tiny("backend=endless", "env=counting", "time_limit=0"), tmp_path / "endless", console=quiet())
        finally:
            families._registered.pop("endless")


@pytest.mark.parametrize("setting", ["exclude=('state',)", "workers=2"])
def test_settings_of_the_host_are_refused_on_the_device(tmp_path, setting):
    with pytest.raises(
        ConfigError, match=r"env\.(exclude|workers)=.* is for environments stepped on the host.*loop=host"
    ):
        train_agent(tiny(setting), tmp_path / "run", console=quiet())


# ---- when things go wrong --------------------------------------------------------------------------------------------


def test_updates_that_are_never_finite_stop_the_run_and_name_the_term(make_trainer):
    trainer = make_trainer(tiny("frames=3000"))
    while trainer.segments.entries < 150:
        trainer.step()
    with pytest.raises(Diverged, match=r"updates in a row.*first to look at: loss/reward\.") as caught:
        for _ in range(20):
            replay = trainer.carry.replay  # nothing that environments do gets there
            entries = replay.entries._replace(reward=jnp.full_like(replay.entries.reward, jnp.nan))
            trainer.carry = trainer.carry._replace(replay=replay._replace(entries=entries))
            trainer.step()
    assert 20 <= int(str(caught.value).split()[0]) < 40
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trainer.state.params))


@pytest.mark.parametrize("words", [("train_every=30",), ("train_every=1", "updates=4")])
def test_an_environment_that_is_never_finite_stops_the_run(make_trainer, words):
    env = pure.counting(break_at=1)
    trainer = make_trainer(tiny("frames=5000", "env=counting", *words), env, algorithm=looking(env.spec))
    with pytest.raises(EnvError, match=r"not finite 20 times in a row.*: check the simulator's time step"):
        trainer.run()
    assert 20 * 3 <= trainer.segments.entries < 400
    assert not np.asarray(trainer.carry.replay.entries.reward).any()


def test_an_environment_that_breaks_now_and_then_goes_on(make_trainer):
    env = pure.counting(break_at=3)
    trainer = make_trainer(tiny("frames=1500", "env=counting"), env, algorithm=looking(env.spec))
    trainer.run()
    line = next(line for line in metrics.read(trainer.runs[0].rundir.metrics)[::-1] if "train_ratio" in line)
    # Two good steps, then a reset in place of the third: of 500 rows a third begin an episode, the very first unbroken.
    assert line["env/broken_entries"] == 3 * (500 // 3) and line["agent_steps"] == 1500 - 3 * (500 // 3 + 1)


def test_every_size_may_be_one(make_trainer):
    sizes = (
        "batch_length",
        "batch_size",
        "imagine_horizon",
        "num_envs",
        "stoch_size",
        "deter_size",
        "hidden_size",
        "units",
    )
    trainer = make_trainer(tiny("frames=90", "cross_episodes=false", *(f"{name}=1" for name in sizes)))
    before = jax.device_get(trainer.state.params)
    trainer.run()
    assert trainer.updates == 3 + 2 * (90 - 60) // 10 and trainer.runs[0].tally.skipped == 0
    for part, params in jax.device_get(trainer.state.params).items():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
        assert not trees_equal(params, before[part])


def test_episodes_shorter_than_a_sequence_are_learned_from(make_trainer):
    config = tiny("frames=300", "env=counting", "cross_episodes=false", "log_every=30")
    env = pure.counting(terminate_at=4)
    trainer = make_trainer(config, env, algorithm=looking(env.spec))  # sequences are of 8
    trainer.run()
    assert trainer.updates == 3 + 2 * (300 - 60) // 10
