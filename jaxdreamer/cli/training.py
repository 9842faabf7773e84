"""The commands that make and play runs: train, evaluate."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from jaxdreamer import config as configs
from jaxdreamer.cli import words
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.memory import use_one_arena

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
    config: Path | None = None
    """A YAML or JSON file with settings, by the names that config.json and the command line have; what the command line
    says wins over it."""
    print_config: bool = False
    """Print every setting as YAML, as --config takes it, and train nothing."""
    logdir: Path | None = None
    """Where to write the run; a run that is already there is resumed. Default: a new folder in runs/."""
    seeds: int = 0
    """Train this many agents side by side on the device, each in LOGDIR/seed-K. 0: one, in the folder itself."""
    devices: int = 1
    """How many GPUs, TPUs or CPU devices share the run out: its batches and its environments on the device, or its seeds.
    0: all that there are; of several processes, each uses so many of its own. Numbers are those of the whole run, and the
    result is the same to rounding."""
    coordinator: str | None = field(default=None, metadata={"takes": "HOST:PORT"})
    """Train in several processes, on one or several machines: where process 0 is to be found, the same in all of them; or
    auto under Slurm, Open MPI, Kubernetes or on TPUs."""
    processes: int | None = None
    """How many processes. Each is started with the same settings and --logdir, a folder that all of them see."""
    process: int | None = None
    """Which of them this is, from 0, which writes the folder."""
    tensorboard: bool = False
    """Write metrics for TensorBoard, too."""
    wandb: bool = False
    """Write metrics to Weights & Biases, too."""
    trust: bool = False
    """Let a resumed run import the modules and start the programs that its config.json names, or a new one those that the
    --config file names. Those named on this command line need no permission."""

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
    best: bool = False
    """Play the best checkpoint, of a run that was trained with run.keep_best, instead of the newest."""
    sample: bool = False
    """Act by samples of the policy instead of by its most likely actions."""
    trust: bool = False
    """Let the run import the modules and start the programs that its config.json names."""


def see_modules_here() -> None:
    """Let ``module:function`` name a module of the working folder, also in worker processes, which inherit the path.

    The folder is appended to the path, so that nothing in it shadows an installed library. Only called where the user named
    such a module, or trusts who did: a downloaded folder may contain one with the name of a library that is not installed.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.append(here)


def parse_train(arguments: Sequence[str]) -> tuple[Config, Path, TrainOptions]:
    """Configuration, run folder and options from the words after ``jaxdreamer train``."""
    said = words.read(arguments, "train", TrainOptions, settings=True)
    options = said.fill("train", TrainOptions)
    return *settled(options, said.settings), options


def settled(options: TrainOptions, typed: Mapping[str, Any]) -> tuple[Config, Path]:
    """Configuration and run folder. Without a preset, the settings change the configuration of a run that is there."""
    from jaxdreamer.envs.trust import foreign, refuse_untrusted

    logdir, stored = options.logdir, _stored_run(options)
    in_file: dict[str, Any] = {}
    if options.config is not None:
        in_file = configs.read_settings(options.config, [item.name for item in fields(TrainOptions)])
    of_file = in_file.pop("preset", None)
    preset = options.preset or of_file
    settings = {**in_file, **typed}
    start, source = settings.get("run.start"), options.config
    if stored is not None and preset is None:
        from jaxdreamer.record.stored import read_config

        config, source = configs.replace(read_config(stored), settings), stored.config
    elif start and preset is None:
        from jaxdreamer.record.rundir import RunDir
        from jaxdreamer.record.stored import read_config

        began = RunDir(start)
        config = configs.replace(read_config(began), {"run.start_parts": "all", **settings})
        source = began.config
    else:
        config = configs.preset(preset or "dreamer_v1", **settings)
    if source is not None and not options.trust:
        refuse_untrusted(config.env, source, own=typed)
    if foreign(config.env):
        see_modules_here()
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


def train(options: TrainOptions, settings: Mapping[str, Any]) -> int:
    """``jaxdreamer train``."""
    config, logdir = settled(options, settings)
    if options.print_config:
        print(configs.to_yaml(config), end="")
        return 0
    # XLA logs an error for a compilation of several minutes. Real failures are raised anyway.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxdreamer.envs.trust import trust_word
    from jaxdreamer.record.card import Outcome, card
    from jaxdreamer.record.progress import lasting, say
    from jaxdreamer.record.rundir import RunDir
    from jaxdreamer.train.api import train_agent, train_seeds
    from jaxdreamer.train.crew import start_crew

    suit_memory(config)
    _check_crew(options)
    crew = start_crew(options.coordinator, options.processes, options.process)  # before jax is asked for its devices
    console = lasting()
    if not (options.preset or options.config or settings) and _stored_run(options) is None:
        say(console, f"no --preset and no --env: {config.preset} at its published size, on {config.env.task}")
    shared: dict[str, Any] = {"sinks": options.sinks, "console": console, "start_over": options.start_over}
    shared["devices"] = options.devices
    if options.seeds:
        results = train_seeds(config, logdir, options.seeds, **shared)
    else:
        results = [train_agent(config, logdir, drop_damaged_replay=options.drop_damaged_replay, crew=crew, **shared)]
    if not all(one.finished for one in results):
        return 130
    if not crew.leads:
        return 0
    outcomes = [Outcome(RunDir(one.logdir), one.evaluation.metrics() if one.evaluation else {}) for one in results]
    for line in card(outcomes, trust_word(config.env)):
        say(console, line)
    return 0


def suit_memory(config: Config) -> None:
    """One arena where an update's buffers decide its time: in V1, V2 and V3 as published, not in ``classic``."""
    entries = config.replay.batch_size * config.replay.batch_length
    if entries * config.model.deter_size >= 2**17:
        use_one_arena()


def _check_crew(options: TrainOptions) -> None:
    """ConfigError for what several processes cannot do."""
    if options.coordinator is None and options.processes is None and options.process is None:
        return
    if options.seeds:
        raise ConfigError(
            "--seeds are not for several processes, as nothing passes between them: start some in each process, as --seed 0 "
            "--seeds 4 in one and --seed 4 --seeds 4 in the next"
        )
    if options.logdir is None:
        raise ConfigError(
            "several processes write one run: name its folder, --logdir, on a file system that they share"
        )


def evaluate(options: EvaluateOptions) -> int:
    """``jaxdreamer evaluate``."""
    from jaxdreamer.record.rundir import runs_of
    from jaxdreamer.train.api import evaluate_agent

    if options.trust:
        see_modules_here()
    runs = runs_of(options.logdir)
    several = len(runs) > 1
    means = []
    for run in runs:
        film = options.film
        if several:
            print(f"{run.name}:")
            film = film and film.with_stem(f"{film.stem}-{run.name}")
        asked: Any = {name: getattr(options, name) for name in ("episodes", "seed", "best", "sample", "trust")}
        result = evaluate_agent(run, film=film, **asked)
        for index, (total, length) in enumerate(zip(result.returns, result.lengths)):
            print(f"episode {index}: return {total:.2f}, {length} steps")
        scores = result.metrics()
        means.append(scores["eval/return"])
        for name, value in result.said.items():
            print(f"{name} {value:.4g}")
        spread = f", deviation {scores['eval/return_std']:.2f}" if len(result.returns) > 1 else ""
        print(f"mean return {scores['eval/return']:.2f}{spread}", flush=True)
        if film is not None:
            print(f"film {film}")
    if several:
        each = ", ".join(f"{run.name} {mean:.2f}" for run, mean in zip(runs, means))
        print(f"mean return of {len(runs)} seeds: {fmean(means):.2f} ({each})")
    return 0
