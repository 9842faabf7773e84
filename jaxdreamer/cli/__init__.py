"""The command line, ``jaxdreamer COMMAND``: train, evaluate, runs, plot, report and others, see COMMANDS.

Each command is a function of its options, a frozen dataclass: a field there, with its text below, is an option.
:mod:`jaxdreamer.cli.words` reads the words.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxdreamer import config as configs
from jaxdreamer.cli import benching, completing, data, environments, exporting, looking, sweeping, training, words
from jaxdreamer.cli.training import parse_train
from jaxdreamer.config import Config
from jaxdreamer.errors import ConfigError, JaxdreamerError, nearest, shown

__all__ = ["COMMANDS", "main", "parse_train"]


@dataclass(frozen=True)
class PresetsOptions:
    """List the presets, or what one sets."""

    name: str = field(default="", metadata=words.BARE)
    """The one whose settings to show, or several that stack, as in dreamer_v2,small."""


@dataclass(frozen=True)
class MetricsOptions:
    """Explain the names in metrics.jsonl."""

    name: str = field(default="", metadata=words.BARE)
    """Only this one."""


@dataclass(frozen=True)
class HelpOptions:
    """Describe a command and its options."""

    command: str = field(default="", metadata=words.BARE)
    """The command to describe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors that a user can fix are a message without a traceback."""
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
    except BrokenPipeError:  # the reader of the pipe has ended, as in `jaxdreamer envs | head`
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


def _presets(options: PresetsOptions) -> int:
    if not options.name:
        print("\n".join(f"{name:21} {about}" for name, about in configs.ABOUT.items()))
        print("\n`jaxdreamer presets NAME` shows what one sets.")
        return 0
    for name in configs.presets_of(options.name):
        print(name)
        for key, value in configs.PRESETS[name].items():
            print(f"  {key} = {value}")
    return 0


def _metrics(options: MetricsOptions) -> int:
    from jaxdreamer.train.metrics import NAMES, sentence

    if options.name:
        text = sentence(options.name)
        if text is None:
            raise ConfigError(f"no metric is called {shown(options.name)}{nearest(options.name, NAMES)}")
        print(f"{options.name}: {text}")
        return 0
    print("\n".join(f"{name}: {sentence}" for name, sentence in NAMES.items()))
    return 0


def _completion(options: completing.CompletionOptions) -> int:
    del options
    print(completing.script(COMMANDS))
    return 0


def _help(options: HelpOptions) -> int:
    if options.command:
        return _run(options.command, ["--help"])
    print("usage: jaxdreamer COMMAND [...]\n")
    print(
        "\n".join(
            f"  {name:10} {(command.options.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()
        )
    )
    print("\n`jaxdreamer COMMAND --help` says more.")
    return 0


class Command(NamedTuple):
    """A function of its options and, where it takes them, of settings. The options' docstring describes it."""

    run: Callable[..., int]
    options: type
    settings: Callable[[], Config] | None = None
    """Where its settings start from."""


COMMANDS = {
    "train": Command(training.train, training.TrainOptions, configs.preset),
    "sweep": Command(sweeping.sweep, sweeping.SweepOptions, configs.preset),
    "evaluate": Command(training.evaluate, training.EvaluateOptions),
    "runs": Command(looking.runs, looking.RunsOptions),
    "report": Command(looking.report, looking.ReportOptions),
    "plot": Command(looking.plot, looking.PlotOptions),
    "export": Command(exporting.export, exporting.ExportOptions),
    "data": Command(data.data, data.DataOptions),
    "bench": Command(benching.bench, benching.BenchOptions, configs.preset),
    "presets": Command(_presets, PresetsOptions),
    "metrics": Command(_metrics, MetricsOptions),
    "envs": Command(environments.envs, environments.EnvsOptions),
    "check-env": Command(environments.check_env, environments.CheckEnvOptions, Config),
    "doctor": Command(environments.doctor, environments.DoctorOptions),
    "completion": Command(_completion, completing.CompletionOptions),
    "help": Command(_help, HelpOptions),
}


def _command(name: str) -> Command:
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {shown(name)}{nearest(name, COMMANDS)}; there are: {', '.join(COMMANDS)}")
    return COMMANDS[name]
