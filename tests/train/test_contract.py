"""What a run promises, wherever its environments are stepped: every test here is of both loops, on one environment.

- Counters: every line of the log has ``agent_steps``, ``env_frames`` and ``updates`` as they truly were, and ``skipped``;
  with ``start=`` they begin where the given state left off.
- Cadences (prefill, training, log, evaluations, checkpoints, budget) count entries, resets included. Both loops log,
  evaluate and save at the same entries, under the same names, and checkpoints are called by the entries so far.
- A logged metric is the mean over the updates since the last line, without those in which it was not finite.
- Stopped and resumed, a run ends with the same bits as one that nothing disturbed.
- Equal seeds give equal runs; other seeds give others.
- Evaluations play the same number of whole episodes, and a stored run can be evaluated again with the same returns.
- A film is drawn of the final evaluation where the environment can be drawn.
- ``load_agent`` gives the newest checkpoint's policy, whose ``step`` is the checkpoint's name; with ``best=True`` the
  best evaluation's.
- Hooks are called with the same counters as the log has; a stop that a hook or ``run.stop_at_return`` asks for finishes
  the run, and it stays finished.
"""

from __future__ import annotations

import dataclasses
import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError
from jaxdreamer.deploy.agent import load_agent
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.device.hosted import host
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.train.api import evaluate_agent, train_agent
from jaxdreamer.train.hooks import Hooks
from jaxdreamer.train.loop import Loop
from tests.train import toy
from tests.train.test_run import checkpoint_arrays

LANES, LIMIT = 2, 9  # an episode is LIMIT steps and a reset: 10 entries of each lane
TINY = ["backend=pure", "env=pendulum", f"num_envs={LANES}", f"time_limit={LIMIT}", "prefill=40", "pretrain=2", "updates=2",
        "train_every=10", "updates_per_call=2", "eval_every=60", "log_every=30", "eval_episodes=2", "checkpoint_every=50",
        "capacity=2000", "action_repeat=2", "frames=240", "cross_episodes=true", "keep_checkpoints=9"]  # fmt: skip


def quiet() -> Console:
    return Console(file=io.StringIO(), width=1000)


def lines(logdir) -> list[dict]:
    return [metrics.without_time(line) for line in metrics.read(logdir / "metrics.jsonl")]


def agent_steps(entries: int) -> int:
    """Of so many entries over all lanes, which move in lockstep here: all but the resets."""
    rows = entries // LANES
    return entries - LANES * -(-rows // (LIMIT + 1))


class World:
    """One loop, and short runs on it: of Dreamer where networks matter, of the toy algorithm elsewhere."""

    def __init__(self, name: str):
        self.name = name

    def config(self, *words: str) -> configs.Config:
        return configs.preset("dreamer_v2,tiny", *TINY, f"loop={self.name}", *words)

    def train(self, logdir, *words, **more):
        return train_agent(self.config(*words), logdir, console=more.pop("console", quiet()), **more)

    def toy(self, logdir, *words, **more):
        return self.train(logdir, *words, algorithm=toy.make, **more)


@pytest.fixture(params=["host", "device"], scope="module")
def world(request):
    return World(request.param)


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory):
    """A run of 120 entries that nothing disturbed, its result, and what its hooks were told."""
    told: list[tuple] = []

    def note(kind):
        return lambda moment, *rest: told.append((kind, moment, *rest))

    hooks = Hooks(
        on_episode=note("episode"), on_log=note("log"), on_evaluation=note("evaluation"), on_save=note("save")
    )
    logdir = tmp_path_factory.mktemp(world.name) / "run"
    return world.train(logdir, hooks=hooks), told


def test_counters_are_true_on_every_line_and_cadences_count_entries(world, straight):
    result, _ = straight
    at = {name: [line for line in lines(result.logdir) if name in line] for name in ("train_ratio", "eval/return")}
    # By hand: a line at the first entry at or after each 30, an evaluation after each 60, both at the end.
    wanted = {"train_ratio": [30, 60, 90, 120], "eval/return": [60, 120]}
    for name, entries in wanted.items():
        assert [line["agent_steps"] for line in at[name]] == [agent_steps(n) for n in entries]
        assert all(line["env_frames"] == 2 * line["agent_steps"] for line in at[name])
        # Learning begins at 40 entries: 2 updates at once, then 2 after every 10.
        assert [line["updates"] for line in at[name]] == [2 + 2 * ((n - 40) // 10) if n >= 40 else 0 for n in entries]
    assert all(line["skipped"] == 0 for line in at["train_ratio"])
    assert int(result.state.updates) == 18
    assert checkpoint.steps(result.logdir / "checkpoints") == [50, 100, 120]


def test_both_loops_log_the_same_names(tmp_path_factory, straight, world):
    from jaxdreamer.train.metrics import sentence

    names = {name for line in metrics.read(straight[0].logdir / "metrics.jsonl") for name in line}
    assert len(names) > 30 and all(sentence(name) for name in names)
    own = {name for name in names if not name.startswith("time/share_")}
    seen = _NAMES.setdefault("first", own)
    assert own == seen


_NAMES: dict[str, set[str]] = {}


def test_a_line_holds_means_of_what_was_finite(world, tmp_path):
    """Two updates in a call, of which one is skipped: updates 3, 8, 13 and 18."""
    world.toy(tmp_path / "run")
    found = [line for line in lines(tmp_path / "run") if "train_ratio" in line]
    before = 0
    for line in found:
        numbers = np.arange(before, line["updates"]) + 1
        before = line["updates"]
        assert line["skipped"] == (numbers[-1] + 2) // 5 if numbers.size else line["skipped"] == 0
        if numbers.size:
            assert line["number"] == pytest.approx(numbers.mean())
            assert line["loss/number"] == pytest.approx(numbers[numbers % 5 != 3].mean())
        else:
            assert "number" not in line
    assert before == 18


def test_stopped_and_resumed_is_the_same_run(world, straight, tmp_path):
    console = quiet()
    report = Loop.report
    for stop in (30, 70):  # in the prefill, and between two lines of the log

        def stop_there(self, stop=stop):
            report(self)
            self.stop_requested = self.position >= stop

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "report", stop_there)
            stopped = world.train(tmp_path / "run", console=console)
        assert not stopped.finished and stopped.evaluation is None
        assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == stop
    assert world.train(tmp_path / "run", console=console).finished
    said = console.file.getvalue()
    assert f"resume with: jaxdreamer train --logdir {tmp_path / 'run'}" in said
    assert "resumed at 70 entries, update 8" in said
    last, other = (sorted((path / "checkpoints").iterdir())[-1] for path in (straight[0].logdir, tmp_path / "run"))
    arrays, again = checkpoint_arrays(last), checkpoint_arrays(other)
    assert arrays.keys() == again.keys() and len(arrays) > 50
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], again[name], err_msg=name)
    assert lines(straight[0].logdir) == lines(tmp_path / "run")


def test_a_finished_run_started_again_adds_nothing(world, straight):
    before = lines(straight[0].logdir)
    again = world.train(straight[0].logdir)
    assert again.finished and again.evaluation.returns == straight[0].evaluation.returns
    assert lines(straight[0].logdir) == before


def test_an_evaluation_can_be_played_again(world, straight):
    result, _ = straight
    assert evaluate_agent(result.logdir).returns == result.evaluation.returns
    assert result.evaluation.lengths == [LIMIT] * 2
    assert lines(result.logdir)[-1]["eval/return"] == pytest.approx(np.mean(result.evaluation.returns))
    assert evaluate_agent(result.logdir, seed=5).returns != result.evaluation.returns
    assert len(evaluate_agent(result.logdir, episodes=3).returns) == 3


def test_the_sampling_policy_is_evaluated_beside_the_greedy_one(world, straight, tmp_path):
    result = world.train(tmp_path / "run", "eval_sampled=2")
    last, without = lines(result.logdir)[-1], lines(straight[0].logdir)[-1]
    assert {key: value for key, value in last.items() if not key.startswith("eval_sampled/")} == without
    assert last["eval_sampled/episodes"] == 2 and last["eval_sampled/return"] != last["eval/return"]
    sampled = evaluate_agent(result.logdir, episodes=2, sample=True)
    assert last["eval_sampled/return"] == pytest.approx(np.mean(sampled.returns))


def test_equal_seeds_are_equal_and_others_are_others(world, tmp_path):
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        world.toy(tmp_path / name, f"seed={seed}", "eval_every=0")
    one, two, three = (lines(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two and [line.keys() for line in one] == [line.keys() for line in three]
    assert one[-1]["eval/return"] != three[-1]["eval/return"]


def test_counters_begin_where_the_given_state_left_off(world, tmp_path):
    first = world.toy(tmp_path / "first", "eval_every=0")
    world.toy(tmp_path / "second", "frames=120", "eval_every=0", start=first.state)
    begun = [line for line in lines(tmp_path / "second") if "train_ratio" in line]
    assert int(first.state.updates) == 18 and int(first.state.skipped) == 4
    assert [(line["updates"], line["skipped"]) for line in begun] == [(18, 4), (18 + 2 + 2 * 2, 5)]
    # The prefill is played by what was learned, not by chance.
    assert begun[0]["agent_steps"] == agent_steps(30)
    with pytest.raises(ConfigError, match="start: the train state given is of other networks"):
        world.train(tmp_path / "third", start=first.state)


def test_a_film_shows_the_first_episode_of_the_final_evaluation(world, tmp_path):
    drawn = dataclasses.replace(
        pure.pendulum(), render=lambda state: jnp.full((8, 8, 3), state.velocity * 10 + 128).astype(jnp.uint8)
    )
    config = world.config("frames=120", "eval_every=0")
    make = drawn if world.name == "device" else lambda: host(drawn, config.env)
    result = train_agent(config, tmp_path / "run", make=make, console=quiet(), algorithm=toy.make)
    assert result.evaluation.frames.shape == (LIMIT + 1, 8, 8, 3)
    films = [path.name for path in (tmp_path / "run" / "videos").iterdir()]
    assert films == [f"policy-{2 * agent_steps(60):012d}.gif"]


def test_a_loaded_agent_acts_and_tells_its_checkpoint(world, straight):
    agent = load_agent(straight[0].logdir)
    assert agent.step == 120 and load_agent(straight[0].logdir, 50).step == 50
    ups, downs = agent.act(np.float32([1, 0, 0]), first=True), agent.act(np.float32([-1, 0, 3]), first=True)
    assert ups.shape == (1,) and abs(ups) <= 1 and ups != downs


# ---- hooks ---------------------------------------------------------------------------------------------------------


def test_hooks_are_told_what_the_log_says(world, straight):
    result, told = straight
    by_kind = {
        kind: [entry[1:] for entry in told if entry[0] == kind] for kind in ("episode", "log", "evaluation", "save")
    }
    written = lines(result.logdir)
    assert [metrics.without_time(record) for _, record in by_kind["log"]] == [
        line for line in written if "train_ratio" in line
    ]
    for moment, record in by_kind["log"]:
        assert (moment.agent_steps, moment.env_frames, moment.updates) == tuple(
            record[name] for name in metrics.COUNTERS
        )
        assert (moment.index, moment.config.seed) == (0, 0)
    assert [moment.entries for moment, _ in by_kind["evaluation"]] == [60, 120]
    assert by_kind["evaluation"][-1][1].returns == result.evaluation.returns
    assert [(moment.entries, moment.updates) for (moment,) in by_kind["save"]] == [(50, 4), (100, 14), (120, 18)]
    # Rows 10, 20, ... 60 end an episode in each lane.
    assert sum(int(ended.episodes) for _, ended in by_kind["episode"]) == LANES * 6
    assert {int(ended.steps) / int(ended.episodes) for _, ended in by_kind["episode"]} == {LIMIT}
    logged = sum(line.get("train/return", 0) * line.get("train/episodes", 0) for line in written)
    assert sum(float(ended.mean * ended.episodes) for _, ended in by_kind["episode"]) == pytest.approx(logged, rel=1e-5)


def test_a_hook_sees_what_was_learned_and_can_end_the_run(world, tmp_path):
    actions = []
    hooks = Hooks(
        on_save=lambda moment: actions.append((moment.entries, float(moment.state().params["action"][0]))),
        should_stop=lambda: len(actions) == 2,
    )
    result = world.toy(tmp_path / "run", "eval_every=0", hooks=hooks)
    assert result.finished and [entries for entries, _ in actions] == [50, 100, 100]
    assert actions[1][1] == pytest.approx(float(result.state.params["action"][0]))
    before = lines(tmp_path / "run")
    again = world.toy(tmp_path / "run", "eval_every=0")  # it is over, whoever starts it
    assert again.finished and lines(tmp_path / "run") == before
    more = world.toy(tmp_path / "run", "eval_every=0", "frames=300")  # until it is given another budget
    assert more.finished and int(more.state.updates) > int(result.state.updates)


def test_a_return_that_is_reached_ends_the_run_and_it_stays_ended(world, tmp_path):
    words = ("eval_every=30", "stop_at_return=-1e9")
    result = world.toy(tmp_path / "run", *words)
    assert result.finished and checkpoint.steps(tmp_path / "run" / "checkpoints") == [30]
    again = world.toy(tmp_path / "run", *words)
    assert again.finished and again.evaluation.returns == result.evaluation.returns
    higher = world.toy(
        tmp_path / "run", "eval_every=30", "stop_at_return=1e9"
    )  # never reached: to the end of the budget
    assert higher.finished and int(higher.state.updates) == 18


def test_the_best_checkpoint_is_kept_beside_the_newest(world, tmp_path):
    """Its action drifts by 0.01 an update; what comes of it is the task's affair, so the log says which was best."""
    words = ("eval_every=30", "keep_best=true", "keep_checkpoints=1")
    world.toy(tmp_path / "run", "frames=180", *words)
    world.toy(tmp_path / "run", *words)  # and over a resume
    played = [line for line in lines(tmp_path / "run") if "eval/return" in line]
    best = max(played, key=lambda line: line["eval/return"])
    (step,) = checkpoint.steps(tmp_path / "run" / "best")
    assert agent_steps(step) == best["agent_steps"]
    kept = checkpoint.read_host(tmp_path / "run" / "best", step)
    assert kept["return"] == pytest.approx(best["eval/return"], rel=1e-6)
    agent = load_agent(tmp_path / "run", best=True, algorithm=toy.make)
    assert agent.step == step and float(agent.params["action"][0]) == pytest.approx(
        0.01 * good_updates(best["updates"])
    )
    again = evaluate_agent(tmp_path / "run", best=True, algorithm=toy.make)
    assert np.mean(again.returns) == pytest.approx(best["eval/return"], rel=1e-6)


def good_updates(updates: int) -> int:
    return updates - (updates + 2) // 5


def test_no_best_is_said_so(world, straight):
    with pytest.raises(checkpoint.CheckpointMissing, match=r"run\.keep_best"):
        evaluate_agent(straight[0].logdir, best=True)
    with pytest.raises(checkpoint.CheckpointMissing, match=r"run\.keep_best"):
        load_agent(straight[0].logdir, best=True)
