"""Whole runs with environments in workers: overlap, resuming, failures, and replay that is right afterwards."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError
from jaxdreamer.envs import EnvError, make_vector, wrap
from jaxdreamer.record import metrics
from jaxdreamer.train.api import train_agent
from jaxdreamer.train.host.loop import HostLoop
from tests.envs.host.troubled import Slow, troubled
from tests.train.test_run import tiny


@pytest.fixture
def make_trainer(start_host):
    """A trainer on workers."""

    def start(config, make, name="run") -> HostLoop:
        def make_envs(count, seed):
            return make_vector(config.env, count, seed, make=make)

        return start_host(config, make_envs(config.env.num_envs, config.seed), make_envs, name)

    return start


def rows_of(trainer):
    return trainer.replay.read_rows(0, trainer.replay.total)


def assert_right(rows):
    """What must hold in replay whatever happened: times count from each reset, flags and rewards fit them."""
    times, first = rows["obs/state"][:, :, 1], rows["is_first"]
    assert (times[first] == 0).all() and first[0].all()
    np.testing.assert_array_equal(times[1:][~first[1:]], times[:-1][~first[1:]] + 1)
    np.testing.assert_array_equal(rows["reward"], times)
    assert not rows["action"][first].any()
    np.testing.assert_array_equal(rows["is_last"][:-1], first[1:])  # where a reset follows, and only there
    assert np.isfinite(rows["obs/state"]).all() and not rows["is_terminal"].any()


@pytest.mark.parametrize("trouble", ["raise", "kill", "hang", "nan"])
def test_the_run_goes_on_and_nothing_in_replay_is_wrong(make_trainer, tmp_path, trouble):
    config = tiny("frames=240", "num_envs=2", "workers=2", f"worker_timeout={6 if trouble == 'hang' else 60}")
    trainer = make_trainer(config, troubled(trouble=trouble, at=50, truncate_at=60, once=str(tmp_path / "once")))
    trainer.run()
    rows = rows_of(trainer)
    assert_right(rows)
    assert (tmp_path / "once").exists()
    lengths = sorted(int(t) for t in rows["obs/state"][:, :, 1][rows["is_last"]])
    assert lengths[0] == 49 and set(lengths[1:]) == {60}  # one episode ends at its last good entry
    assert trainer.updates == 2 + 2 * ((240 - 40) // 10)
    told = metrics.read(tmp_path / "run" / "metrics.jsonl")[-2]
    assert told["env/restarts"] == (0 if trouble == "nan" else 1)
    assert told["env/broken_entries"] == (1 if trouble == "nan" else 0)


def test_a_run_whose_environment_always_fails_stops_with_its_traceback(tmp_path):
    config = tiny("frames=400", "workers=1", "max_restarts=2")
    with pytest.raises(EnvError, match=r"(?s)ZeroDivisionError: the physics.*2 restarts in a row"):
        train_agent(
            config, tmp_path / "run", make=troubled(trouble="raise", truncate_at=0), console=Console(file=io.StringIO())
        )


def test_stopped_and_resumed_equals_straight(make_trainer):
    """The environments were at a step when the checkpoint was made: it is the same step that they go on with."""
    config = tiny("frames=160", "num_envs=2", "workers=2")
    make = troubled(truncate_at=17)
    straight, broken = make_trainer(config, make, "straight"), make_trainer(config, make, "broken")
    straight.run()
    while broken.tally.agent_steps < 90:
        broken.step()
    assert broken.collector.sent is not None
    broken.save()
    broken.close()
    broken.rundir.release()
    fewer = configs.replace(config, {"env.workers": 1})  # how the environments are run may change
    again = make_trainer(fewer, make, "broken")
    again.restore()
    again.run()
    one, two = rows_of(straight), rows_of(again)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    import jax

    for left, right in zip(jax.tree.leaves(straight.state.params), jax.tree.leaves(again.state.params), strict=True):
        np.testing.assert_array_equal(left, right)


def test_settings_of_workers_may_change_within_a_run_and_others_may_not(tmp_path):
    config = tiny("frames=60", "backend=toy", "id=counting", "workers=1")
    quiet = Console(file=io.StringIO())
    train_agent(config, tmp_path / "run", console=quiet)
    more = configs.replace(config, {"env.workers": 0, "run.frames": 80})
    assert train_agent(more, tmp_path / "run", console=quiet).finished
    with pytest.raises(ConfigError, match=r"env\.camera"):
        train_agent(configs.replace(more, {"env.camera": "side"}), tmp_path / "run", console=quiet)


def test_collection_overlaps_learning(make_trainer):
    """Steps of 20 ms beside a training of 20 ms take little longer than either alone; in turn they take both."""

    def seconds(workers):
        config = tiny("frames=10000", f"workers={workers}", "prefill=12", "train_every=1", "updates=1",
                      "updates_per_call=1", "log_every=1000000", "checkpoint_every=1000000")  # fmt: skip
        trainer = make_trainer(config, lambda: wrap(Slow()), f"workers{workers}")
        trainer.train = lambda: time.sleep(0.02)  # a device that computes while the host waits
        trainer.pretrained = True
        for _ in range(20):
            trainer.step()
        start = time.perf_counter()
        for _ in range(20):
            trainer.step()
        return time.perf_counter() - start

    assert seconds(1) < 0.8 * seconds(0)


def test_pixels_of_the_suite_through_workers_into_replay(make_trainer):
    """Frames, flags, scaled actions and final observations of a real task."""
    pytest.importorskip("dm_control")
    from jaxdreamer.envs import make_env

    config = tiny("frames=152", "num_envs=2", "workers=2", "backend=dmc", "id=cartpole-balance", "obs=both",
                  "image_size=16x16", "time_limit=15", "action_repeat=2", "prefill=20")  # fmt: skip
    trainer = make_trainer(config, None)
    trainer.run()
    rows = rows_of(trainer)
    assert trainer.env_frames == 140 and rows["is_last"].sum(0).tolist() == [2, 2]
    assert np.flatnonzero(rows["is_last"][:, 0]).tolist() == [15, 31] and not rows["is_terminal"].any()
    env = make_env(config.env)
    from jaxdreamer.envs import episode_seed

    for lane in range(2):  # the whole first episode, played by itself
        entry = env.reset(episode_seed(config.seed, lane, 0))
        for t in range(16):
            if t:
                entry = env.step(rows["action"][t, lane])
            for key, value in entry.obs.items():
                np.testing.assert_array_equal(value, rows[f"obs/{key}"][t, lane], err_msg=f"{key} {t}")
            assert entry.reward == rows["reward"][t, lane]
    env.close()
