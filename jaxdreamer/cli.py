"""The command line: ``jaxdreamer train | evaluate | plot | presets | envs | check-env | doctor | help``.

Each command is a function of its options, a frozen dataclass: a field there, with its text below, is an option. How the
words are read is :mod:`jaxdreamer.words`'s.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxdreamer import config as configs
from jaxdreamer import words
from jaxdreamer.config import Config, ConfigError, EnvConfig, nearest
from jaxdreamer.errors import JaxdreamerError, shown
from jaxdreamer.files import shell_word

if TYPE_CHECKING:
    from jaxdreamer.record.rundir import RunDir


@dataclass(frozen=True)
class TrainOptions:
    """Train an agent, or resume the run in --logdir.

    Settings that are not given come from the preset, or from the run that is resumed.
    """

    preset: str | None = field(default=None, metadata={"takes": "NAME[,NAME...]"})
    """The preset that settings start from, or several that stack, as in dreamer_v2,small. Default: dreamer_v1.
    `jaxdreamer presets` lists them."""
    logdir: Path | None = None
    """Where to write the run; a run that is already there is resumed. Default: a new folder in runs/."""
    seeds: int = 0
    """Train this many agents side by side on the device, each in LOGDIR/seed-K. 0: one, in the folder itself."""
    tensorboard: bool = False
    """Write metrics for TensorBoard, too."""
    wandb: bool = False
    """Write metrics to Weights & Biases, too."""
    trust: bool = False
    """Let a resumed run import the modules and start the programs that its config.json names. Those named on this command
    line need no permission."""

    start_over: bool = False
    """Start over if LOGDIR already holds a run: its checkpoints, metrics, replay and films are deleted."""
    drop_damaged_replay: bool = False
    """Resume without the parts of the stored replay that are damaged or missing."""

    @property
    def sinks(self) -> tuple[str, ...]:
        """Names of the further places for metrics."""
        return tuple(name for name in ("tensorboard", "wandb") if getattr(self, name))


@dataclass(frozen=True)
class EvaluateOptions:
    """Play the newest checkpoint of a run without exploration and print the returns."""

    logdir: Path = field(metadata=words.BARE)
    """The run's folder, or one that --seeds made, of which every run is played."""
    episodes: int | None = None
    """How many episodes. Default: the run's own number."""
    seed: int | None = None
    """Seed of the environments. Default: the run's own, which repeats its evaluation exactly."""
    film: Path | None = None
    """Save a film of the first episode there: .gif, or .mp4 with the extra `video`."""
    trust: bool = False
    """Let the run import the modules and start the programs that its config.json names."""


@dataclass(frozen=True)
class PlotOptions:
    """Plot a metric of one or more runs against env frames, in the terminal and as a picture."""

    logdirs: tuple[Path, ...] = field(metadata=words.BARE)
    """Folders of runs, folders that --seeds made, or metrics.jsonl files."""
    out: Path = Path("curve.png")
    """The picture: .png, .svg or .pdf."""
    y: str = "eval/return"
    """The metric's name in metrics.jsonl."""


@dataclass(frozen=True)
class PresetsOptions:
    """List the presets and what each sets."""

    name: str = field(default="", metadata=words.BARE)
    """Only this one, or several that stack, as in dreamer_v2,small."""


@dataclass(frozen=True)
class EnvsOptions:
    """List the environments that are installed."""

    backend: str = field(default="", metadata=words.BARE)
    """Only this one's. Default: those of every backend whose library is installed."""


@dataclass(frozen=True)
class CheckEnvOptions:
    """Look for what is wrong with an environment.

    Plays two instances side by side with random actions and reports what is wrong: spaces, types, ranges, order of calls,
    flags at an episode's end, rewards, seeds. The exit status is 1 if something needs mending.
    """

    preset: str | None = field(default=None, metadata={"takes": "NAME[,NAME...]"})
    """The preset that settings start from, as for train. Without one, each action is played for one step."""
    make: str = field(default="", metadata={"takes": "MODULE:FUNCTION"})
    """A function without arguments that returns an environment, for one that is not registered."""


@dataclass(frozen=True)
class DoctorOptions:
    """Report what works here and what to install for the rest: devices, drawing, versions, environments."""


@dataclass(frozen=True)
class HelpOptions:
    """Describe a command and its options."""

    command: str = field(default="", metadata=words.BARE)
    """The command to describe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. What the user can mend is a message, not a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has no blocks for curves shows question marks
            stream.reconfigure(errors="replace")
    name, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    try:
        if name == "--version":
            from jaxdreamer import __version__

            print(f"jaxdreamer {__version__}")
            return 0
        status = _run("help" if name in ("-h", "--help") else name, rest)
        sys.stdout.flush()  # here, where a reader who has gone is no traceback
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read what is printed has seen enough, as in `jaxdreamer envs | head`
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        return 141
    except JaxdreamerError as error:
        print(f"jaxdreamer: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        # About a file that the user named, or that lies where the user said: a name too long, a folder that is closed.
        print(f"jaxdreamer: {shown(str(error.filename))} cannot be used: {error.strerror}", file=sys.stderr)
        return 2


def _see_modules_here() -> None:
    """Let ``module:function`` name a module of the working folder, also in worker processes, which inherit the path.

    At its end: what lies in the folder must not take the place of an installed library. And only where the user named such
    a module or trusts who did: a folder that was downloaded may hold one of the name of a library that is not installed.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.append(here)


def _run(name: str, arguments: Sequence[str]) -> int:
    command = _command(name)
    said = words.read(arguments, name, command.options, command.settings is not None)
    if said.help:
        named = said.options.get("preset")
        base = configs.preset(named) if named else command.settings and command.settings()
        print(words.help_text(name, command.options, base))
        return 0
    options = said.fill(name, command.options)
    return command.run(options, said.settings) if command.settings else command.run(options)


def parse_train(arguments: Sequence[str]) -> tuple[Config, Path, TrainOptions]:
    """Configuration, run folder and options from the words after ``jaxdreamer train``."""
    said = words.read(arguments, "train", TrainOptions, settings=True)
    options = said.fill("train", TrainOptions)
    return *_settled(options, said.settings), options


def _settled(options: TrainOptions, settings: Mapping[str, Any]) -> tuple[Config, Path]:
    """Configuration and run folder. Where the folder holds a run and no preset is named, the run's own configuration is
    what the settings change.
    """
    from jaxdreamer.envs.trust import foreign, refuse_untrusted

    logdir = options.logdir
    stored = _stored_run(options)
    if stored is not None and options.preset is None:
        from jaxdreamer.record.stored import read_config

        config = configs.replace(read_config(stored), settings)
        if not options.trust:
            refuse_untrusted(config.env, stored.config, own=settings)
    else:
        config = configs.preset(options.preset or "dreamer_v1", **settings)
    if foreign(config.env):
        _see_modules_here()
    if logdir is None:
        logdir = Path("runs") / f"{config.env.task}-{config.preset.replace(',', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    return config, logdir


def _stored_run(options: TrainOptions) -> RunDir | None:
    """The run that ``--logdir`` holds, of several seeds the lowest one's; None where it holds none."""
    from jaxdreamer.record.rundir import RunDir, runs_of

    if options.logdir is None:
        return None
    run = RunDir(runs_of(options.logdir)[0] if options.seeds else options.logdir)
    return run if run.exists or run.saved else None


def _train(options: TrainOptions, settings: Mapping[str, Any]) -> int:
    config, logdir = _settled(options, settings)
    # XLA reports a compile of some minutes as an error of its own. What does go wrong in it is raised all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxdreamer.envs.trust import trust_word
    from jaxdreamer.record.progress import lasting
    from jaxdreamer.train.run import train_agent, train_seeds

    console = lasting()
    if options.seeds:
        results = train_seeds(
            config, logdir, options.seeds, sinks=options.sinks, console=console, start_over=options.start_over
        )
    else:
        result = train_agent(
            config,
            logdir,
            sinks=options.sinks,
            console=console,
            start_over=options.start_over,
            drop_damaged_replay=options.drop_damaged_replay,
        )
        results = [result]
    for result in results:
        if result.evaluation is None:
            return 130
        _tell(result, console, trust_word(config.env))
    return 0


def _curve_line(points: Sequence[tuple[float, float]]) -> list[str]:
    from jaxdreamer.record.plot import spark

    if not points:  # of a finished run whose metrics are gone
        return []
    frames, values = zip(*points)
    return [f"learning curve (evaluation return, {frames[0]:,} to {frames[-1]:,} frames): {spark(values)}"]


def _tell(result: Any, console: Any, trust: str) -> None:
    """What a finished run came to."""
    from jaxdreamer.record import metrics

    scores = result.evaluation.metrics()
    points = metrics.curve(metrics.read(result.logdir / "metrics.jsonl"), "eval/return")
    films = sorted((result.logdir / "videos").glob("policy-*"))
    quoted = shell_word(result.logdir)
    lines = [
        *_curve_line(points),
        f"final evaluation of {len(result.evaluation.returns)} episodes without exploration: mean return "
        f"{scores['eval/return']:.1f} (lowest {scores['eval/return_min']:.1f}, highest {scores['eval/return_max']:.1f})",
        *(f"film of the learned policy: {film}" for film in films[-1:]),
        f"everything is in {result.logdir}; play it again with: jaxdreamer evaluate {quoted}{trust}",
    ]
    for line in lines:  # whole, however narrow a log file is believed to be, and whatever a folder is called
        console.print(line, soft_wrap=True, markup=False, emoji=False)


def _evaluate(options: EvaluateOptions) -> int:
    from jaxdreamer.record.rundir import runs_of
    from jaxdreamer.train.run import evaluate_agent

    if options.trust:
        _see_modules_here()
    runs = runs_of(options.logdir)
    several = len(runs) > 1
    means = []
    for run in runs:
        film = options.film
        if several:
            print(f"{run.name}:")
            film = film and film.with_stem(f"{film.stem}-{run.name}")
        result = evaluate_agent(run, episodes=options.episodes, seed=options.seed, film=film, trust=options.trust)
        for index, (total, length) in enumerate(zip(result.returns, result.lengths)):
            print(f"episode {index}: return {total:.2f}, {length} steps")
        scores = result.metrics()
        means.append(scores["eval/return"])
        print(f"mean return {scores['eval/return']:.2f}, deviation {scores['eval/return_std']:.2f}", flush=True)
    if several:
        told = ", ".join(f"{run.name} {mean:.2f}" for run, mean in zip(runs, means))
        print(f"mean return of {len(runs)} seeds: {fmean(means):.2f} ({told})")
    return 0


def _plot(options: PlotOptions) -> int:
    from jaxdreamer.record.plot import draw, read_curves, spark

    curves = read_curves(options.logdirs, y=options.y)
    for name, points in curves.items():
        frames, values = zip(*points)
        print(f"{name}: {options.y}, {frames[0]:,} to {frames[-1]:,} frames: {spark(values)}")
    print(draw(curves, options.out, y=options.y))
    return 0


def _presets(options: PresetsOptions) -> int:
    for name in configs.presets_of(options.name) if options.name else configs.PRESETS:
        print(name)
        for key, value in configs.PRESETS[name].items():
            print(f"  {key} = {value}")
    return 0


def _envs(options: EnvsOptions) -> int:
    from jaxdreamer.envs.registry import backends, tasks

    for name in [options.backend] if options.backend else backends():
        try:
            found = tasks(name)
        except configs.MissingExtra as error:
            if options.backend:
                raise
            print(f"--env.backend {name}: {str(error).splitlines()[-1]}")
            continue
        print(f"--env.backend {name}")
        print("\n".join(f"  --env {task}" for task in found))
    return 0


def _check_env(options: CheckEnvOptions, settings: Mapping[str, Any]) -> int:
    base = configs.preset(options.preset, **settings) if options.preset else configs.replace(Config(), settings)
    config = base.env
    from jaxdreamer.envs.check import check_env
    from jaxdreamer.envs.host.instance import as_env
    from jaxdreamer.envs.host.outcome import told
    from jaxdreamer.envs.named import imported
    from jaxdreamer.envs.registry import make_env
    from jaxdreamer.envs.trust import foreign

    if options.make or foreign(config):
        _see_modules_here()
    function = imported("--make", options.make) if options.make else None
    envs: list[Any] = []

    def make() -> Any:
        if function is None:
            env = make_env(config)
        else:
            with told(options.make):
                made = function()
            env = as_env(made, config)
        if not envs:
            print("\n".join(_about(env, config, options.make)), flush=True)
        envs.append(env)
        return env

    report = check_env(make, seed=base.seed)
    for note in getattr(envs[0], "notes", []):
        print(f"note: {note}")
    for finding in report.findings:
        print(f"{finding.level}: {finding.text}")
    low, mean, high = report.reward
    print(
        f"{report.steps} steps, {report.episodes} episodes ended, {report.terminal} of them by the task itself; rewards "
        f"{low:.3g} to {high:.3g}, {mean:.3g} on average"
    )
    print("nothing needs mending" if report.ok else "the errors above need mending")
    return 0 if report.ok else 1


def _about(env: Any, config: EnvConfig, made_by: str) -> list[str]:
    """What is checked: the environment, its own spaces, what the library makes of them, and how it is played."""
    from jaxdreamer.train.folder import describe

    lines = [f"checking {made_by or f'{shown(config.id)} of backend {config.backend}'}"]
    for name, space in (getattr(env, "spaces", None) or {}).items():
        if space is not None:
            lines.append(f"{name} space: {textwrap.shorten(str(space), 300)}")
    lines += describe(env.spec)
    repeat = config.action_repeat
    often = f"each repeated {repeat} times (env.action_repeat)" if repeat > 1 else "each for one step"
    bounds = "" if env.spec.action.is_discrete else ", every tenth at its bounds"
    return [*lines, f"played with random actions{bounds}, {often}"]


def _doctor(options: DoctorOptions) -> int:
    from jaxdreamer.doctor import lines

    print("\n".join(lines()))
    return 0


def _help(options: HelpOptions) -> int:
    if options.command:
        return _run(options.command, ["--help"])
    print("usage: jaxdreamer COMMAND [...]\n")
    print("\n".join(f"  {name:10} {command.summary}" for name, command in COMMANDS.items()))
    print("\n`jaxdreamer COMMAND --help` says more.")
    return 0


class Command(NamedTuple):
    """One of them: a function of its options and, where it takes them, of settings."""

    run: Callable[..., int]
    options: type
    summary: str
    settings: Callable[[], Config] | None = None
    """Where its settings start from."""


COMMANDS = {
    "train": Command(_train, TrainOptions, "train an agent, or resume a run", configs.preset),
    "evaluate": Command(_evaluate, EvaluateOptions, "play a run's newest checkpoint without exploration"),
    "plot": Command(_plot, PlotOptions, "draw learning curves of one or more runs"),
    "presets": Command(_presets, PresetsOptions, "list the presets and what each sets"),
    "envs": Command(_envs, EnvsOptions, "list the environments that are installed"),
    "check-env": Command(_check_env, CheckEnvOptions, "look for what is wrong with an environment", Config),
    "doctor": Command(_doctor, DoctorOptions, "report what works here and what to install for the rest"),
    "help": Command(_help, HelpOptions, "describe a command and its options"),
}


def _command(name: str) -> Command:
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {shown(name)}{nearest(name, COMMANDS)}; there are: {', '.join(COMMANDS)}")
    return COMMANDS[name]
