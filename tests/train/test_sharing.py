"""Runs shared out over devices: what is refused, and that one device pays nothing. The rest needs a process of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.cli import parse_train
from jaxdreamer.config import ConfigError
from jaxdreamer.nets.networks import part_of
from jaxdreamer.ops.across import ALONE
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.train.api import train_agent
from jaxdreamer.train.placement import FIRST, WHOLE, one_device
from jaxdreamer.train.sharing import settle_shards, shared_algorithm
from tests.agent import cases

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_on_four_devices():
    """on_four_devices.py, in a process whose CPU is four devices."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "tests/train/on_four_devices.py"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def on(devices):
    return one_device()._replace(devices=devices)


def settle(*words, devices, seeds=1, on_device=True, tmp_path=Path("nowhere")):
    config = configs.preset("dreamer_v1", "backend=pure", "env=pendulum", *words)
    folders = [RunDir(tmp_path / f"{seed}") for seed in range(seeds)]
    return settle_shards(config, folders, on(devices), on_device=on_device, start_over=False).replay.shards


def test_numbers_that_devices_do_not_divide_are_refused_with_those_that_they_would():
    with pytest.raises(ConfigError) as refused:
        settle("batch_size=50", "num_envs=8", devices=4)
    assert str(refused.value) == (
        "replay.batch_size 50 cannot be shared out evenly over 4 devices: 48 or 52 can; 1, 2, 5, 10, 25 or 50 devices could"
    )
    with pytest.raises(ConfigError, match=r"env.num_envs 6 .* over 4 devices: 4 or 8 can; 1, 2, 3 or 6 devices could"):
        settle("batch_size=48", "num_envs=6", devices=4)
    with pytest.raises(ConfigError, match=r"env.num_envs 3 .* over replay.shards 4: 4 can; 1 or 3 shards could"):
        settle("batch_size=48", "num_envs=3", "replay.shards=4", devices=2)
    with pytest.raises(ConfigError, match=r"replay.shards=4 cannot .* over 3 devices: use --devices 1, 2 or 4"):
        settle("batch_size=48", "num_envs=12", "replay.shards=4", devices=3)
    with pytest.raises(
        ConfigError, match=r"6 seeds cannot .* over 4 devices: 4 or 8 seeds can; 1, 2, 3 or 6 devices could"
    ):
        settle(devices=4, seeds=6)
    with pytest.raises(ConfigError, match=r"batch_size 50 cannot .* over 3 devices: 48 or 51 can"):
        settle(devices=3, on_device=False)
    with pytest.raises(ConfigError, match=r"replay.shards=2 is for environments on the device"):
        settle("replay.shards=2", devices=1, on_device=False)


def test_shards_are_as_many_as_devices_where_a_run_begins_and_nothing_is_said():
    words = ("batch_size=48", "num_envs=8")
    assert [settle(*words, devices=n) for n in (1, 2, 4)] == [0, 2, 4]
    assert settle(*words, "replay.shards=8", devices=2) == 8
    assert settle(*words, devices=2, seeds=4) == 0  # each seed is whole on its device
    assert settle(*words, devices=4, on_device=False) == 0  # one replay on the host


def test_a_run_of_one_group_cannot_be_shared_out_later(tmp_path):
    words = ["backend=pure", "env=pendulum", "num_envs=4", "action_repeat=1", "time_limit=9", "prefill=32", "frames=33",
             "pretrain=0", "eval_every=0", "eval_episodes=1", "capacity=400", "video=false", "train_every=50"]  # fmt: skip
    config, quiet = configs.preset("dreamer_v1,tiny", *words), Console(file=io.StringIO())
    train_agent(config, tmp_path, console=quiet)
    with pytest.raises(ConfigError, match=r"drawn from all environments alike .* it goes on with --devices 1"):
        settle_shards(config, [RunDir(tmp_path)], on(4), on_device=True, start_over=False)
    assert settle_shards(config, [RunDir(tmp_path)], on(4), on_device=True, start_over=True).replay.shards == 4
    named = configs.replace(config, {"replay.shards": 1})  # which is what it has
    assert settle_shards(named, [RunDir(tmp_path)], on(1), on_device=True, start_over=False).replay.shards == 0
    with pytest.raises(ConfigError, match=r"cannot change within one:\n  replay.shards: the run has 0, asked for 2"):
        train_agent(configs.replace(config, {"replay.shards": 2}), tmp_path, console=quiet)


def test_devices_that_are_not_there(tmp_path):
    _, _, options = parse_train(["--devices", "4"])
    assert options.devices == 4
    most = len(jax.devices())
    for wrong in (most + 1, -1):
        with pytest.raises(
            ConfigError, match=rf"devices={wrong}: jax finds {most} here, .*: use 1 to {most}, or 0 for all"
        ):
            train_agent(configs.preset("dreamer_v1,tiny"), tmp_path / "run", devices=wrong)
    assert not (tmp_path / "run").exists()


def test_one_device_pays_nothing():
    """No function is wrapped, no network is another: what is compiled is what there was before."""
    place, networks, update = one_device(), cases.networks("dreamer_v2"), cases.learner("dreamer_v2").update
    assert place.over(update, (WHOLE, FIRST), WHOLE) is update and place.across is ALONE
    assert part_of(networks, ALONE, 3) is networks
    config = cases.config("dreamer_v2")
    text = jax.jit(shared_algorithm(config, cases.VECTOR, place, None, None).update).lower(
        cases.state("dreamer_v2"), cases.batch()
    )
    assert text.as_text() == update.lower(cases.state("dreamer_v2"), cases.batch()).as_text()
    assert not {"all_reduce", "shard", "manual"} & set(text.as_text().split())
