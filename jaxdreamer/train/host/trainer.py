"""The loop for environments on the host: collect, store, train, log, evaluate, save."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.agent.learner import update_many
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.devices import how_often
from jaxdreamer.envs.base import VectorEnv
from jaxdreamer.envs.host.scale import ill_scaled
from jaxdreamer.files import FileUnusable, list_of, natural, number, require
from jaxdreamer.record import checkpoint, video
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.pace import Work
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.replay import disk
from jaxdreamer.replay.host import HostReplay, Indices
from jaxdreamer.replay.prefetch import Gatherer, Prefetcher
from jaxdreamer.train.evaluate import Evaluation, make_evaluate
from jaxdreamer.train.host.collect import Collector, Scores
from jaxdreamer.train.journal import Means, check_updates, save_open_loop, spared
from jaxdreamer.train.loop import Loop
from jaxdreamer.train.schedule import Every, updates_in_a_call
from jaxdreamer.train.size import check_size
from jaxdreamer.types import Batch, EnvSpec, Metrics, PyTree, TrainState

_log = logging.getLogger("jaxdreamer")


class HostTrainer(Loop[Evaluation]):
    """One training run with environments on the host.

    Args:
        config: what to do.
        envs: the training environments, side by side.
        make_envs: (lanes, seed) -> environments for evaluation.
        rundir: where to write; locked by the caller.
        metrics, progress: where to report.

    A *step* is an agent step, counted over all environments; a reset is none. ``env_frames`` is agent steps times action
    repeat. Training happens ``run.updates`` updates at a time, every ``run.train_every`` steps.

    Everything a run depends on is in its checkpoint, so that a resumed run goes on as if nothing had happened: the
    environments are brought back by playing their unfinished episodes again from their seeds.
    """

    name = "host"

    def __init__(
        self,
        config: Config,
        envs: VectorEnv,
        make_envs: Callable[[int, int], VectorEnv],
        rundir: RunDir,
        metrics: MetricsLog,
        progress: Progress,
    ):
        super().__init__(config, progress)
        self.spec, self.envs, self._make_envs = envs.spec, envs, make_envs
        self.rundir, self.metrics = rundir, metrics
        run = config.run
        self.every["train"] = Every(run.train_every)

        self.per_call = updates_in_a_call(run.updates, run.updates_per_call)
        # Between asking for a batch and gathering it, each lane adds at most this many entries (a reset may follow
        # every step); windows that these would overwrite are not sampled.
        guard = 2 * (-(-run.train_every // envs.num_envs) + 1)
        self.replay = HostReplay(
            envs.spec,
            capacity=config.replay.capacity,
            lanes=envs.num_envs,
            length=config.replay.batch_length,
            cross_episodes=config.replay.cross_episodes,
            guard=guard,
        )
        progress.log(self.replay.size.describe())
        key_learner, key_act, self._key_eval = jax.random.split(jax.random.key(config.seed), 3)
        self.algorithm = make_algorithm(config, envs.spec)
        self._evaluate = make_evaluate(self.algorithm.policy)
        self._open_loop = jax.jit(partial(self.algorithm.open_loop, context=self.context))
        with progress.status("building the networks"):
            self.state: TrainState = jax.jit(self.algorithm.init)(key_learner)
        self.collector = Collector(envs, self.algorithm.policy, self.replay, key_act)
        self.rng = np.random.default_rng(np.random.SeedSequence((config.seed, 0x5EED)))
        self.prefetch = Prefetcher(Gatherer(self.replay, groups=self.per_call), jax.device_put)
        self._train: Callable[..., Any] | None = None
        self._unread: list[Metrics] | None = None  # the last call's means, and its worst update
        self.traces = 0  # times the update was traced; a test holds it at one

        self._updates = self.skipped = 0
        self.owed = 0  # updates due and not yet done
        self.pretrained = False
        self.means = Means()
        self._manifest: dict[str, Any] | None = None
        self.has_learned = False  # before this run: see begin_with

    def begin_with(self, start: TrainState) -> None:
        """Learn on from another run's state; it is copied. ConfigError where it is of other networks."""
        self._check_start(self.state, start)
        self.state, self.has_learned = jax.tree.map(jnp.copy, start), True

    # ---- the loop ------------------------------------------------------------------------------------------------

    @property
    def agent_steps(self) -> int:
        """Decisions taken so far, over all environments."""
        return self.collector.agent_steps

    @property
    def env_frames(self) -> int:
        """Simulator steps so far."""
        return self.agent_steps * self.config.env.action_repeat

    @property
    def position(self) -> int:
        """Agent steps."""
        return self.agent_steps

    @property
    def updates(self) -> int:
        """Updates so far, those under way included."""
        return self._updates

    @property
    def spent(self) -> bool:
        """Whether the budget of env frames is, and no update is owed."""
        return self.env_frames >= self.config.run.frames and not self.in_debt

    @property
    def work(self) -> Work:
        """What is left of the run."""
        return self._left(self.owed, self.pretrained, self.config.run.prefill)

    @property
    def in_debt(self) -> bool:
        """Whether updates are owed."""
        return self.owed > 0

    def step(self) -> None:
        """One entry of every environment, and whatever is due after it.

        A stop that is asked for in the midst of many updates leaves the rest owed: the next step, that of a resumed run
        perhaps, begins with them.
        """
        if not self.owed:
            self._collect()
        self._tell_progress()
        while self.owed and not self.stop_requested:
            self.train()
            self.owed = max(0, self.owed - self.per_call)
            self._tell_progress()
        self.report()

    def _collect(self) -> None:
        with self.clock.timed("collect"):
            starting = self.collector.latest is None
            self.collector.step(self._acting_params)
            if self.envs.overlaps:
                # Decided before this step's updates, so that environments advance while those run. It depends on no
                # clock: equal seeds give equal runs.
                self.collector.begin(self._acting_params)
        if starting:
            for note in self.envs.notes:
                self.progress.log(note)
        run, steps = self.config.run, self.agent_steps
        if steps < run.prefill:
            return
        if self.pretrained:
            self.owed = self.every["train"].count(steps) * run.updates
        elif self.replay.can_sample:  # the prefill may be shorter than a sequence
            self._look_at_observations()
            self.pretrained, self.owed = True, run.pretrain
            self.every["train"].start(steps)

    def _look_at_observations(self) -> None:
        """Say of the prefill's observations what keeps them from being learned."""
        model = self.config.model
        for key, (low, high) in self.replay.ranges().items():
            squashed = model.symlog_inputs and max(abs(low), abs(high)) > 1
            mended = self.spec.obs[key].kind == "vector" and (model.normalize_inputs or squashed)
            if not mended and (text := ill_scaled(key, self.spec.obs[key], low, high)):
                self.progress.log(f"observation {text}")

    def _tell_progress(self) -> None:
        self.progress.update(
            self.counted,
            self.updates,
            left=self.work,
            note=self._due(self.owed) if self.owed > self.per_call else "",
            last_return=self.collector.scores.last_return,
        )

    @property
    def acting(self) -> PyTree:
        """What the policy acts with."""
        return self.algorithm.acting(self.state.params, self.state.aux)

    @property
    def _acting_params(self) -> PyTree | None:
        """What decides on actions now; None for chance, while replay is filled."""
        prefilling = self.agent_steps < self.config.run.prefill and not self.has_learned
        return None if prefilling else self.acting

    # ---- learning ------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """One compiled call of ``per_call`` updates; its metrics are read when the next one is under way."""
        with self.clock.timed("sample"):
            if not self.prefetch.pending:
                self._request()
            batch = self.prefetch.get()
            self._request()
        with self.clock.timed("train"):
            train = self._train or self._compile(batch)
            self.state, *metrics = train(self.state, batch)
            self._updates += self.per_call
            self._read_metrics()
            self._unread = metrics

    @property
    def _batch_shape(self) -> list[int]:
        return [self.per_call, self.config.replay.batch_length, self.config.replay.batch_size]

    def _request(self) -> None:
        count = self.config.replay.batch_size * self.per_call
        self.prefetch.request(self.replay.sample_indices(self.rng, count))

    def _compile(self, batch: Batch) -> Callable[..., Any]:
        def train(state: TrainState, batches: Batch) -> tuple[TrainState, Metrics, Metrics]:
            self.traces += 1
            state, metrics = update_many(self.algorithm, state, batches)
            in_a_row = metrics.pop("skipped_in_a_row")
            worst = jnp.argmax(in_a_row)  # the longest run of skipped updates may end inside the call
            told = {"skipped": metrics.pop("skipped")[-1], "skipped_in_a_row": in_a_row[worst]}
            told |= jax.tree.map(lambda x: x[worst], metrics)
            return state, jax.tree.map(jnp.nanmean, metrics), told

        updates = f"{self.per_call} update{'s' if self.per_call > 1 else ''}"
        name = f"compiling {updates} of {self.config.preset}, {how_often()}"
        with self.progress.status(name):
            self._train = jax.jit(train, donate_argnums=0).lower(self.state, batch).compile()
        return self._train

    def _read_metrics(self) -> None:
        if self._unread is None:
            return
        (means, told), self._unread = jax.device_get(self._unread), None
        self.skipped = int(told["skipped"])
        check_updates(told, updates=self.updates, agent_steps=self.agent_steps)
        self.means.add(means)

    # ---- reporting -----------------------------------------------------------------------------------------------

    def log(self, extra: dict[str, float] | None = None) -> None:
        """Write one line of metrics."""
        self._read_metrics()
        scalars = self.means.take() | self.collector.scores.take() | (extra or {})
        scalars["replay/entries"] = self.replay.rows * self.replay.lanes
        scalars["skipped"] = self.skipped
        scalars["env/broken_entries"] = self.collector.broken.count
        if self.envs.restarts is not None:
            scalars["env/restarts"] = self.envs.restarts
        scalars["train_ratio"] = self.config.train_ratio
        scalars |= self.clock.take(self.env_frames, self.updates)
        self._write(scalars)

    def _write(self, scalars: dict[str, float]) -> None:
        self.metrics.write(scalars, **self._counters)

    @property
    def _counters(self) -> dict[str, int]:
        return {"agent_steps": self.agent_steps, "env_frames": self.env_frames, "updates": self.updates}

    def evaluate(self, final: bool = False, write: bool = True) -> Evaluation:
        """Play without exploration, on environments and seeds of their own; log it, and save pictures."""
        sees_images = any(spec.kind == "image" for spec in self.spec.obs.values())
        film = self.config.run.video and (final or sees_images) and self.envs.can_render
        with self.evaluating():
            evaluation = self._evaluate(
                self.acting,
                self._make_envs,
                self.config.run.eval_episodes,
                seed=self.config.seed,
                key=self._key_eval,
                film=film,
                watch=self.watch,
            )
        if final and write:
            self.log()
        with self.clock.timed("evaluate"):
            name = f"{self.env_frames:012d}"
            if evaluation.frames is not None:
                path = self.rundir.videos / f"policy-{name}.gif"
                with spared():
                    video.save_video(path, evaluation.frames, evaluation.frame_rate)
            if sees_images and self.predicts and self.pretrained and write:
                self.save_open_loop()
        if write:
            self._write(evaluation.metrics())
        mean = float(np.mean(evaluation.returns))
        self.progress.update(self.counted, self.updates, left=self.work, eval_return=mean)
        return evaluation

    def save_open_loop(self) -> None:
        """Save pictures of what the model makes of four sequences from replay, and log its errors."""
        rng = np.random.default_rng(self.agent_steps)  # its own: pictures must not change what is learned
        batch = self.replay.gather(self.replay.sample_indices(rng, 4))
        report = jax.device_get(self._open_loop(self.acting, batch, key=jax.random.key(self.config.seed)))
        save_open_loop(report, self.spec, self.rundir, self.metrics, context=self.context, counters=self._counters)

    # ---- saving and resuming -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of everything, atomically; the replay only what is new of it."""
        self._read_metrics()
        with self.clock.timed("save"):
            self._manifest = disk.save(self.replay, self.rundir.replay, self._manifest)
            host = self._cadence(self.config.seed) | {
                "agent_steps": self.agent_steps,
                "broken": self.collector.broken.count,
                "broken_in_a_row": self.collector.broken.in_a_row.tolist(),
                "skipped": self.skipped,
                "updates": self.updates,
                "owed": self.owed,
                "pretrained": self.pretrained,
                "has_learned": self.has_learned,
                "rng": self.rng.bit_generator.state,
                "pending": [indices.to_json() for indices in self.prefetch.pending],
                "pending_shape": self._batch_shape,
                "scores": self.collector.scores.state(),
                "means": self.means.state(),
                "metrics_offset": self.metrics.offset,
                "envs": self.envs.state(),
                "begun": self.collector.sent is not None,
                "replay": self._manifest,
            }
            keep = self.config.run.keep_checkpoints
            checkpoint.save(self.rundir.checkpoints, self.agent_steps, self._tree(), host, keep)
            self.rundir.mark_saved()
            kept = checkpoint.hosts(self.rundir.checkpoints).values()
            disk.prune(self.rundir.replay, [item["replay"] for item in kept if not self._wrong(item)])
        self.saved_at = self.counted
        if self.on_save is not None:
            self.on_save(self.state, self.env_frames)

    def _tree(self) -> PyTree:
        return {"train": self.state, "acting": self.collector.acting}

    def _form(self) -> dict[str, Any]:
        lanes = self.replay.lanes

        def lane(value: Any) -> bool:
            return isinstance(value, dict) and all(isinstance(v, bool) or number(v) for v in value.values())

        return super()._form() | {
            **dict.fromkeys(("agent_steps", "broken", "skipped", "updates", "owed", "metrics_offset"), natural),
            **dict.fromkeys(("pretrained", "has_learned", "begun"), bool),
            "broken_in_a_row": list_of(natural, lanes),
            "rng": dict,
            "pending": [{"start": [natural], "lane": [lambda value: natural(value) and value < lanes]}],
            "pending_shape": list_of(natural, 3),
            "scores": Scores.form(lanes),
            "means": Means.FORM,
            "envs": {"seed": natural, "agent_steps": natural, "lanes": list_of(lane, lanes)},
            "replay": disk.FORM,
        }

    def _wrong(self, host: dict[str, Any]) -> str | None:
        """What is wrong with what a checkpoint says, or None; the replay's files are not looked at."""
        try:
            require(host, self._form(), "host.json")
            np.random.default_rng().bit_generator.state = host["rng"]
        except FileUnusable as error:
            return str(error)
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # as NumPy has it
            return f"host.json: 'rng' is no state of a generator ({error})"
        return None

    def restore(self, drop_damaged: bool = False) -> None:
        """Go on from the newest undamaged checkpoint; ``drop_damaged``: without what is damaged of its replay."""

        def check(host: dict[str, Any]) -> str | None:
            if wrong := self._wrong(host):
                return wrong
            if drop_damaged or not (found := disk.problems(self.rundir.replay, host["replay"])):
                return None
            return "; ".join(found) + "; to resume without the damaged parts: --drop-damaged-replay"

        tree, host, step = checkpoint.restore(self.rundir.checkpoints, self._tree(), check=check)
        self.state, self.collector.acting = tree["train"], tree["acting"]
        self.collector.agent_steps = host["agent_steps"]
        self.saved_at = self.counted
        self.collector.broken.count, self.skipped = host["broken"], host["skipped"]
        self.collector.broken.in_a_row[:] = host["broken_in_a_row"]
        self._updates, self.pretrained = host["updates"], host["pretrained"]
        self.owed, self.has_learned = host["owed"], host["has_learned"]
        self._load_cadence(host)
        self.rng.bit_generator.state = host["rng"]
        self.collector.scores.load(host["scores"])
        self.means.load(host["means"])
        whole = self._restore_replay(host["replay"], drop_damaged)
        if told := self.metrics.truncate(host["metrics_offset"], self.env_frames):
            self.progress.log(told)
        self._restore_environments(host["envs"], begun=host["begun"])
        # Not where the run goes on with other batches than it was stopped with.
        if whole and host["pending_shape"] == self._batch_shape:
            for indices in host["pending"]:
                self.prefetch.request(Indices.from_json(indices))
        self.progress.log(f"resumed at agent step {step:,}, update {self.updates:,}")

    def _restore_replay(self, manifest: dict[str, Any], drop_damaged: bool) -> bool:
        """Fill the replay; whether all of it is there."""
        dropped = disk.load(self.replay, self.rundir.replay, manifest, drop_damaged)
        for line in dropped:
            self.progress.log(f"the run continues without part of its replay: {line}")
        if not dropped:
            self._manifest = manifest  # else rows have other numbers: all are written again
        elif not self.replay.can_sample:
            self.progress.log(f"learning waits until there is enough experience again: {self.replay.why_empty()}")
            self.pretrained, self.owed = False, 0
        return not dropped

    def _restore_environments(self, saved: dict[str, Any], begun: bool) -> None:
        """Play each lane's unfinished episode again; where that does not lead to the same place, end it there."""
        lanes = range(self.replay.lanes)
        # None where the episode is over (the lane is reset next anyway), or where replay has lost its beginning.
        actions = [self.replay.lane_episode(lane) for lane in lanes]
        with self.progress.status("bringing the environments back to where they were"):
            found = self.envs.restore(saved, actions)
        if not self.replay.rows:
            return
        stored, _ = self.replay.last_row()

        def same(lane: int) -> bool:
            entry = found[lane]
            if entry is None or not np.isfinite(entry.reward):
                return False
            return all(np.array_equal(entry.obs[k], stored.obs[k][lane]) for k in stored.obs)

        lost = [lane for lane in lanes if not stored.is_last[lane] and not same(lane)]
        for lane in lost:
            _log.warning(
                "environment %d could not be brought back to where it was (its task is not deterministic, or its "
                "episode is longer than the replay): the episode is cut there and a new one begins",
                lane,
            )
            self.replay.close_episode(lane)
            self.envs.abandon(lane)
        self.collector.latest, _ = self.replay.last_row()
        if begun:  # with the action that was decided before the checkpoint
            self.collector.resume(np.asarray(self.collector.acting.policy.action))

    def close(self) -> None:
        """Stop the threads and close the environments."""
        self.prefetch.close()
        self.envs.close()


def check_trainable(config: Config, spec: EnvSpec) -> None:
    """ConfigError for combinations that only the environment's spec shows to be impossible, TooLarge beyond memory."""
    empty = [key for key, item in spec.obs.items() if 0 in item.shape]
    if empty or not spec.obs or not spec.action.size:
        what = (
            f"observation {empty[0]!r} holds no numbers" if empty else "there is nothing to see, or nothing to decide"
        )
        raise ConfigError(f"{what}: the environment's spec is {spec.to_dict()}; leave such keys out of it")
    if config.behavior.actor_gradient == "auto" and not (spec.action.is_discrete or spec.action.is_continuous):
        raise ConfigError(
            "behavior.actor_gradient=auto cannot decide for actions that are partly choices and partly numbers: "
            "set it to both, reinforce or dynamics"
        )
    check_size(config, spec)
