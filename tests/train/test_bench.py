"""Where the time goes: parts that add up to the wall time, each charged with what it does and with nothing else."""

from __future__ import annotations

import dataclasses
import io
import time

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.envs.host.gymnasium_env import wrap
from jaxdreamer.envs.host.vector import LocalVectorEnv
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.replay.prefetch import Prefetcher
from jaxdreamer.train import bench
from jaxdreamer.train.api import bench_agent
from jaxdreamer.train.bench import Split
from jaxdreamer.train.device import parts
from jaxdreamer.train.host.collect import Collector
from jaxdreamer.train.telemetry import Clock
from tests.envs.toy import CountingEnv
from tests.replay.feed import make
from tests.train import test_device, test_run

SPLIT = Split(
    config=test_run.tiny("num_envs=2", "action_repeat=2"), loop="host", device="cpu (cpu)", auto="float32", lanes=2,
    draws=False, wall=10.0, entries=100, updates=10,
    seconds={"environment": 2.0, "policy": 1.0, "sample": 0.5, "transfer": 0.5, "update": 4.0, "log": 1.0},
)  # fmt: skip


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_time_within_something_else_counts_once():
    clock = Clock()
    with clock.timed("outer"):
        time.sleep(0.02)
        with clock.timed("inner"):
            assert clock.now == "inner"
            time.sleep(0.04)
            clock.book("booked", 0.01)
        assert clock.now == "outer"
    assert clock.now == "" and clock.seconds["booked"] == 0.01
    assert 0.02 <= clock.seconds["outer"] < 0.04 and 0.03 <= clock.seconds["inner"] < 0.05
    shares = clock.take(0, 0)
    assert sum(value for name, value in shares.items() if name.startswith("time/share_")) <= 1.0
    with clock.timed("inner"):
        pass
    later = clock.take(0, 0)
    assert later["time/share_outer"] == 0.0 and later["time/share_inner"] > 0.0
    assert clock.seconds["outer"] >= 0.02  # in all


def test_updates_that_a_training_is_short_of_are_counted_in():
    """100 entries lead to 20 updates, of which the time held 10: twice the updates, and what they wait for."""
    assert SPLIT.covered == pytest.approx(0.9) and SPLIT.updates_held == 0.5
    assert SPLIT.shares == pytest.approx(
        {
            "environment": 2 / 15, "policy": 1 / 15, "sample": 1 / 15, "transfer": 1 / 15, "update": 8 / 15, "log": 1 / 15,
            "other": 1 / 15,
        }
    )  # fmt: skip
    assert SPLIT.largest == "update" and SPLIT.rates == pytest.approx((200 / 15, 20 / 15))
    assert (SPLIT.each("update"), SPLIT.each("environment"), SPLIT.each("other")) == pytest.approx((0.4, 0.04, 0.02))
    # On the device a transfer is what a call of the program costs, whatever it does.
    assert dataclasses.replace(SPLIT, loop="device").whole["transfer"] == 0.5


def test_a_wait_for_a_batch_is_split_into_gathering_and_putting():
    def put(value):
        time.sleep(0.06)
        return value

    with Prefetcher(lambda number: time.sleep(0.03), put) as prefetcher:
        prefetcher.request(1)
        prefetcher.get()
        assert 0.06 <= prefetcher.waited_for_put < 0.09
        prefetcher.request(2)
        time.sleep(0.2)
        prefetcher.get()
        assert prefetcher.waited_for_put < 0.03  # it was there already


class Slow:
    """Environments that advance by themselves and take ``seconds`` from the action on."""

    def __init__(self, envs, seconds):
        self._envs, self._seconds, self.overlaps = envs, seconds, True

    def __getattr__(self, name):
        return getattr(self._envs, name)

    def send(self, actions):
        self._envs.send(actions)
        self._ready = time.perf_counter() + self._seconds

    def receive(self):
        time.sleep(max(0.0, self._ready - time.perf_counter()))
        return self._envs.receive()


@jax.jit
def learn(params, turns):
    """The same parameters, after so many turns of a product."""
    *others, last = jax.tree.leaves(params)
    matrix = jax.lax.fori_loop(0, turns, lambda _, x: jnp.tanh(x @ x), jnp.eye(128))
    return jax.tree.unflatten(jax.tree.structure(params), [*others, last + 0.0 * matrix[0, 0]])


@pytest.mark.parametrize("slower", ["update", "environment"])
def test_waiting_is_the_time_of_what_takes_longer(slower):
    """An update runs beside the environments' step: the loop waits for both, and the shorter one would not be missed."""
    config = test_run.tiny("num_envs=2").env
    local = LocalVectorEnv([wrap(CountingEnv(), config) for _ in range(2)])
    envs = Slow(local, 0.3 if slower == "environment" else 0.1)
    algorithm = make_algorithm(test_run.tiny(), envs.spec)
    clock = Clock()
    collector = Collector(envs, algorithm, make(spec=envs.spec, lanes=2, capacity=200), jax.random.key(0), clock)
    state = jax.jit(algorithm.init)(jax.random.key(0))
    params = algorithm.acting(state.params, state.aux)
    for _ in range(2):  # compiles
        collector.step(params)
        collector.begin(params)
        params = jax.block_until_ready(learn(params, 1))
    began = time.perf_counter()
    params = jax.block_until_ready(learn(params, 1000))
    turns = 1 if slower == "environment" else int(1000 * 0.6 / (time.perf_counter() - began)) + 1
    collector.step(params)
    collector.begin(params)
    clock.seconds.clear()
    began = time.perf_counter()
    params = learn(params, turns)
    collector.step(params)
    collector.begin(params)
    wall = time.perf_counter() - began
    assert wall > 0.2 and clock.seconds[slower] > 0.7 * wall, clock.seconds
    if slower == "update":  # not even what it waited for them
        assert clock.seconds["environment"] < 0.08
    assert set(clock.seconds) <= {"environment", "update", "policy"} and sum(clock.seconds.values()) <= wall


def test_parts_of_a_program_are_differences_of_what_its_calls_took():
    measured = parts.Parts.__new__(parts.Parts)
    measured._spent = {"call": 1.0, "random": 8.0, "rows": 20.0, "learn": 30.0, "store": 2.0, "sample": 5.0}
    measured._done = {"call": 100, "random": 40, "rows": 50, "learn": 10, "store": 20, "sample": 50}
    measured._turns = 100  # of a hundredth of a second each for calls
    assert measured.each() == pytest.approx(
        {"environment": 0.075, "policy": 0.205, "store": 0.1, "sample": 0.1, "update": 2.8, "transfer": 0.01}
    )
    measured._done["learn"] = 0
    with pytest.raises(JaxdreamerError, match="no update was made"):
        measured.each()


@pytest.fixture(scope="module")
def splits():
    """Timed by the processor's time: what else runs on the machine does not count."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (bench, parts):
            patch.setattr(module, "perf_counter", time.process_time)
        on_device = {
            name: bench_agent(test_device.tiny(), seeds=seeds, seconds=1.5, console=quiet())
            for name, seeds in (("device", 0), ("seeds", 2))
        }
    host = test_run.tiny("env=Pendulum-v1", "capacity=2000", preset="dreamer_v2,tiny")
    with_workers = configs.replace(host, {"env.num_envs": 2, "env.workers": 2})
    return on_device | {
        "host": bench_agent(host, seconds=1.0, console=quiet()),
        "workers": bench_agent(with_workers, seconds=1.0, console=quiet()),
    }


@pytest.mark.parametrize("name", ["host", "workers", "device", "seeds"])
def test_the_parts_add_up_to_the_wall_time(splits, name):
    split = splits[name]
    parts = [split.seconds[part] for part in ("environment", "store", "sample", "transfer", "update", "log")]
    if split.loop == "host":
        assert split.covered == pytest.approx(1.0, abs=0.05) and min(parts) > 0, split.seconds
    else:  # timed apart from the whole, here for a very short time and beside other tests: only gross errors are seen
        assert 0.4 < split.covered < 2.5 and min(parts) >= 0, split.seconds
    assert sum(split.shares.values()) == pytest.approx(1.0)
    assert split.lanes == {"host": 1, "workers": 2}.get(name, 3)
    assert split.updates_held > 0 and split.entries > 5
