"""Trying settings: runs whose varied settings optuna chooses, judged by their final evaluations; stopped and gone on with.

A sweep is a folder: ``sweep.json`` (what is tried), ``study.journal`` (optuna's own record of the trials), and a run for
each trial, ``trial-000`` and so on. Several processes may work at one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from jaxdreamer import config as configs
from jaxdreamer import values
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.errors import JaxdreamerError, import_extra, nearest, shown
from jaxdreamer.files import natural, read_json, require
from jaxdreamer.record.rundir import RunLocked
from jaxdreamer.saving import write_json
from jaxdreamer.train.run import Result

__all__ = ["Axis", "Stopped", "Sweep", "Tried"]

_FORM = {"config": dict, "vary": [str], "seeds": natural}
_SAID = ("log",)


class Stopped(Exception):
    """The run of a trial was stopped, and saved."""


class Axis(NamedTuple):
    """A setting and the values that are tried: a range of numbers, its ends included, or a list."""

    name: str  # dotted
    text: str  # as it was written, behind the name
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()  # as settings are written

    @classmethod
    def read(cls, word: str) -> Axis:
        """``NAME=LOW..HIGH``, ``NAME=LOW..HIGH:log`` or ``NAME=A,B,C``. ConfigError for anything else."""
        name, found, text = word.partition("=")
        if not found or not text.strip():
            raise ConfigError(f"--vary: expected NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C, found {shown(word)}")
        key = configs.resolve_name(name)
        kind, _ = values.optional(configs.kind_of(key))
        bounds, _, how = text.strip().partition(":")
        if kind not in (int, float) or ".." not in bounds:
            return cls._of_choices(key, kind, text.strip())
        if how and how not in _SAID:
            raise ConfigError(f"--vary {key}: a range may end in :log, found :{how}{nearest(how, _SAID)}")
        low, high = (values.parse(kind, key, end) for end in bounds.split("..", 1))
        if not low < high:
            raise ConfigError(f"--vary {key}: the range must rise, found {bounds}")
        if how and low <= 0:
            raise ConfigError(f"--vary {key}: a range on a logarithmic scale must begin above 0, found {bounds}")
        return cls(key, text.strip(), low, high, bool(how))

    @classmethod
    def _of_choices(cls, key: str, kind: Any, text: str) -> Axis:
        choices = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        if len(choices) < 2:
            raise ConfigError(
                f"--vary {key}: expected a range LOW..HIGH of numbers, or several values A,B,C, found {text}"
            )
        for choice in choices:
            values.parse(configs.kind_of(key), key, choice)
        return cls(key, text, choices=choices)

    def of(self, found: Any) -> Any:
        """The setting's value, of the one that optuna chose."""
        return values.parse(configs.kind_of(self.name), self.name, found) if self.choices else found

    def ends(self) -> list[Any]:
        """Values that stand for all of them: where each is allowed, so are those between."""
        return [self.of(choice) for choice in self.choices] if self.choices else [self.low, self.high]

    def distribution(self, optuna: Any) -> Any:
        """As optuna has it."""
        kinds = optuna.distributions
        if self.choices:
            return kinds.CategoricalDistribution(self.choices)
        whole = values.optional(configs.kind_of(self.name))[0] is int
        kind = kinds.IntDistribution if whole else kinds.FloatDistribution
        return kind(self.low, self.high, log=self.log)


class Tried(NamedTuple):
    """One trial."""

    number: int
    state: str  # finished, failed or running (or stopped)
    value: float | None  # the mean return of its final evaluation, of several seeds their mean
    settings: dict[str, Any]


class Sweep:
    """The trials of one folder; ``train(config, folder)`` trains one."""

    def __init__(self, folder: Path, config: Config, axes: Sequence[Axis], seeds: int = 0) -> None:
        """Open or begin it.

        Raises:
            ConfigError: the folder holds another sweep, or something else; or a value that is to be tried cannot be.
            MissingExtra: optuna is not installed.
        """
        self._optuna = optuna = import_extra("optuna", "sweep", "a sweep over settings")
        self.folder, self.config, self.axes, self.seeds = folder, config, axes, seeds
        for axis in axes:
            for value in axis.ends():
                configs.replace(config, {axis.name: value})
        self._settle()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = optuna.storages.journal
        self.study = optuna.create_study(
            storage=journal.JournalStorage(journal.JournalFileBackend(str(folder / "study.journal"))),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
        )

    def _settle(self) -> None:
        data = {
            "config": configs.to_dict(self.config),
            "vary": [f"{axis.name}={axis.text}" for axis in self.axes],
            "seeds": self.seeds,
        }
        if stored := stored_sweep(self.folder):
            differ = [f"{name}: {stored[name]}, asked for {data[name]}" for name in _FORM if stored[name] != data[name]]
            if stored["config"] != data["config"]:
                old = configs.from_dict(stored["config"])
                differ[0] = "; ".join(
                    f"{key}: {one!r}, asked for {two!r}"
                    for key, (one, two) in configs.difference(old, self.config).items()
                )
            if differ:
                raise ConfigError(
                    f"{self.folder} holds another sweep ({'; '.join(differ)}): its trials would not compare. Choose another "
                    "--logdir, or leave the settings out to go on with it"
                )
            return
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder} is not empty and holds no sweep: choose another --logdir")
        write_json(self.folder / "sweep.json", data)

    def run(self, trials: int, train: Callable[[Config, Path], Sequence[Result]], say: Callable[[str], None]) -> None:
        """Go on until there are ``trials`` of them, finished or failed. Stopped where a run was stopped."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING":
                self._try(trial.number, trial.params, trials, train, say)
        space = {axis.name: axis.distribution(self._optuna) for axis in self.axes}
        while (count := len(self.study.get_trials(deepcopy=False))) < trials:
            # Anew for each: one that began with the process would draw the same again where a sweep goes on.
            seed = int(np.random.SeedSequence((self.config.seed, count)).generate_state(1)[0])
            self.study.sampler = self._optuna.samplers.TPESampler(seed=seed)
            asked = self.study.ask(space)
            self._try(asked.number, asked.params, trials, train, say)

    def _try(
        self,
        number: int,
        params: dict[str, Any],
        trials: int,
        train: Callable[[Config, Path], Sequence[Result]],
        say: Callable[[str], None],
    ) -> None:
        failed = self._optuna.trial.TrialState.FAIL
        say(f"trial {number}, of {trials}: {', '.join(f'{key}={value}' for key, value in params.items())}")
        try:
            chosen = {axis.name: axis.of(params[axis.name]) for axis in self.axes}
            results = train(configs.replace(self.config, chosen), self.folder / f"trial-{number:03d}")
        except RunLocked as error:
            say(f"trial {number} is left to the process that works at it: {error}")
            return
        except JaxdreamerError as error:
            say(f"trial {number} failed: {error}")
            self.study.tell(number, state=failed)
            return
        means = [one.evaluation.mean_return for one in results if one.evaluation is not None]
        if len(means) < len(results):
            raise Stopped
        self.study.tell(number, fmean(means))
        say(f"trial {number}: return {fmean(means):.2f}, the best so far {self.study.best_value:.2f}")

    def table(self) -> list[Tried]:
        """All trials, the best first."""
        states = {"COMPLETE": "finished", "FAIL": "failed"}
        found = [
            Tried(one.number, states.get(one.state.name, "running"), one.value, dict(one.params))
            for one in self.study.get_trials(deepcopy=False)
        ]
        return sorted(found, key=lambda one: (one.value is None, -(one.value or 0.0), one.number))


def stored_sweep(folder: Path) -> dict[str, Any] | None:
    """What ``sweep.json`` says: config, vary, seeds. None where there is none; FileUnusable where it is damaged."""
    path = folder / "sweep.json"
    if not path.exists():
        return None
    data = read_json(path)
    require(data, _FORM, path)
    return data
