"""The loop for environments on the host: collect, store, train."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdreamer.agent.algorithm import OpenLoop, kept_layout
from jaxdreamer.devices import how_often
from jaxdreamer.envs.base import VectorEnv
from jaxdreamer.envs.host.observations import ill_scaled
from jaxdreamer.files import FileUnusable
from jaxdreamer.record import checkpoint
from jaxdreamer.replay import disk
from jaxdreamer.replay.host import HostReplay, Indices
from jaxdreamer.replay.mapped import MappedRing
from jaxdreamer.replay.mixture import Mixture
from jaxdreamer.replay.prefetch import Gatherer, Prefetcher
from jaxdreamer.train import given
from jaxdreamer.train.evaluate import Evaluation, Play
from jaxdreamer.train.host.collect import Collector
from jaxdreamer.train.host.saved import HostSaved
from jaxdreamer.train.loop import Job, Loop, Run
from jaxdreamer.train.placement import THIRD, WHOLE, one_device
from jaxdreamer.train.schedule import updates_in_a_call
from jaxdreamer.train.scores import Running
from jaxdreamer.train.status import show
from jaxdreamer.train.tally import Learned, add_update, nothing_learned
from jaxdreamer.train.telemetry import check_updates
from jaxdreamer.types import Batch, PyTree, TrainState

_log = logging.getLogger("jaxdreamer")


class HostLoop(Loop):
    """One training run with environments on the host.

    Several devices share out the batches that are learned from; the first of them acts. Several processes share out the
    environments too: each steps and decides for its own, and has the replay of all.

    Environments are brought back to where they were by playing their unfinished episodes again from their seeds.

    Args:
        job: what to do, for one run.
        envs: the training environments, side by side; the caller closes them.
        play: plays evaluations.
    """

    name = "host"

    def __init__(self, job: Job, envs: VectorEnv, play: Play | None):
        run = job.runs[0].config.run
        self.per_call = updates_in_a_call(run.updates, run.updates_per_call)
        super().__init__(job, envs.spec, play, can_render=envs.can_render, lanes=envs.num_envs, call=self.per_call)
        self.envs, self.rundir, self.tally = envs, self.runs[0].rundir, self.runs[0].tally
        config = self.config
        # Between asking for a batch and gathering it, each lane adds at most this many entries; windows that these would
        # overwrite are not sampled.
        guard = -(-run.train_every // envs.num_envs) + 1
        self.replay = HostReplay(
            envs.spec,
            capacity=config.replay.capacity if play else envs.num_envs * (2 * config.replay.batch_length + guard),
            lanes=envs.num_envs,
            length=config.replay.batch_length,
            cross_episodes=config.replay.cross_episodes,
            guard=guard,
            kept=kept_layout(self.algorithm),
            mapped=self._mapped() if config.replay.on_disk else None,
        )
        self.memory = self.replay.size.brief()
        self.given = given.open_given(config, self.algorithm, envs.spec, (envs.spaces or {}).get("action"))
        self.source: HostReplay | Mixture = self.replay
        if self.given:
            self.data, settings = self.given.text, config.replay
            self.source = Mixture(self.replay, self.given.replay, settings.batch_size, settings.data_fraction)
        key_learner, key_act, _ = jax.random.split(jax.random.key(config.seed), 3)  # the third is the evaluations'
        with self.progress.status("building the networks"):
            self._state = self.placement.put_state(jax.jit(self.algorithm.init)(key_learner))
        acts, place = (self.algorithm, one_device()) if self.crew.alone else (self.shared, self.placement)
        self.collector = Collector(envs, acts, self.replay, key_act, self.clock, place)
        self.rng = np.random.default_rng(np.random.SeedSequence((config.seed, 0x5EED)))
        self.prefetch = Prefetcher(self._gatherer(), self.placement.put_batch)
        self._open_loop = jax.jit(
            lambda params, batch, key: self.algorithm.open_loop(params, batch, context=self.context, key=key)
        )
        self._train: Callable[..., Any] | None = None
        self._unread: Learned | None = None  # of the last call
        self.traces = 0  # times the update was traced; a test holds it at one
        self._manifest: dict[str, Any] | None = None

    def _gatherer(self) -> Callable[[Indices], Batch]:
        """From the indices of batches to those of their sequences that this process's devices have."""
        gather, groups = Gatherer(self.source, groups=self.per_call), self.per_call
        if self.crew.alone:
            return gather
        own = self.placement.own(self.config.replay.batch_size)
        return lambda indices: gather(Indices(*[part.reshape(groups, -1)[:, own].reshape(-1) for part in indices]))

    def _mapped(self) -> MappedRing:
        """Files with room for the rows that come after the oldest checkpoint that is kept."""
        run = self.config.run
        rows = -(-run.checkpoint_every // self.envs.num_envs)
        return MappedRing(self.rundir.replay, (run.keep_checkpoints + 1) * rows)

    # ---- the loop ------------------------------------------------------------------------------------------------

    @property
    def updates(self) -> int:
        """Updates so far, those under way included."""
        return self.tally.updates + (0 if self._unread is None else self.per_call)

    def step(self) -> None:
        """One entry of every environment or one call of updates, or both, and whatever is due after it."""
        begun = self.segments.started >= 0
        segment = self.segments.next()
        if not begun and self.segments.started >= 0:
            self._look_at_observations()
        if segment.rows:
            self._collect(segment.random)
        if segment.updates and not self.source.can_sample:  # a part of what was there is lost
            self.segments.wait()
        elif segment.updates:
            self.train()
        show(self)
        self.report()

    def _collect(self, random: bool) -> None:
        starting = self.collector.latest is None
        modes = {True: "random", False: "explore"}
        with self.clock.timed("store"):  # what is neither environments nor policy
            self.collector.step(self._deciding(), modes[random])
            self.tally.agent_steps, self.tally.broken = self.collector.agent_steps, self.collector.broken.count
            if self.envs.overlaps:
                # Decided before this step's updates, so that environments advance while those run. It depends on no
                # clock: equal seeds give equal runs.
                self.collector.begin(self._deciding(), modes[self.segments.random_next])
        self.played(0, self.collector.ended, self.collector.said)
        if starting:
            for note in self.envs.notes:
                self.progress.log(note)

    def _deciding(self) -> PyTree:
        """The parameters that the collector acts with, where it does."""
        return self.acting(0) if self.crew.alone else self.algorithm.acting(self._state.params, self._state.aux)

    def _look_at_observations(self) -> None:
        """Say which of the prefill's observations are hard to learn because of their scale."""
        model = self.config.model
        for key, (low, high) in self.replay.ranges().items():
            squashed = model.symlog_inputs and max(abs(low), abs(high)) > 1
            mended = self.spec.obs[key].kind == "vector" and (model.normalize_inputs or squashed)
            if not mended and (text := ill_scaled(key, self.spec.obs[key], low, high)):
                self.progress.log(f"observation {text}")

    # ---- learning ------------------------------------------------------------------------------------------------

    def state_of(self, index: int) -> TrainState:
        """What was learned."""
        return self.placement.local(self._state)

    def set_states(self, states: Sequence[TrainState]) -> None:
        """Learn on from the one state, which is copied."""
        self._state = self.placement.put_state(jax.tree.map(jnp.copy, states[0]))

    def train(self) -> None:
        """One compiled call of ``per_call`` updates; its metrics are read when the next one is under way."""
        if not self.updates:
            self._predict()  # what any learning is to be measured by
        with self.clock.timed("sample"):
            if not self.prefetch.pending:
                self._request()
            batch = self.prefetch.get()
            self.clock.book("transfer", self.prefetch.waited_for_put)
            self._request()
        with self.clock.timed("update"):
            train = self._train or self._compile(batch)
            self._state, learned = train(self._state, batch)
            self.read()
            self._unread = learned

    @property
    def _batch_shape(self) -> list[int]:
        return [self.per_call, self.config.replay.batch_length, self.config.replay.batch_size]

    def _request(self) -> None:
        count = self.config.replay.batch_size * self.per_call
        draw = self.source.next_indices if self.config.replay.online else self.source.sample_indices
        self.prefetch.request(draw(self.rng, count))

    def _compile(self, batch: Batch) -> Callable[..., Any]:
        first = jax.tree.map(lambda x: x[0], batch)
        shapes = jax.eval_shape(self.algorithm.update, self._state, first)[1]

        def train(state: TrainState, batches: Batch) -> tuple[TrainState, Learned]:
            self.traces += 1

            def update(carry: tuple[TrainState, Learned], batch: Batch) -> tuple[tuple[TrainState, Learned], None]:
                state, metrics = self.shared.update(carry[0], batch)
                return (state, add_update(carry[1], state, metrics)), None

            return lax.scan(update, (state, nothing_learned(shapes, state)), batches)[0]

        updates = f"{self.per_call} update{'s' if self.per_call > 1 else ''}"
        with self.progress.status(f"compiling {updates} of {self.config.preset}, {how_often()}"):
            function = self.placement.over(train, (WHOLE, THIRD), WHOLE)
            self._train = jax.jit(function, donate_argnums=0).lower(self._state, batch).compile()
            self.crew.collect("the end of compiling", seconds=3600)
        return self._train

    def read(self) -> None:
        """Count in the last call's metrics."""
        if self._unread is not None:
            with self.clock.timed("update"):
                learned, self._unread = self.placement.gather(self._unread), None
            self.tally.learned(learned)
            check_updates(learned.worst, updates=self.updates, agent_steps=self.tally.agent_steps)

    # ---- reporting -----------------------------------------------------------------------------------------------

    def measured(self) -> dict[str, float]:
        """Entries in replay, and what the environments count of themselves."""
        entries = self.replay.rows * self.replay.lanes + (self.given.replay.rows if self.given else 0)
        found: dict[str, float] = {"replay/entries": entries}
        return found if self.envs.restarts is None else found | {"env/restarts": self.envs.restarts}

    def open_loop(self, index: int) -> OpenLoop:
        """What the model predicts of four sequences from replay."""
        rng = np.random.default_rng(self.tally.agent_steps)  # its own: pictures must not change what is learned
        return self._predicted(self.source.gather(self.source.sample_indices(rng, 4)))

    def _predicted(self, batch: Batch) -> OpenLoop:
        return self.placement.gather(self._open_loop(self.acting(0), batch, jax.random.key(self.config.seed)))

    def evaluate(self, final: bool = False, write: bool = True) -> list[Evaluation]:
        """Play where there is an environment, and predict the episodes that are kept apart."""
        evaluations = super().evaluate(final, write) if self.play else []
        if not self.play and final and write:
            self.log()
        if write:
            self._predict()
        return evaluations

    def _predict(self) -> None:
        if self.given and self.given.held_out is not None:
            with self.clock.timed("evaluate"):
                self.write(0, given.predicted(self._predicted(self.given.held_out), self.context))

    # ---- saving and resuming -------------------------------------------------------------------------------------

    def _tree(self) -> PyTree:
        sent = self.collector.sent
        if sent is None:
            sent = np.zeros((self.replay.lanes, self.spec.action.size), np.float32)
        return {"train": self._state, "acting": self.collector.acting, "sent": sent}

    def save(self) -> None:
        """Write a checkpoint of everything, of the replay what is new; then delete what of it no checkpoint needs."""
        super().save()
        if not self.placement.is_writer:
            return
        lists = []
        for host in checkpoint.hosts(self.rundir.checkpoints).values():
            if self._problem(host) is None:
                lists.append(host["replay"])
        disk.prune(self.rundir.replay, lists)

    def parts(self, index: int, common: dict[str, Any]) -> tuple[PyTree, HostSaved]:
        """Arrays and the rest of a checkpoint; the replay is written beside it."""
        if self.placement.is_writer:
            self._manifest = disk.save(self.replay, self.rundir.replay, self._manifest)
        collector = self.collector
        return self._tree(), HostSaved(
            **common,
            broken_in_a_row=collector.broken.in_a_row.tolist(),
            running={name: value.tolist() for name, value in collector.running._asdict().items()},
            rng=dict(self.rng.bit_generator.state),
            pending=[indices.to_json() for indices in self.prefetch.pending],
            pending_shape=self._batch_shape,
            envs=self.envs.state(),
            begun=collector.sent is not None,
            replay=self._manifest or {},
            data=self.given.about if self.given else None,
        )

    def _problem(self, host: Any) -> str | None:
        """What is wrong with a checkpoint's ``host.json``, or None; the replay's files are not looked at."""
        try:
            HostSaved.of_lanes(host, self.replay.lanes)
        except FileUnusable as error:
            return str(error)
        return None

    def read_parts(self, run: Run, step: int, drop_damaged: bool) -> tuple[PyTree, HostSaved]:
        """Arrays and the rest of a checkpoint, whose replay is whole or may be damaged."""

        def check(host: Any) -> str | None:
            if (problem := self._problem(host)) or drop_damaged:
                return problem
            found = disk.problems(run.rundir.replay, host["replay"])
            advice = "; to resume without the damaged parts: --drop-damaged-replay"
            return "; ".join(found) + advice if found else None

        tree, host, _ = checkpoint.restore(run.rundir.checkpoints, self._tree(), step, check)
        return tree, HostSaved.of_lanes(host, self.replay.lanes)

    def load_parts(self, found: list[tuple[PyTree, HostSaved]], drop_damaged: bool) -> None:
        """Take over a checkpoint, and bring replay and environments back to where they were."""
        (tree, saved), collector = found[0], self.collector
        given.check_same(saved.data, self.given, self.config.replay.data)
        self._state, collector.acting = self.placement.put_state(tree["train"]), collector.placed(tree["acting"])
        collector.agent_steps, collector.broken.count = self.tally.agent_steps, self.tally.broken
        collector.broken.in_a_row[:] = saved.broken_in_a_row
        collector.running = Running(**{name: np.array(value) for name, value in saved.running.items()})
        self.rng.bit_generator.state = saved.rng
        whole = self._restore_replay(saved.replay, drop_damaged)
        self._restore_environments(saved.envs)
        if saved.begun:  # with the action that was decided before the checkpoint
            collector.resume(np.asarray(tree["sent"]))
        # Not where the run continues with other batches than it was stopped with.
        if whole and saved.pending_shape == self._batch_shape and bool(saved.data) == bool(self.given):
            for indices in saved.pending:
                self.prefetch.request(Indices.from_json(indices))

    def _restore_replay(self, manifest: dict[str, Any], drop_damaged: bool) -> bool:
        """Fill the replay; whether all of it is there."""
        dropped = disk.load(self.replay, self.rundir.replay, manifest, drop_damaged)
        for line in dropped:
            self.progress.log(f"the run continues without part of its replay: {line}")
        if not dropped:
            self._manifest = manifest  # else rows have other numbers: all are written again
        elif not self.source.can_sample:
            self.progress.log(f"learning waits until there is enough experience again: {self.replay.why_empty()}")
            self.segments.wait()
        return not dropped

    def _restore_environments(self, saved: dict[str, Any]) -> None:
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

    def close(self) -> None:
        """Stop the thread that fetches batches."""
        self.prefetch.close()
