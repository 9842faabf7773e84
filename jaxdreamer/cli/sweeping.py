"""The command that tries settings: sweep."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdreamer import config as configs
from jaxdreamer.cli.training import TrainOptions, see_modules_here, settled
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.files import at_home, shell_word

if TYPE_CHECKING:
    from jaxdreamer.train.run import Result
    from jaxdreamer.train.sweep import Axis, Tried


@dataclass(frozen=True)
class SweepOptions(TrainOptions):
    """Train with settings that optuna chooses, and say which did best in their final evaluations.

    Takes the words of `jaxdreamer train`, which all trials share, and --vary for each setting that is tried. A sweep is a
    folder with a run for each trial; stopped, or with more --trials, `jaxdreamer sweep --logdir FOLDER` goes on.
    """

    vary: tuple[str, ...] = ()
    """A setting that is tried: actor_entropy=1e-5..1e-2:log, a range (on a logarithmic scale), or units=64,128,256, values.
    Several, each with a --vary of its own."""
    trials: int = 20
    """How many there are to be, those that are done or have failed included."""


def sweep(options: SweepOptions, settings: Mapping[str, Any]) -> int:
    """``jaxdreamer sweep``."""
    from jaxdreamer.record.progress import lasting, say

    if options.start_over:
        raise ConfigError("--start-over: a sweep is begun anew in another --logdir")
    if options.trials < 1:
        raise ConfigError(f"--trials must be at least 1, found {options.trials}")
    config, folder, axes, seeds = _asked(options, settings)
    if options.print_config:
        print(configs.to_yaml(config), end="")
        return 0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxdreamer.train.api import train_agent, train_seeds
    from jaxdreamer.train.sweep import Stopped, Sweep

    console = lasting()
    shared: dict[str, Any] = {"sinks": options.sinks, "console": console, "devices": options.devices}

    def train(config: Config, folder: Path) -> Sequence[Result]:
        if seeds:
            return train_seeds(config, folder, seeds, **shared)
        return [train_agent(config, folder, drop_damaged_replay=options.drop_damaged_replay, **shared)]

    tried = Sweep(folder, config, axes, seeds)
    stopped = False
    try:
        tried.run(options.trials, train, lambda line: say(console, line))
    except Stopped:
        stopped = True
    for line in _table(tried.table(), axes, folder):
        print(line)
    if stopped:
        word = f"{shell_word(folder)} --trials {options.trials}"
        say(console, f"the sweep is stopped; go on with: jaxdreamer sweep --logdir {word}")
    return 130 if stopped else 0


def _asked(options: SweepOptions, settings: Mapping[str, Any]) -> tuple[Config, Path, list[Axis], int]:
    """What is tried: as it is asked for or, where nothing is, as the sweep in the folder has it."""
    from jaxdreamer.envs.trust import foreign, refuse_untrusted
    from jaxdreamer.train.sweep import Axis, stored_sweep

    axes = [Axis.read(word) for word in _joined(options.vary)]
    if twice := next((axis.name for axis in axes if sum(axis.name == other.name for other in axes) > 1), None):
        raise ConfigError(f"--vary {twice} is given twice")
    folder = at_home(options.logdir).absolute() if options.logdir else None
    stored = stored_sweep(folder) if folder else None
    if folder and stored and not (settings or axes or options.preset or options.config or options.seeds):
        config = configs.from_dict(stored["config"])
        if not options.trust:
            refuse_untrusted(config.env, folder / "sweep.json")
        if foreign(config.env):
            see_modules_here()
        return config, folder, [Axis.read(word) for word in stored["vary"]], stored["seeds"]
    if not axes:
        raise ConfigError("sweep needs --vary: a setting and what is tried, as in --vary actor_entropy=1e-5..1e-2:log")
    config, run = settled(replace(options, logdir=None), settings)
    if config.env.id == configs.NO_ENV:
        raise ConfigError(
            f"sweep compares returns: name an environment to evaluate in, instead of --env {configs.NO_ENV}"
        )
    if config.run.start:  # found again from another working folder
        config = configs.replace(config, {"run.start": str(at_home(config.run.start).absolute())})
    return config, folder or run.with_name(f"sweep-{run.name}").absolute(), axes, options.seeds


def _joined(words: Sequence[str]) -> list[str]:
    """Each setting's word in one piece: a comma in it parts words of an option that takes several."""
    found: list[str] = []
    for word in words:
        if "=" in word or not found:
            found.append(word)
        else:
            found[-1] += f",{word}"
    return found


def _table(tried: Sequence[Tried], axes: Sequence[Axis], folder: Path) -> list[str]:
    """A line for each trial, the best first, and what to do with it."""
    rows = [("trial", "state", "return", *(axis.name for axis in axes))]
    for one in tried:
        value = "-" if one.value is None else f"{one.value:.2f}"
        found = (one.settings.get(axis.name) for axis in axes)
        texts = (f"{item:.4g}" if isinstance(item, float) else str(item) for item in found)
        rows.append((f"trial-{one.number:03d}", one.state, value, *texts))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths)).rstrip() for row in rows]
    if tried and tried[0].value is not None:
        best = shell_word(folder / f"trial-{tried[0].number:03d}")
        lines.append(
            f"the best: jaxdreamer evaluate {best}; all of them: jaxdreamer report {shell_word(folder)}/trial-*"
        )
    return lines
