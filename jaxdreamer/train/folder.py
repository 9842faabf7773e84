"""A run's folder as training finds it: may this configuration go on with what lies there, and on which environment."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jaxdreamer import config as configs
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.envs.host.spaces import read_spec
from jaxdreamer.envs.interpreter.gym_api import describe_space
from jaxdreamer.errors import JaxdreamerError
from jaxdreamer.files import at_home
from jaxdreamer.record import checkpoint
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.stored import figures_of, naming_rewrite, read_config, trained_config
from jaxdreamer.saving import write_json
from jaxdreamer.train.crew import Crew
from jaxdreamer.types import EnvSpec

# A run's stored experience and parameters mean nothing under another value of these.
FIXED = ("seed", "algorithm", "env.", "model.", "replay.capacity", "replay.context", "replay.shards", "replay.held_out",
          "replay.on_disk", "run.start")  # fmt: skip

_PARTS = {"all": "world model, actor and critic", "world_model": "world model"}


def load_run(logdir: str | os.PathLike[str]) -> tuple[Config, EnvSpec]:
    """The configuration and environment spec of a run."""
    rundir = RunDir(logdir)
    config = read_config(rundir)
    with naming_rewrite(rundir):
        return config, read_spec(rundir.spec)


def describe(spec: EnvSpec) -> list[tuple[str, str]]:
    """Observation keys and action parts, each with its label."""
    kinds = {"image": "convolutions", "vector": "dense layers", "discrete": "one-hot, dense layers"}
    lines = [
        (f"observation {key}", f"{'x'.join(map(str, item.shape)) or 'scalar'} {item.dtype} -> {kinds[item.kind]}")
        for key, item in spec.obs.items()
    ]
    parts = [
        f"{p.size} number{'s' * (p.size > 1)} in [-1, 1]" if p.kind == "continuous" else f"1 of {p.size}"
        for p in spec.action.parts
    ]
    return [*lines, ("action", ", ".join(parts))]


def with_its_precision(rundir: RunDir, config: Config, start_over: bool) -> Config:
    """``config`` with ``model.precision=auto`` settled as that of the run that the folder holds, where it holds one.

    A run keeps the precision that it began with: on another machine ``auto`` must not change its numbers.
    """
    if config.model.precision != "auto" or start_over or not checkpoint.steps(rundir.checkpoints):
        return config
    stored = trained_config(rundir) or read_config(rundir)
    return configs.replace(config, {"model.precision": stored.model.precision})


def began_with(config: Config) -> str:
    """Where a run began; empty where its weights were fresh."""
    return f"{_PARTS[config.run.start_parts]} of {config.run.start}" if config.run.start else ""


def with_its_start(rundir: RunDir, config: Config, start_over: bool) -> Config:
    """``config`` with a whole path as ``run.start``; where none is asked for, with that of the run that the folder holds."""
    if config.run.start:
        source = at_home(config.run.start).absolute()
        if source == rundir.path:
            raise ConfigError(f"run.start: {source} is the run itself; choose another --logdir for the new one")
        return configs.replace(config, {"run.start": str(source)})
    if start_over or not checkpoint.steps(rundir.checkpoints):
        if config.run.start_parts != "all":
            raise ConfigError(
                f"run.start_parts={config.run.start_parts} says what is taken from run.start, which is empty"
            )
        return config
    stored = (trained_config(rundir) or read_config(rundir)).run
    return configs.replace(config, {"run.start": stored.start, "run.start_parts": stored.start_parts})


def settle_config(rundir: RunDir, config: Config, start_over: bool) -> dict[str, tuple[Any, Any]]:
    """What a configuration changes of the run that the folder holds, old and new value by name.

    ConfigError where it may not be trained there. ``start_over``: what is there is going to be discarded.
    """
    steps = checkpoint.steps(rundir.checkpoints)
    if any(figures_of(host) is not None for host in checkpoint.hosts(rundir.checkpoints).values()):
        raise ConfigError(
            f"{rundir.path} holds a saved agent, with no optimizers or replay to go on with: choose another --logdir, and "
            f"begin that run with its weights: --start {rundir.path}"
        )
    if not rundir.exists and not steps:
        ours = (rundir.path / "lock").exists()  # a start that was refused before it came to anything
        if rundir.path.is_dir() and any(rundir.path.iterdir()) and not ours:
            if seeds := [path.name for path in sorted(rundir.path.glob("seed-*")) if RunDir(path).exists]:
                raise ConfigError(
                    f"{rundir.path} holds the runs of several seeds: resume all of them with --seeds {len(seeds)}, or one "
                    f"with --logdir {rundir.path / seeds[0]}"
                )
            raise ConfigError(f"{rundir.path} is not empty and holds no run of jaxdreamer: choose another --logdir")
        return {}
    if not steps and rundir.saved and not start_over:
        raise ConfigError(
            f"{rundir.path} holds a run whose checkpoints are missing: restore {rundir.checkpoints.name}/, choose another "
            "--logdir, or start over there with --start-over, which deletes the run's metrics, replay and films"
        )
    if not steps or start_over:
        return {}  # it ended before its first checkpoint: there is nothing to go on with, and nothing to lose
    # What the checkpoint was trained with: config.json may have been edited since.
    changes = configs.difference(trained_config(rundir) or read_config(rundir), config)
    changes.pop("preset", None)
    # What only says where and how a simulator is run may change: another machine may need it otherwise.
    free = {f"env.{name}" for name in configs.with_metadata(config.env, "free")}
    refused = {key: change for key, change in changes.items() if key.startswith(FIXED) and key not in free}
    if refused:
        lines = "\n".join(f"  {key}: the run has {old!r}, asked for {new!r}" for key, (old, new) in refused.items())
        raise ConfigError(
            f"{rundir.path} holds another run; these settings cannot change within one:\n{lines}\n"
            "choose another --logdir, or leave them out to keep the run's own"
        )
    return changes


def check_spec(rundir: RunDir, spec: EnvSpec) -> str | None:
    """ConfigError where the environment is not what the run was trained on; a sentence where that cannot be read."""
    try:
        stored = read_spec(rundir.spec)
    except JaxdreamerError as error:
        return f"{rundir.spec.name} is rewritten ({error})"
    if stored != spec:
        raise ConfigError(
            f"{rundir.path}: the environment is not what the run was trained on: observations and actions were "
            f"{stored.to_dict()}, now {spec.to_dict()}; is it another task, or another version of its library? "
            f"Where only {rundir.spec.name} was changed, delete it: it is written anew"
        )
    return None


def check_loop(rundir: RunDir, loop: str) -> None:
    """The loops store different things: one cannot go on from the other's checkpoint."""
    for host in checkpoint.hosts(rundir.checkpoints).values():
        if host.get("loop") in ({"host", "device"} - {loop}):
            raise ConfigError(
                f"{rundir.path} was trained by the loop on the {host['loop']}, which the loop on the {loop} cannot resume: "
                f"set run.loop={host['loop']}, or choose another --logdir"
            )


def write_spec(rundir: RunDir, spec: EnvSpec, spaces: dict[str, Any] | None) -> None:
    """Keep the spec, and the environment's own spaces beside it: a loaded agent acts in its units without it."""
    described = {name: None if space is None else describe_space(space) for name, space in (spaces or {}).items()}
    write_json(rundir.spec, {**spec.to_dict(), "step_seconds": spec.step_seconds, "spaces": described or None})


_SEEN = 30.0  # seconds that a shared file system may take for showing a file to another machine


@contextmanager
def opened(folders: Sequence[RunDir], crew: Crew) -> Iterator[list[MetricsLog]]:
    """The folders locked, and a log in each; of several processes by the first. The others' logs are thrown away.

    ConfigError where another process does not see the first one's folder.
    """
    with ExitStack() as stack:
        if crew.leads:
            for folder in folders:
                stack.enter_context(folder)
        _check_shared(folders, crew)
        hidden = None if crew.leads else stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxdreamer-"))
        paths = [folder.metrics if hidden is None else Path(hidden) / f"{i}.jsonl" for i, folder in enumerate(folders)]
        yield [stack.enter_context(MetricsLog(path)) for path in paths]


def _check_shared(folders: Sequence[RunDir], crew: Crew) -> None:
    for folder in folders:
        held = crew.from_lead("opening the run's folder", folder.holder if crew.leads else "")
        until = time.monotonic() + _SEEN
        while not crew.leads and folder.holder != held:
            if time.monotonic() > until:
                raise ConfigError(
                    f"{folder.path} on {socket.gethostname()} is not the folder that process 0 writes: all processes "
                    "of a run need one folder, on a file system that their machines share"
                )
            time.sleep(0.1)
