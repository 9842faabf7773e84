"""The command line: ``jaxdreamer train | evaluate | plot | presets | envs | check-env | doctor``.

Settings are flags made from the configuration's dataclasses (``--model.deter-size 300``), or ``key=value`` words
(``deter_size=300``), in any mixture; ``--env ID`` and ``--obs MODE`` are short for ``--env.id`` and ``--env.obs``.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdreamer import config as configs
from jaxdreamer.config import Config, ConfigError, nearest
from jaxdreamer.errors import JaxdreamerError

COMMANDS = {
    "train": "train an agent, or go on with a run",
    "evaluate": "play a run's newest checkpoint without exploration",
    "plot": "draw learning curves of one or more runs",
    "presets": "list the presets and what each sets",
    "envs": "list the environments that are installed",
    "check-env": "look for what is wrong with an environment",
    "doctor": "say what works here, and what to install for the rest",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. What the user can mend is a message, not a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: jaxdreamer COMMAND [...]\n")
        print("\n".join(f"  {command:10} {text}" for command, text in COMMANDS.items()))
        print("\n`jaxdreamer COMMAND --help` tells more.")
        return 0
    if name == "--version":
        from jaxdreamer import __version__

        print(f"jaxdreamer {__version__}")
        return 0
    if name not in COMMANDS:
        return _fail(f"unknown command {name!r}{nearest(name, COMMANDS)}; there are: {', '.join(COMMANDS)}")
    try:
        return globals()[f"_{name.replace('-', '_')}"](arguments[1:])
    except KeyboardInterrupt:
        return 130
    except JaxdreamerError as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    print(f"jaxdreamer: {message}", file=sys.stderr)
    return 2


@dataclass(frozen=True)
class TrainOptions:
    """What `train` takes beside the settings."""

    preset: str | None = None
    logdir: Path | None = None
    sinks: tuple[str, ...] = ()
    seeds: int = 0
    """Agents side by side, each in a folder of its own; 0: one, in the folder itself."""


def parse_train(arguments: Sequence[str]) -> tuple[Config, Path, TrainOptions]:
    """Configuration, run folder and further options from the words after ``jaxdreamer train``.

    Where the folder holds a run and no preset is named, the run's own configuration is what the settings change.
    """
    import tyro

    words, options = _split_words(arguments)
    logdir = options.logdir
    found = list(logdir.glob("seed-*/config.json" if options.seeds else "config.json")) if logdir else []
    stored = min(found, key=lambda path: (len(path.parent.name), path.parent.name), default=None)  # the lowest seed
    if stored is not None and options.preset is None:
        base = configs.load(stored)
    else:
        base = configs.preset(options.preset or "dreamer_v1")
    config = tyro.cli(
        Config,
        default=base,
        args=words,
        prog="jaxdreamer train",
        description=(
            "Train an agent. Beside the settings below, which start from a preset:\n"
            "--preset NAME[,NAME...]  where the settings start from; `jaxdreamer presets` lists them\n"
            "--logdir DIR             where the run is written; a run that is there already goes on\n"
            "--seeds N                train N agents side by side on the device, each in DIR/seed-K\n"
            "--tensorboard, --wandb   write metrics there too\n"
            "--env ID, --obs MODE     short for --env.id and --env.obs\n"
            "key=value                any setting, by its name with or without its group\n"
        ),
        config=(tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed),
    )
    config = configs.replace(config, {})  # tyro converts; this validates
    if logdir is None:
        logdir = Path("runs") / f"{config.env.task}-{config.preset.replace(',', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    return config, logdir, options


def _split_words(arguments: Sequence[str]) -> tuple[list[str], TrainOptions]:
    """Flags as tyro wants them, and the options that are not settings."""
    short = {"--env": "--env.id", "--obs": "--env.obs"}
    taken: dict[str, Any] = {}
    sinks: list[str] = []
    words: list[str] = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        flag, has_value, value = word.partition("=")
        if flag in ("--preset", "--logdir", "--seeds"):
            if not has_value and not pending:
                raise ConfigError(f"{flag} needs a value")
            taken[flag[2:]] = value if has_value else pending.pop(0)
        elif word in ("--tensorboard", "--wandb"):
            sinks.append(word[2:])
        elif not word.startswith("-") and has_value:
            key = configs.resolve_name(flag)
            # Parsed here, where a wrong word is told with its setting's name, and handed on as tyro spells it.
            parsed = configs.parse(key, value)
            configs.replace(Config(), {key: parsed})
            words += [f"--{key.replace('_', '-')}", *_spell(parsed)]
        elif word.startswith("--") and flag != "--help":
            key = configs.resolve_name(short.get(flag, flag)[2:])
            values = [value] if has_value else []
            while not has_value and pending and not pending[0].startswith("--") and "=" not in pending[0]:
                values.append(pending.pop(0))
            if len(values) == 1:  # several are a tuple's, and tyro's to check
                values = _spell(configs.parse(key, values[0]))
            words += [f"--{key.replace('_', '-')}", *values]
        else:
            words.append(word)
    logdir = Path(taken["logdir"]) if "logdir" in taken else None
    seeds = taken.get("seeds", "0")
    if not seeds.isdigit():
        raise ConfigError(f"--seeds takes a number of agents, found {seeds!r}")
    return words, TrainOptions(taken.get("preset"), logdir, tuple(sinks), int(seeds))


def _spell(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return [str(value)]


def _train(arguments: Sequence[str]) -> int:
    config, logdir, options = parse_train(arguments)
    from rich.console import Console

    from jaxdreamer.train.run import train_agent, train_seeds

    console = Console(stderr=True)
    if options.seeds:
        results = train_seeds(config, logdir, options.seeds, sinks=options.sinks, console=console)
    else:
        results = [train_agent(config, logdir, sinks=options.sinks, console=console)]
    for result in results:
        if result.evaluation is None:
            return 130
        _tell(result, console)
    return 0


def _tell(result: Any, console: Any) -> None:
    """What a finished run came to."""
    from jaxdreamer.record import metrics

    scores = result.evaluation.metrics()
    points = metrics.curve(metrics.read(result.logdir / "metrics.jsonl"), "eval/return")
    frames, values = zip(*points)
    films = sorted((result.logdir / "videos").glob("policy-*"))
    lines = [
        f"learning curve (evaluation return, {frames[0]:,} to {frames[-1]:,} frames): {spark(values)}",
        f"final evaluation of {len(result.evaluation.returns)} episodes without exploration: mean return "
        f"{scores['eval/return']:.1f} (lowest {scores['eval/return_min']:.1f}, highest {scores['eval/return_max']:.1f})",
        *(f"film of the learned policy: {film}" for film in films[-1:]),
        f"everything is in {result.logdir}; play it again with: jaxdreamer evaluate {result.logdir}",
    ]
    for line in lines:  # whole, however narrow a log file is believed to be, and whatever a folder is called
        console.print(line, soft_wrap=True, markup=False)


def spark(values: Sequence[float]) -> str:
    """A curve in one line of text: the lowest value to the highest, with both named."""
    low, high = min(values), max(values)
    blocks = "▁▂▃▄▅▆▇█"
    steps = [blocks[int((value - low) / ((high - low) or 1) * (len(blocks) - 1))] for value in values]
    return f"{low:.0f} {''.join(steps)} {high:.0f}"


@dataclass(frozen=True)
class EvaluateOptions:
    """Play a run's newest checkpoint without exploration and print the returns."""

    logdir: Path
    """The run's folder."""
    episodes: int | None = None
    """How many episodes; the run's own number by default."""
    seed: int | None = None
    """Seed of the environments; the run's own by default, which repeats its evaluation exactly."""
    film: Path | None = None
    """Save a film of the first episode there: .gif, or .mp4 with the extra `video`."""


def _evaluate(arguments: Sequence[str]) -> int:
    import tyro

    words = [f"--logdir={word}" if i == 0 and not word.startswith("-") else word for i, word in enumerate(arguments)]
    options = tyro.cli(EvaluateOptions, args=words, prog="jaxdreamer evaluate")
    from jaxdreamer.train.run import evaluate_agent

    result = evaluate_agent(options.logdir, episodes=options.episodes, seed=options.seed, film=options.film)
    for index, (total, length) in enumerate(zip(result.returns, result.lengths)):
        print(f"episode {index}: return {total:.2f}, {length} steps")
    scores = result.metrics()
    print(f"mean return {scores['eval/return']:.2f}, deviation {scores['eval/return_std']:.2f}")
    return 0


def _plot(arguments: Sequence[str]) -> int:
    import tyro

    from jaxdreamer.record.plot import plot_curves

    def plot(logdirs: tuple[Path, ...], /, out: Path = Path("curve.png"), y: str = "eval/return") -> None:
        """Draw a metric of one or more runs against env frames.

        Args:
            logdirs: run folders.
            out: the picture.
            y: the metric's name in metrics.jsonl.
        """
        print(plot_curves(logdirs, out, y=y))

    tyro.cli(plot, args=list(arguments), prog="jaxdreamer plot")
    return 0


def _presets(arguments: Sequence[str]) -> int:
    del arguments
    for name, values in configs.PRESETS.items():
        print(name)
        for key, value in values.items():
            print(f"  {key} = {value}")
    return 0


def _envs(arguments: Sequence[str]) -> int:
    import tyro

    def envs(backend: str = "") -> None:
        """List the environments that are installed.

        Args:
            backend: of this one only; of all whose libraries are there by default.
        """
        from jaxdreamer.envs.registry import backends, tasks

        for name in [backend] if backend else backends():
            try:
                found = tasks(name)
            except configs.MissingExtra as error:
                if backend:
                    raise
                print(f"--env.backend {name}: {str(error).splitlines()[-1]}")
                continue
            print(f"--env.backend {name}")
            print("\n".join(f"  --env {task}" for task in found))

    tyro.cli(envs, args=list(arguments), prog="jaxdreamer envs")
    return 0


def _check_env(arguments: Sequence[str]) -> int:
    """Like `train`, with ``--make module:function`` for an environment that is registered nowhere."""
    words, make_name = list(arguments), ""
    for index, word in enumerate(words):
        if word.partition("=")[0] == "--make":
            make_name = word.partition("=")[2] or "".join(words[index + 1 : index + 2])
            del words[index : index + (1 if "=" in word else 2)]
            break
    if words in (["--help"], ["-h"]):
        print(
            "usage: jaxdreamer check-env [--env ID] [--make MODULE:FUNCTION] [settings as for train]\n\n"
            "Plays two instances side by side with random actions and says what is wrong with them: spaces, types, ranges,\n"
            "order of calls, flags at the end, rewards, seeds. FUNCTION takes nothing and returns a gymnasium environment.\n"
            "The exit status is 1 where something has to be mended."
        )
        return 0
    config = parse_train(words)[0].env
    from jaxdreamer.envs.check import check_env
    from jaxdreamer.envs.gymnasium_env import wrap
    from jaxdreamer.envs.registry import imported, make_env

    function = imported("--make", make_name) if make_name else None
    report = check_env(lambda: make_env(config) if function is None else wrap(function(), config))
    for finding in report.findings:
        print(f"{finding.level}: {finding.text}")
    low, mean, high = report.reward
    print(
        f"{report.steps} steps, {report.episodes} episodes ended, {report.terminal} of them by the task itself; rewards "
        f"{low:.3g} to {high:.3g}, {mean:.3g} in the mean"
    )
    print("nothing has to be mended" if report.ok else "what is called an error above has to be mended")
    return 0 if report.ok else 1


def _doctor(arguments: Sequence[str]) -> int:
    import tyro

    def doctor() -> None:
        """Say what works here, and what to install for the rest: devices, drawing, versions, environments."""
        from jaxdreamer.doctor import lines

        print("\n".join(lines()))

    tyro.cli(doctor, args=list(arguments), prog="jaxdreamer doctor")
    return 0
