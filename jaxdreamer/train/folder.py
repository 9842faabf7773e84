"""A run's folder as training finds it: may this configuration go on with what lies there, and on which environment."""

from __future__ import annotations

import os
from typing import Any

from jaxdreamer import config as configs
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.envs.spaces import describe_space, read_spec
from jaxdreamer.record import checkpoint
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.saving import write_json
from jaxdreamer.types import EnvSpec

# A run's stored experience and parameters mean nothing under another value of these.
FIXED = ("seed", "env.", "model.", "replay.capacity")
# Of these, what only says where and how a simulator is run: another machine may need it otherwise.
_UNITY = ("file_name", "worker_id", "base_port", "timeout_wait", "additional_args", "log_folder", "python")
FREE = ("env.workers", "env.worker_timeout", "env.max_restarts", *(f"env.unity_{name}" for name in _UNITY))


def load_run(logdir: str | os.PathLike[str]) -> tuple[Config, EnvSpec]:
    """The configuration and environment spec of a run."""
    rundir = RunDir(logdir)
    rundir.check_exists()
    return configs.load(rundir.config), read_spec(rundir.spec)


def describe(spec: EnvSpec) -> list[str]:
    """Observation keys and action parts, a line each."""
    kinds = {"image": "convolutions", "vector": "dense layers", "discrete": "one-hot, dense layers"}
    lines = [
        f"observation {key}: {'x'.join(map(str, item.shape)) or 'scalar'} {item.dtype} -> {kinds[item.kind]}"
        for key, item in spec.obs.items()
    ]
    parts = [f"{p.size} numbers in [-1, 1]" if p.kind == "continuous" else f"1 of {p.size}" for p in spec.action.parts]
    return [*lines, f"action: {', '.join(parts)}"]


def settle_config(rundir: RunDir, config: Config) -> tuple[Config, dict[str, tuple[Any, Any]]]:
    """The configuration to run with, and what it changes of a run that is there already."""
    if not rundir.exists:
        ours = (rundir.path / "lock").exists()  # a start that was refused before it came to anything
        if rundir.path.is_dir() and any(rundir.path.iterdir()) and not ours:
            if seeds := [path.name for path in sorted(rundir.path.glob("seed-*")) if RunDir(path).exists]:
                raise ConfigError(
                    f"{rundir.path} holds the runs of several seeds: go on with all by --seeds {len(seeds)}, or with one by "
                    f"--logdir {rundir.path / seeds[0]}"
                )
            raise ConfigError(f"{rundir.path} is not empty and holds no run of jaxdreamer: choose another --logdir")
        return config, {}
    if not checkpoint.steps(rundir.checkpoints):
        return config, {}  # it ended before its first checkpoint: there is nothing to go on with, and nothing to lose
    changes = configs.difference(configs.load(rundir.config), config)
    changes.pop("preset", None)
    refused = {key: change for key, change in changes.items() if key.startswith(FIXED) and key not in FREE}
    if refused:
        lines = "\n".join(f"  {key}: the run has {old!r}, asked for {new!r}" for key, (old, new) in refused.items())
        raise ConfigError(
            f"{rundir.path} holds another run; these settings cannot change within one:\n{lines}\n"
            "choose another --logdir, or leave them out to go on with the run's own"
        )
    return config, changes


def check_spec(rundir: RunDir, spec: EnvSpec) -> None:
    """ConfigError where the environment is not what the run was trained on."""
    stored = read_spec(rundir.spec)
    if stored != spec:
        raise ConfigError(
            f"{rundir.path}: the environment is not what the run was trained on: observations and actions were "
            f"{stored.to_dict()}, now {spec.to_dict()}; is it another task, or another version of its library?"
        )


def check_loop(rundir: RunDir, loop: str) -> None:
    """The loops store different things: one cannot go on from the other's checkpoint."""
    for host in checkpoint.hosts(rundir.checkpoints).values():
        if host["loop"] != loop:
            raise ConfigError(
                f"{rundir.path} was trained by the loop on the {host['loop']} and cannot go on with that on the {loop}: "
                f"set run.loop={host['loop']}, or choose another --logdir"
            )


def write_spec(rundir: RunDir, spec: EnvSpec, spaces: dict[str, Any] | None) -> None:
    """Keep the spec, and the environment's own spaces beside it: a loaded agent acts in its units without it."""
    described = {name: None if space is None else describe_space(space) for name, space in (spaces or {}).items()}
    write_json(rundir.spec, {**spec.to_dict(), "spaces": described or None})
