"""Which devices a run is shared out over, and whether its numbers can be; refused in words before anything is compiled."""

from __future__ import annotations

import inspect
import json
import socket
import time
from collections import Counter
from collections.abc import Sequence

import jax

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Algorithm, Make
from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.devices import devices
from jaxdreamer.envs.registry import record_of
from jaxdreamer.nets.networks import Networks
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import read_config, trained_config
from jaxdreamer.train.crew import ALONE as BY_ITSELF
from jaxdreamer.train.crew import Crew
from jaxdreamer.train.placement import Placement, Votes, on_devices, one_device
from jaxdreamer.types import EnvSpec

__all__ = ["by_process", "check_crew", "placement_of", "settle_shards", "shared_algorithm"]


def placement_of(count: int, crew: Crew = BY_ITSELF) -> Placement:
    """On so many of jax's devices, of each process of a crew, 0: all of them. ConfigError where there are fewer."""
    every = sorted(devices(), key=lambda device: device.process_index)
    found = [device for device in every if device.process_index == jax.process_index()]
    if not 0 <= count <= len(found):
        kind = f"{found[0].device_kind} ({found[0].platform})"
        raise ConfigError(
            f"devices={count}: jax finds {len(found)} here, {kind}: use 1 to {len(found)}, or 0 for all (to try several on "
            f"a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={max(2, count)})"
        )
    count = count or len(found)
    if crew.alone:
        return on_devices(found[:count]) if count > 1 else one_device()
    crew.check_same("the number of devices in use", f"{count}", "name one that all have: --devices N")
    each = [[device for device in every if device.process_index == other][:count] for other in range(crew.processes)]
    return on_devices([device for one in each for device in one], crew)


def by_process(crew: Crew) -> list[str]:
    """Which process of several has which devices, and whether these reach each other, in words."""
    mine = [device for device in devices() if device.process_index == jax.process_index()]
    kinds = Counter(f"{device.device_kind} ({device.platform})" for device in mine)
    text = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    each = crew.collect("the list of devices", f"({socket.gethostname()}): {text}")
    votes, start = Votes(placement_of(1, crew)), time.perf_counter()
    votes.cast(crew.leads)
    said = "reach each other" if votes.cast(False) == [True] else "do not reach each other"
    return [
        f"{crew.processes} processes, which {said}; the first time took {time.perf_counter() - start:.2f} s",
        *(f"  process {process} {found}" for process, found in enumerate(each)),
    ]


def check_crew(crew: Crew, config: Config, *, on_device: bool) -> None:
    """ConfigError where several processes cannot train this, or were not all asked for the same."""
    if crew.alone:
        return
    if not on_device:
        _check_host(config)
    said = crew.collect("comparing settings", json.dumps(configs.fields(config), default=str))
    lead, *others = map(json.loads, said)
    for process, other in enumerate(others, 1):
        if differing := [name for name in lead if other.get(name) != lead[name]]:
            each = "; ".join(
                f"{name} is {lead[name]!r} in process 0, {other.get(name)!r} in process {process}"
                for name in differing[:8]
            )
            raise ConfigError(f"all processes must be given the same settings: {each}")


def _check_host(config: Config) -> None:
    """ConfigError for what steps on the host, or does not step, and cannot be shared out over processes."""
    if config.env.id == configs.NO_ENV:
        raise ConfigError(
            "env.id=none: what is learned from data alone is learned in one process, on all its --devices"
        )
    if config.env.backend != "custom" and record_of(config.env.backend).kind == "lanes":
        raise ConfigError(
            f"env.backend={config.env.backend} brings its own environments side by side, which several processes cannot "
            "share out: train it in one process, whose --devices share out its batches"
        )
    if config.replay.on_disk:
        raise ConfigError("replay.on_disk=true is for one process: of several, each holds the replay in its memory")


def settle_shards(
    config: Config, folders: Sequence[RunDir], place: Placement, *, on_device: bool, start_over: bool
) -> Config:
    """The configuration with ``replay.shards`` as this run has it, once its devices are known to divide its numbers.

    Several ``folders``, one of each seed, are shared out whole; otherwise sequences are, and environments on the device. A
    run that is resumed keeps the shards that it began with.

    Raises:
        ConfigError: a number that the devices do not divide; the message names those that they would.
    """
    many, count = len(folders) > 1, place.devices
    if many and len(folders) % count:
        raise ConfigError(
            f"{len(folders)} seeds cannot be shared out evenly over {count} devices: {_near(len(folders), count)} seeds "
            f"can; {_divisors(len(folders))} devices could"
        )
    if not on_device:
        if config.replay.shards > 1:
            raise ConfigError(
                f"replay.shards={config.replay.shards} is for environments on the device; those on the host have one "
                "replay, from which every batch is drawn: leave it out"
            )
        _check("replay.batch_size", config.replay.batch_size, count, "devices")
        if not place.crew.alone:
            _check("env.num_envs", config.env.num_envs, count, "devices")
        return config
    parts = 1 if many else count
    shards = _shards(config, folders[0], parts, start_over)
    if max(1, shards) % parts:
        raise ConfigError(
            f"replay.shards={shards} cannot be shared out evenly over {parts} devices: use --devices "
            f"{_divisors(max(1, shards))}, or begin another run"
        )
    groups = "devices" if shards == parts else "replay.shards"
    _check("replay.batch_size", config.replay.batch_size, max(1, shards), groups)
    _check("env.num_envs", config.env.num_envs, max(1, shards), groups)
    return configs.replace(config, {"replay.shards": shards})


def _shards(config: Config, folder: RunDir, parts: int, start_over: bool) -> int:
    asked, fresh = config.replay.shards, 0 if parts == 1 else parts
    if start_over or not checkpoint.steps(folder.checkpoints):
        return asked or fresh
    stored = (trained_config(folder) or read_config(folder)).replay.shards
    if parts > 1 and max(1, stored) == 1:
        raise ConfigError(
            f"{folder.path} holds a run whose batches are drawn from all environments alike (replay.shards={stored}): it "
            f"goes on with --devices 1. One that begins on several devices, or with replay.shards={parts}, can be shared out"
        )
    return (
        stored if max(1, asked) in (1, max(1, stored)) else asked
    )  # another number is refused as any fixed setting is


def _check(name: str, value: int, count: int, by: str) -> None:
    if value % count:
        who = f"{count} devices" if by == "devices" else f"{by} {count}"
        raise ConfigError(
            f"{name} {value} cannot be shared out evenly over {who}: {_near(value, count)} can; {_divisors(value)} "
            f"{'devices' if by == 'devices' else 'shards'} could"
        )


def _near(value: int, count: int) -> str:
    """The nearest numbers that ``count`` divides."""
    below = value // count * count
    return f"{below} or {below + count}" if below else f"{count}"


def _divisors(value: int) -> str:
    found = [str(n) for n in range(1, value + 1) if value % n == 0]
    shown = found if len(found) <= 8 else [*found[:7], f"... {found[-1]}"]
    return f"{', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else shown[0]


def shared_algorithm(
    config: Config, spec: EnvSpec, placement: Placement, networks: Networks | None, make: Make | None
) -> Algorithm:
    """The algorithm as each of several devices computes it on its part of a batch. ConfigError where it cannot be."""
    if make is not None and "across" not in inspect.signature(make).parameters:
        raise ConfigError(
            f"devices={placement.devices}: this algorithm cannot be shared out, as its make(config, spec, networks) takes "
            "no across=...; with it, descend and commit of jaxdreamer.agent.algorithm average gradients and metrics over "
            "devices. Train it on one device"
        )
    return make_algorithm(config, spec, networks, make=make, across=placement.across)


def described(placement: Placement) -> str:
    """The devices, in words."""
    device = jax.devices()[0]
    kind = f"{device.device_kind} ({device.platform})"
    if not placement.crew.alone:
        return f"{placement.devices} devices of {placement.crew.processes} processes, {kind}"
    return kind if placement.devices == 1 else f"{placement.devices} devices, {kind}"
