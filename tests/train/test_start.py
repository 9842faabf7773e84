"""A run that begins with another one's weights: what is taken, what stays fresh, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import fresh
from jaxdreamer.agent.begin import begin
from jaxdreamer.config import ConfigError
from jaxdreamer.envs.device import pure
from jaxdreamer.envs.trust import Untrusted
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train import start
from jaxdreamer.train.api import evaluate_agent, train_seeds
from jaxdreamer.train.folder import load_run
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec, TrainState
from tests.train.test_contract import LANES, World, quiet
from tests.train.test_run import checkpoint_arrays

# No update is due in it; with pretrain=2 there are two, of the same compiled program.
SHORT = ["frames=88", "eval_every=0", "pretrain=0", "train_every=1000", "eval_episodes=1"]


@pytest.fixture(params=["host", "device"], scope="module")
def world(request):
    return World(request.param)


@pytest.fixture(scope="module")
def first(world, tmp_path_factory):
    """A run that has learned."""
    return world.train(tmp_path_factory.mktemp(world.name) / "first", *SHORT, "pretrain=2")


def same(one, two) -> bool:
    equal = jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), one, two)
    return all(jax.tree.leaves(equal))


def test_it_begins_with_the_weights_and_nothing_else(world, first, tmp_path):
    console, fresh = quiet(), world.train(tmp_path / "fresh", *SHORT)
    source = shutil.copytree(first.logdir, tmp_path / "source")
    begun = world.train(tmp_path / "begun", *SHORT, console=console, start=source)
    assert same(begun.state.params, first.state.params) and same(begun.state.aux, first.state.aux)
    assert not same(begun.state.params["actor"], fresh.state.params["actor"])
    assert same(begun.state.optimizers, fresh.state.optimizers)
    assert int(begun.state.updates) == 0 < int(first.state.updates)
    assert begun.evaluation.returns == evaluate_agent(source).returns
    said = console.file.getvalue()
    assert f"world model, actor and critic of {source}" in said and "as of its checkpoint " in said
    assert load_run(tmp_path / "begun")[0].run.start == str(source)
    # Its prefill was played by what was learned.
    actions = [
        checkpoint_arrays(sorted((tmp_path / name / "checkpoints").iterdir())[-1]) for name in ("begun", "fresh")
    ]
    if world.name == "device":
        assert not np.array_equal(*(each["loop/replay/entries/action"] for each in actions))
    # Resumed, it does not look there again, nor has to be told of it again.
    shutil.rmtree(source)
    again = world.train(tmp_path / "begun", *SHORT, "frames=500")
    assert same(again.state.params, begun.state.params) and again.finished
    assert load_run(tmp_path / "begun")[0].run.start == str(source)
    with pytest.raises(ConfigError, match=r"run.start: the run has '.*source', asked for '.*other'"):
        world.train(tmp_path / "begun", *SHORT, start=tmp_path / "other")


def test_the_world_model_alone_beside_a_fresh_actor(world, first, tmp_path):
    fresh = world.train(tmp_path / "fresh", *SHORT)
    words = (f"start={first.logdir}", "start_parts=world_model")
    begun = world.train(tmp_path / "begun", *SHORT, *words).state
    assert same(begun.params["model"], first.state.params["model"])
    assert same(begun.aux["statistics"], first.state.aux["statistics"])
    assert same(begun.params["critic"], fresh.state.params["critic"])
    assert same(begun.aux["target_critic"], fresh.state.aux["target_critic"])
    assert same(begun.params["actor"], fresh.state.params["actor"])


@pytest.mark.parametrize("parts", ["all", "world_model"])
@pytest.mark.parametrize("there", [True, False])
def test_averages_of_parameters_and_the_range_of_returns_go_with_their_parts(parts, there):
    def state(number: float, averaged: bool) -> TrainState:
        params = {name: jnp.full(2, number) for name in ("model", "actor", "critic")}
        aux = {"target_critic": params["critic"], "statistics": number, "returns": number}
        averages = {"acting": dict.fromkeys(("model", "actor"), number + 0.5)} if averaged else {}
        return fresh(params, {}, aux | averages, jax.random.key(0))

    old = state(1.0, averaged=there)
    aux = begin(state(0.0, averaged=True), old.params, old.aux, parts).aux
    assert float(jnp.mean(aux["acting"]["model"])) == (1.5 if there else 1.0)
    assert float(jnp.mean(aux["acting"]["actor"])) == (0.5 if parts == "world_model" else 1.5 if there else 1.0)
    assert aux["statistics"] == 1.0 and aux["returns"] == (1.0 if parts == "all" else 0.0)
    assert "acting" not in begin(state(0.0, averaged=False), old.params, old.aux, parts).aux


def test_seeds_of_a_task_with_another_reward_begin_with_the_same_weights_and_numbers_of_their_own(tmp_path):
    world, task = World("device"), pure.pendulum()

    def step(state, action):
        state, reward, terminal = task.step(state, action)
        return state, -reward, terminal

    source = world.train(tmp_path / "source", *SHORT)
    config, turned = world.config(*SHORT, f"start={source.logdir}"), dataclasses.replace(task, step=step)
    results = train_seeds(config, tmp_path / "seeds", 2, make=turned, console=quiet())
    one, two = (each.state for each in results)
    assert same(one.params, two.params) and same(one.params, source.state.params)
    assert not np.array_equal(*(jax.random.key_data(each.key) for each in (one, two)))
    assert all(each.evaluation.mean_return > 0 for each in results)


def test_a_start_from_another_kind_of_run_is_refused_by_what_differs(world, first, tmp_path):
    def refused(match, *words, **more):
        with pytest.raises(ConfigError, match=match):
            world.train(tmp_path / "run", *SHORT, *words, **{"start": first.logdir} | more)

    refused("(?s)other observations.*  action: that run has 1 number in .-1, 1., this one 1 of 3\n", "env=counting")
    refused(r"(?s)not this run's:\n  model.units: that run has \d+, this one 17\n.*start_parts=world_model", "units=17")
    refused("was trained by algorithm=dreamer, this run has algorithm=dreamer_v3,", "algorithm=dreamer_v3")
    refused("holds no run: there is no such folder", start=tmp_path / "none")
    refused(
        "start_parts=world_model says what is taken from run.start, which is empty",
        "start_parts=world_model",
        start=None,
    )
    refused("is the run itself", start=tmp_path / "run")
    refused("a train state is given, and run.start is", f"start={first.logdir}", start=first.state)
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_spaces_are_compared_by_name():
    action = ActionSpec((ActionPart("continuous", 1),))
    there = EnvSpec(
        {"state": ArraySpec((3,), "float32", "vector"), "goal": ArraySpec((), "int32", "discrete", 4)}, action
    )
    same_shape = {"goal": ArraySpec((), "int32", "discrete", 5), "state": there.obs["state"]}
    for obs, message in {
        "one": (
            {"state": ArraySpec((4,), "float32", "vector")},
            "state: that run has 3 float32 .*goal: that run .* one none",
        ),
        "two": (same_shape, "'classes': 4.*'classes': 5"),
    }.values():
        with pytest.raises(ConfigError, match=f"(?s){message}"):
            start._refuse_other_spaces(RunDir("there"), there, EnvSpec(obs, action))


def test_an_algorithm_of_ones_own_begins_with_all_it_has(world, tmp_path):
    first = world.toy(tmp_path / "first", "eval_every=0")
    begun = world.toy(tmp_path / "begun", *SHORT, start=first.logdir).state
    assert same(begun.params, first.state.params) and same(begun.aux, first.state.aux) and int(begun.updates) == 0
    with pytest.raises(ConfigError, match="does not say which of its parameters these are"):
        world.toy(tmp_path / "model", *SHORT, "start_parts=world_model", start=first.logdir)


def test_without_a_preset_the_command_line_takes_that_runs_settings(first, tmp_path, monkeypatch):
    config, _, _ = cli.parse_train(["--start", str(first.logdir), "frames=99", f"--logdir={tmp_path / 'run'}"])
    stored = load_run(first.logdir)[0]
    assert config == configs.replace(stored, {"run.start": str(first.logdir), "run.frames": 99})
    assert config.env.num_envs == LANES and config.run.start_parts == "all"
    config, _, _ = cli.parse_train(["--preset", "dreamer_v2", "--start", str(first.logdir)])
    assert config == configs.preset("dreamer_v2", start=str(first.logdir))
    stranger = shutil.copytree(first.logdir, tmp_path / "stranger")
    data = configs.to_dict(stored)
    data["env"] |= {"backend": "gym", "id": "evil_sender:Foo-v0", "options": {}}
    (stranger / "config.json").write_text(json.dumps(data))
    with pytest.raises(Untrusted, match="evil_sender"):
        cli.parse_train(["--start", str(stranger)])
    assert cli.parse_train(["--start", str(stranger), "--trust"])[0].env.id == "evil_sender:Foo-v0"
