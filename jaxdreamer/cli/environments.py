"""The commands about environments: envs, check-env, doctor."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxdreamer import config as configs
from jaxdreamer.cli import words
from jaxdreamer.cli.training import see_modules_here
from jaxdreamer.config import Config, EnvConfig
from jaxdreamer.errors import MissingExtra, shown


@dataclass(frozen=True)
class EnvsOptions:
    """List the environments that are installed."""

    backend: str = field(default="", metadata=words.BARE)
    """Only this one's. Default: those of every backend whose library is installed."""


@dataclass(frozen=True)
class CheckEnvOptions:
    """Look for problems of an environment.

    Plays two instances side by side with random actions and checks spaces, types, ranges, order of calls,
    flags at an episode's end, rewards, seeds. The exit status is 1 if there is an error.
    """

    preset: str | None = field(default=None, metadata={"takes": "NAME[,NAME...]"})
    """The preset that settings start from, as for train. Without one, each action is played for one step."""
    make: str = field(default="", metadata={"takes": "MODULE:FUNCTION"})
    """A function without arguments that returns an environment, for one that is not registered."""


@dataclass(frozen=True)
class DoctorOptions:
    """Report what works here and what to install for the rest: devices, drawing, versions, environments.

    With --coordinator, started in every process of a run: which has which devices, and whether they reach each other.
    """

    coordinator: str | None = field(default=None, metadata={"takes": "HOST:PORT"})
    """As for train."""
    processes: int | None = None
    """As for train."""
    process: int | None = None
    """As for train."""


def envs(options: EnvsOptions) -> int:
    """``jaxdreamer envs``."""
    from jaxdreamer.envs.registry import backends, tasks

    for name in [options.backend] if options.backend else backends():
        try:
            found = tasks(name)
        except MissingExtra as error:
            if options.backend:
                raise
            print(f"--env.backend {name}: {str(error).splitlines()[-1]}")
            continue
        print(f"--env.backend {name}")
        print("\n".join(f"  --env {task}" for task in found))
    return 0


def check_env(options: CheckEnvOptions, settings: Mapping[str, Any]) -> int:
    """``jaxdreamer check-env``."""
    base = configs.preset(options.preset, **settings) if options.preset else configs.replace(Config(), settings)
    config = base.env
    from jaxdreamer.envs import check
    from jaxdreamer.envs.host.instance import as_env
    from jaxdreamer.envs.host.outcome import reporting
    from jaxdreamer.envs.named import imported
    from jaxdreamer.envs.registry import make_env
    from jaxdreamer.envs.trust import foreign

    if options.make or foreign(config):
        see_modules_here()
    function = imported("--make", options.make) if options.make else None
    made: list[Any] = []

    def make() -> Any:
        if function is None:
            env = make_env(config)
        else:
            with reporting(options.make):
                env = as_env(function(), config)
        if not made:
            print("\n".join(_about(env, config, options.make)), flush=True)
        made.append(env)
        return env

    report = check.check_env(make, seed=base.seed)
    for note in getattr(made[0], "notes", []):
        print(f"note: {note}")
    for finding in report.findings:
        print(f"{finding.level}: {finding.text}")
    low, mean, high = report.reward
    print(
        f"{report.steps} steps, {report.episodes} episodes ended, {report.terminal} of them by the task itself; rewards "
        f"{low:.3g} to {high:.3g}, {mean:.3g} on average"
    )
    print("no problems found" if report.ok else "fix the errors listed above")
    return 0 if report.ok else 1


def _about(env: Any, config: EnvConfig, made_by: str) -> list[str]:
    """What is checked: the environment, its own spaces, what the library makes of them, and how it is played."""
    from jaxdreamer.train.folder import describe

    lines = [f"checking {made_by or f'{shown(config.id)} of backend {config.backend}'}"]
    for name, space in (getattr(env, "spaces", None) or {}).items():
        if space is not None:
            lines.append(f"{name} space: {textwrap.shorten(str(space), 300)}")
    lines += [f"{label}: {said}" for label, said in describe(env.spec)]
    repeat = config.action_repeat
    often = f"each repeated {repeat} times (env.action_repeat)" if repeat > 1 else "each for one step"
    bounds = "" if env.spec.action.is_discrete else ", every tenth at its bounds"
    return [*lines, f"played with random actions{bounds}, {often}"]


def doctor(options: DoctorOptions) -> int:
    """``jaxdreamer doctor``."""
    from jaxdreamer.doctor import lines
    from jaxdreamer.train.crew import start_crew
    from jaxdreamer.train.sharing import by_process

    crew = start_crew(options.coordinator, options.processes, options.process)
    with crew.together():
        print("\n".join(lines() if crew.alone else by_process(crew)))
    return 0
