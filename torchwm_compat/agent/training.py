"""``DreamerAgent.train``: one call of jaxdreamer's trainer, reported under torchwm's names and in its files."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxdreamer import Config, ConfigError, Hooks, MissingExtra, Moment, Timestep, load_run, train_agent, wrap
from torchwm_compat.config.mapping import wants_films
from torchwm_compat.config.values import fitted, mismatch
from torchwm_compat.envs.image_env import Kept

_log = logging.getLogger("torchwm_compat")

RUN = "jaxdreamer"  # the trainer's own folder inside the run's

# torchwm's names of jaxdreamer's metrics.
NAMES = {
    "model_loss": "loss/model",
    "actor_loss": "loss/actor",
    "value_loss": "loss/critic",
    "train_avg_reward": "train/return",
    "train_max_reward": "train/return_max",
    "train_min_reward": "train/return_min",
    "train_std_reward": "train/return_std",
    "eval_avg_reward": "eval/return",
    "eval_max_reward": "eval/return_max",
    "eval_min_reward": "eval/return_min",
    "eval_std_reward": "eval/return_std",
    "throughput/env_steps_per_sec": "time/frames_per_second",
    "throughput/grad_steps_per_sec": "time/updates_per_second",
    "replay/steps": "replay/entries",
}


class Sink:
    """A sink of jaxdreamer's metrics that passes them to torchwm's logger under torchwm's names."""

    name = "torchwm"

    def __init__(self, logger: Any, capacity: int) -> None:
        self._logger, self._capacity = logger, capacity
        self.metrics: dict[str, float] = {}  # of the newest updates, by jaxdreamer's names
        self._episodes: int | None = None

    def write(self, record: Mapping[str, Any], step: int) -> None:
        """Log the metrics that torchwm has a name for."""
        if self._episodes is None:  # a run that was killed repeats what came after its last checkpoint
            self._logger.rewind(step - 1)
            self._episodes = int(self._logger.last("replay/episodes") or 0)
        if "loss/model" in record:
            self.metrics = {name: float(value) for name, value in record.items() if isinstance(value, int | float)}
        line = {name: record[own] for name, own in NAMES.items() if record.get(own) is not None}
        if "replay/entries" in record:
            self._episodes += int(record.get("train/episodes", 0))
            line["replay/fill_ratio"] = record["replay/entries"] / self._capacity
            line["replay/episodes"] = self._episodes
        if line:
            self._logger.log_scalars(line, step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Pictures are in the trainer's own folder."""

    def close(self) -> None:
        """End of the run."""
        self._logger.flush()


def train(agent: Any, total_steps: int | None = None) -> None:
    """Train ``agent`` until ``total_steps`` frames, continuing the run that its folder may hold.

    KeyboardInterrupt, once the run is saved, where Ctrl-C or SIGTERM ended it before that.
    """
    args, dreamer = agent.args, agent.dreamer
    folder = Path(agent.logdir) / RUN
    if args.train_seq_len == 1:
        _log.warning("train_seq_len 1: every entry stands alone, so the model learns nothing of what leads to what")
    config = trained_config(agent, folder, _frames(args.total_steps if total_steps is None else total_steps))
    for env in (agent.train_env, agent.test_env):
        env.close()  # the trainer has its own; these open again when they are used
    sink = Sink(agent.logger, config.replay.capacity)
    result = train_agent(
        config,
        folder,
        make=instance_maker(args.env_instance, config) if args.env_instance is not None else None,
        sinks=[sink],
        console=None if args.enable_console_metrics else Console(quiet=True),
        start=dreamer.state if agent.has_learned else None,
        hooks=Hooks(on_save=checkpointer(agent)),
    )
    dreamer.state, dreamer.metrics = result.state, sink.metrics or dreamer.metrics
    agent.has_learned = True
    _copy_videos(agent, folder)
    if not result.finished:
        raise KeyboardInterrupt  # the trainer has saved; the script must not continue as if training were complete


def _frames(total_steps: Any) -> int:
    frames = fitted(total_steps, 0)
    if mismatch(frames, 0) or frames < 1:
        raise ConfigError(f"total_steps: expected a whole number above 0, found {total_steps!r}")
    return int(frames)


def trained_config(agent: Any, folder: Path, frames: int) -> Config:
    """The agent's configuration for a run of ``frames``; a replay that exists already keeps its size."""
    config: Config = agent.dreamer.config
    length = config.replay.batch_length
    capacity = min(config.replay.capacity, max(agent.dreamer.data_buffer.size, 1))
    capacity = max(capacity, 2 * length, length + 2 * (config.run.train_every + 1))
    if (folder / "config.json").is_file():
        capacity = load_run(folder)[0].replay.capacity
    env = config.env
    if getattr(agent.train_env, "shows_images", False) and env.obs == "pixels":  # the task's own, no rendered frames
        env = replace(env, obs="auto", exclude=(*env.exclude, *agent.train_env.spec.keys(image=False)))
    run, replay = replace(config.run, frames=frames), replace(config.replay, capacity=capacity)
    return replace(config, env=env, run=run, replay=replay)


def checkpointer(agent: Any) -> Callable[[Moment], None]:
    """Writes ``ckpts/FRAMES_ckpt.pt`` with every checkpoint of the trainer; without torch it says once that it cannot."""
    told = False

    def on_save(moment: Moment) -> None:
        nonlocal told
        frames = (
            moment.entries * moment.config.env.action_repeat
        )  # as the budget counts them: total_steps names the last
        try:
            agent.dreamer.save(Path(agent.logdir) / "ckpts" / f"{frames}_ckpt.pt", moment.state())
        except MissingExtra as error:
            if not told:
                _log.warning("no .pt files are written, the run resumes all the same: %s", error)
            told = True

    return on_save


def instance_maker(instance: Any, config: Config) -> Callable[[], Any]:
    """Makes environments of a ready one: the first is the instance itself, further ones are copies.

    An instance that cannot be copied is shared: taking it over ends the other user's episode.
    """
    first = True
    turn: list[Any] = [None]

    def make() -> Any:
        nonlocal first
        if not first:
            try:
                return wrap(copy.deepcopy(instance), config.env)
            except Exception as error:  # whatever the environment holds: windows, locks, handles
                _log.warning("env_instance cannot be copied (%s): evaluations cut the episode being collected", error)
        first = False
        return Shared(wrap(Kept(instance), config.env), turn)

    return make


class Shared(Kept):
    """An environment that another user may have taken over: its next step then begins a new episode."""

    def __init__(self, env: Any, turn: list[Any]) -> None:
        super().__init__(env)
        self._turn = turn

    def reset(self, seed: int | None = None) -> Timestep:
        """Begin an episode."""
        self._turn[0] = self
        return self._env.reset(seed)

    def step(self, action: np.ndarray) -> Timestep:
        """One step; or a reset entry, by which the collector knows that the episode broke off."""
        return self._env.step(action) if self._turn[0] is self else self.reset()


def _copy_videos(agent: Any, folder: Path) -> None:
    """The trainer's policy films, where videos were asked for, under torchwm's names."""
    for film in sorted((folder / "videos").glob("policy-*.gif")) if wants_films(agent.args) else []:
        target = Path(agent.logdir) / f"video{int(film.stem.partition('-')[2])}_0.gif"
        target.write_bytes(film.read_bytes())
