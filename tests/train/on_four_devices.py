"""What several devices compute is what one does: run by test_sharing.py in a process that has four, made of one CPU."""

from __future__ import annotations

import functools
import io
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer import doctor
from jaxdreamer.agent.algorithm import kept_layout
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import ConfigError
from jaxdreamer.ops.across import ALONE, Across
from jaxdreamer.ops.distributions import Joint, OneHot, TanhNormal
from jaxdreamer.ops.exploration import random_action
from jaxdreamer.ops.kl import free_nats
from jaxdreamer.ops.moments import merge_moments, no_moments
from jaxdreamer.record import checkpoint, metrics
from jaxdreamer.replay.device import make_device_replay
from jaxdreamer.train.api import train_agent, train_seeds
from jaxdreamer.train.device.loop import DeviceLoop, _where
from jaxdreamer.train.placement import SECOND, THIRD, WHOLE, on_devices, one_device
from jaxdreamer.types import Timestep
from tests.agent import cases
from tests.train import toy
from tests.train.test_run import checkpoint_arrays

B = 8  # sequences of all devices together


def placed(count):
    return on_devices(jax.devices()[:count]) if count > 1 else one_device()


def apart(tree):
    """What each of the four devices holds of arrays that should be alike everywhere."""
    return [jax.tree.map(lambda x, i=i: np.asarray(x.addressable_data(i)), tree) for i in range(4)]


# ---- the seam --------------------------------------------------------------------------------------------------------


def of_a_batch(x, across, wrong=False):
    """Everything that is taken over a whole batch, of [m, B] numbers of which each device has its columns."""
    across, key = across.over(x.shape[1]), jax.random.key(3)
    dist = Joint((TanhNormal(x[..., None], jnp.exp(x[..., None])), OneHot(jnp.stack([x, 2 * x, -x], -1))))
    flat = jax.tree.map(lambda y: y.reshape(-1, y.shape[-1]), dist)  # [m B, ...], sequences fastest
    nats = functools.partial(free_nats, nats=0.15)
    loss = (lambda y: jnp.maximum(jnp.mean(y), 0.15)) if wrong else lambda y: nats(y, across=across)
    value, slope = jax.value_and_grad(loss)(x)
    drawn = (
        across.sample(dist, key, axis=1),
        across.sample(flat, key).reshape(*x.shape, -1),
        across.part(lambda one: one.entropy(key), dist, axis=1)[..., None],
        across.take(random_action(key, cases.HYBRID, x.shape[1] * across.devices))[None],
    )
    moments = merge_moments(no_moments(1)._replace(number=jnp.float32(9)), x.reshape(-1, 1), across=across)
    return (across.mean(value), across.std(x), moments), (slope / across.devices)[..., None], drawn


def test_what_is_taken_over_a_batch_is_that_of_one_device():
    rng = np.random.default_rng(0)
    x = np.float32(
        rng.normal(size=(3, B)) ** 2 * np.linspace(0, 0.5, B)
    )  # on two devices below the free nats, on two above
    alone = jax.jit(functools.partial(of_a_batch, across=ALONE))(x)
    out = (WHOLE, SECOND, SECOND)
    run = lambda **more: jax.jit(placed(4).over(functools.partial(of_a_batch, **more), (SECOND,), out))(x)  # noqa: E731
    found = run(across=Across("devices"))
    cases.assert_trees_close(found, alone, rtol=1e-5, atol=1e-6)
    assert {float(s) for s in np.unique(alone[1])} == {float(np.float32(1 / x.size))}, "the whole batch is above"
    naive = run(across=Across("devices"), wrong=True)
    assert abs(naive[0][0] - alone[0][0]) > 1e-3 and not np.allclose(naive[1], alone[1])


# ---- an update -------------------------------------------------------------------------------------------------------

# V1 is what whole runs below learn with. Long enough that what every device does, the optimizers' part, is little.
STEPS = 14
CASES = {
    "dreamer_v2": ("VECTOR", {"normalize_inputs": True, "actor_gradient": "both", "discount_head": True}),
    "dreamer_v3": ("VECTOR", {"actor_gradient": "reinforce", "warmup": 0}),
}


def updates(version, count, batches):
    """The program of one update, and states and metrics after each of ``batches``."""
    spec, place = getattr(cases, CASES[version][0]), placed(count)
    config = configs.preset(f"{version},tiny", **CASES[version][1])
    algorithm = make_algorithm(config, spec, across=place.across)
    state = place.put(jax.jit(algorithm.init)(jax.random.key(0)), WHOLE)
    batches = [place.put(batch, SECOND) for batch in batches]
    call = jax.jit(place.over(algorithm.update, (WHOLE, SECOND), WHOLE)).lower(state, batches[0]).compile()
    found = []
    for batch in batches:
        state, measured = call(state, batch)
        found.append((state, measured))
    return call, found


@pytest.mark.parametrize("version", CASES)
def test_an_update(version):
    spec_name, changes = CASES[version]
    batch = cases.batch(spec_name, steps=STEPS, lanes=B)
    algorithm = make_algorithm(configs.preset(f"{version},tiny", **changes), getattr(cases, spec_name))
    kept = {key: jnp.zeros((STEPS, B, *shape), dtype) for key, (shape, dtype) in kept_layout(algorithm).items()}
    batch = batch._replace(kept=kept)
    broken = batch._replace(reward=batch.reward.at[2, 5].set(jnp.nan))  # on one device of four
    batches = [batch, batch, broken, batch]
    alone, before = updates(version, 1, batches)
    for count in (2, 4) if version == "dreamer_v2" else (4,):
        call, found = updates(version, count, batches)
        for (state, measured), (state_1, measured_1) in zip(found, before):
            for name in measured_1:
                np.testing.assert_allclose(measured[name], measured_1[name], rtol=1e-4, atol=1e-6, err_msg=name)
            cases.assert_trees_close(state.params, state_1.params, rtol=1e-4, atol=2e-5)
            cases.assert_trees_close(state.aux, state_1.aux, rtol=1e-4, atol=2e-5)
            assert cases.trees_equal(state.key, state_1.key)
    (_, (second, _), (third, measured), (fourth, _)) = found  # of four
    skipped = (third.params, third.optimizers, third.aux)
    assert measured["skipped"] == 1 and cases.trees_equal(skipped, (second.params, second.optimizers, second.aux))
    assert not cases.trees_equal(fourth.params["actor"], third.params["actor"])
    kernels = apart((third.skipped, fourth.params, fourth.aux))
    assert all(cases.trees_equal(kernels[0], other) for other in kernels[1:])

    share = call.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
    assert share <= 0.35, f"{share:.3f} of the operations on each of four devices"
    text = call.as_text()
    assert not re.findall(r"all-to-all|collective-permute|reduce-scatter", text)
    # Each gradient, the metrics, and two for a deviation; free nats and a normalizer take some more, of few numbers.
    most = {"dreamer_v2": 10, "dreamer_v3": 6}[version]
    assert 2 <= len(re.findall(r" all-reduce\(", text)) <= most
    # V3's percentiles are of all returns, [devices, H, N / devices]; nothing else is ever gathered.
    gathered = re.findall(r"= (\S+?)\{\S* all-gather\(", text)
    horizon = configs.preset("dreamer_v3,tiny").behavior.imagine_horizon
    returns = f"f32[4,{horizon},{STEPS * B // 4}]"
    assert gathered in ([], [returns]) if version == "dreamer_v3" else "all-gather" not in text, gathered
    assert not re.findall(r"all-|collective|reduce-scatter", alone.as_text()), "one device pays nothing"


# ---- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cross", [True, False])
def test_windows_do_not_depend_on_devices(cross):
    """Four groups of two lanes: the same windows to the bit, an equal part of each group's."""
    lanes, rng = B, np.random.default_rng(1)
    make = functools.partial(
        make_device_replay, cases.VECTOR, capacity=16 * lanes, lanes=lanes, length=4, batch_size=B,
        cross_episodes=cross, online=cross, groups=4,
    )  # fmt: skip
    rows = []
    for t in range(21):
        first, last = np.full(lanes, t % 7 == 0), np.full(lanes, t % 7 == 6)
        obs = {"state": np.stack([np.full(lanes, t), np.arange(lanes), rng.normal(size=lanes)], -1).astype(np.float32)}
        rows.append((Timestep(obs, np.zeros(lanes, np.float32), first, last, last), np.zeros((lanes, 2), np.float32)))
    rows = jax.tree.map(lambda *x: jnp.stack(x), *rows)

    def fill(count):
        replay, place = make(across=placed(count).across), placed(count)

        def run(state, rows):
            state, _ = jax.lax.scan(lambda s, row: (replay.add(s, *row), replay.can_sample(s)), state, rows)
            batches = []
            for number in range(3):
                batches.append(replay.sample(state, jax.random.key(number)))
                state = replay.seen(state)
            return state.unseen, replay.can_sample(state), jax.tree.map(lambda *x: jnp.stack(x), *batches)

        ring = _where().replay
        return jax.jit(place.over(run, (ring, SECOND), (WHOLE, WHOLE, THIRD)))(replay.init(), rows)

    one = fill(1)
    assert cases.trees_equal(one, fill(2)) and cases.trees_equal(one, fill(4)) and bool(one[1])
    times, lane = np.asarray(one[2].obs["state"])[..., 0], np.asarray(one[2].obs["state"])[..., 1]
    assert (np.diff(times, axis=1) == 1).all() and (lane == lane[:, :1]).all()
    np.testing.assert_array_equal(lane[:, 0] // 2, np.tile(np.repeat(np.arange(4), B // 4), (3, 1)))


# ---- whole runs ------------------------------------------------------------------------------------------------------

TINY = ["backend=pure", "env=pendulum", "num_envs=4", "action_repeat=1", "time_limit=17", "prefill=48", "pretrain=2",
        "train_every=12", "updates=1", "eval_every=0", "log_every=24", "eval_episodes=2", "checkpoint_every=1000",
        "capacity=128", "batch_length=6", "replay.shards=4", "video=false"]  # fmt: skip


QUIET = {"console": Console(file=io.StringIO())}


def train(logdir, *words, devices, **more):
    config = configs.preset("dreamer_v1,tiny", *TINY, *words)
    return train_agent(config, logdir, devices=devices, **QUIET, **more)


@pytest.fixture(scope="module")
def loops():
    """Every device loop that a test has run, to look into."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceLoop, "close", lambda self: seen.append(self))
        yield seen


def collectives(loop):
    return set(re.findall(r" (all-[a-z]+|collective-[a-z]+|reduce-scatter)\(", loop._call.as_text()))


def records(logdir):
    return [metrics.without_time(record) for record in metrics.read(logdir / "metrics.jsonl")]


def arrays(logdir):
    folder = logdir / "checkpoints"
    return checkpoint_arrays(folder / f"{checkpoint.steps(folder)[-1]:012d}")


def assert_same_bits(one, two):
    assert list(arrays(one)) == list(arrays(two)) and len(arrays(one)) > 50
    for (name, a), b in zip(arrays(one).items(), arrays(two).values()):
        np.testing.assert_array_equal(a, b, err_msg=name)


def assert_same_run(one, two):
    """To rounding: what was learned, the replay, the lanes; and, bit for bit, all that is no float."""
    for (name, a), b in zip(arrays(one).items(), arrays(two).values(), strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


def assert_same_lines(one, two, first=None):
    lines, others = records(one)[:first], records(two)[:first]
    assert len(lines) == len(others) >= 4
    for a, b in zip(lines, others):
        assert a.keys() == b.keys()
        # V1 plays evaluations with the best of 100 samples: which that is may change in the last digit of a parameter.
        for name in [name for name in a if not name.startswith("eval/")]:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def on_four(tmp_path_factory, loops):
    logdir = tmp_path_factory.mktemp("four") / "run"
    result = train(logdir, "frames=132", devices=0)  # all of them
    assert result.state.updates == 9 and len(result.state.updates.devices()) == 1
    return logdir


def test_the_device_loop_on_one_two_and_four(on_four, loops, tmp_path):
    four = loops[0]
    shapes = jax.tree.map(lambda x: x.addressable_data(3).shape, four.carry.replay.entries)
    assert shapes.reward == (32, 1) and shapes.obs["state"] == (32, 1, 3)
    for count in (1, 2):
        train(tmp_path / f"{count}", "frames=132", devices=count)
        assert_same_lines(on_four, tmp_path / f"{count}")
        assert_same_run(on_four, tmp_path / f"{count}")
        cases.assert_trees_close(loops[-1].open_loop(0), four.open_loop(0), rtol=1e-3, atol=1e-4)
        assert collectives(loops[-1]) == ({"all-reduce", "all-gather"} if count > 1 else set())
    # Seeds are shared out whole: each is the run that it would be alone.
    config = configs.preset("dreamer_v1,tiny", *TINY, "frames=132")
    train_seeds(config, tmp_path / "seeds", 4, devices=4, **QUIET)
    assert not collectives(loops[-1])
    assert loops[-1].open_loop(2).error
    assert_same_lines(tmp_path / "1", tmp_path / "seeds" / "seed-0")
    assert_same_run(tmp_path / "1", tmp_path / "seeds" / "seed-0")
    assert records(tmp_path / "seeds" / "seed-3")[-1]["eval/return"] != records(on_four)[-1]["eval/return"]


def test_resumed_on_four_two_and_one(on_four, tmp_path):
    train(tmp_path / "a", "frames=96", devices=4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    train(tmp_path / "a", "frames=132", devices=4)
    assert_same_bits(tmp_path / "a", on_four)
    train(tmp_path / "b", "frames=112", "replay.shards=0", devices=2)  # it keeps the shards that it began with
    assert json.loads((tmp_path / "b" / "config.json").read_text())["replay"]["shards"] == 4
    train(tmp_path / "b", "frames=132", devices=1)
    assert_same_run(tmp_path / "b", on_four)
    with pytest.raises(
        ConfigError, match=r"replay.shards=4 cannot be shared out evenly over 3 devices: use --devices 1, 2 or 4"
    ):
        train(tmp_path / "b", "frames=150", devices=3)


def test_the_host_loop_on_one_and_four(tmp_path):
    words = ["prefill=40", "pretrain=2", "train_every=10", "updates=2", "updates_per_call=2", "eval_every=0", "log_every=20",
             "eval_episodes=2", "video=false", "capacity=500", "action_repeat=1", "frames=80", "batch_size=8",
             "backend=gym", "env=Pendulum-v1", "time_limit=15"]  # fmt: skip
    config = configs.preset("dreamer_v1,tiny", *words)
    train_agent(configs.replace(config, {"run.frames": 100}), tmp_path / "1", devices=1, **QUIET)
    train_agent(config, tmp_path / "4", devices=4, **QUIET)
    assert_same_lines(tmp_path / "1", tmp_path / "4", first=4)
    train_agent(configs.replace(config, {"run.frames": 100}), tmp_path / "4", devices=2, **QUIET)
    assert_same_run(tmp_path / "1", tmp_path / "4")


def test_an_algorithm_that_cannot_be_shared_out_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"devices=4: .* takes no across="):
        train(tmp_path / "toy", "frames=60", devices=4, algorithm=toy.make)


def test_the_doctor_counts_them():
    assert "4 x cpu (cpu)" in doctor._machine()[1] and "--devices 4" in doctor._machine()[1]
