"""The loop for environments made of pure functions: one compiled program, and the host that starts it and writes down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithms import make_algorithm
from jaxdreamer.config import Config, ConfigError
from jaxdreamer.devices import how_often
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.device.functional import FunctionalEnv, make_lanes
from jaxdreamer.files import FileUnusable, natural, require
from jaxdreamer.record import checkpoint, video
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.pace import Work
from jaxdreamer.record.progress import Progress
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.replay.device import DeviceReplayState, cut, grow, make_device_replay
from jaxdreamer.train.device.program import Carry, Plan, Report, make_program
from jaxdreamer.train.device.tally import Tally
from jaxdreamer.train.evaluate import Evaluation, make_device_evaluate
from jaxdreamer.train.journal import Diverged, save_open_loop, spared
from jaxdreamer.train.loop import Loop
from jaxdreamer.train.schedule import Segment, Segments
from jaxdreamer.types import PyTree, TrainState

MOST_SEGMENTS = 64  # in one call; more saves no time


class Run(NamedTuple):
    """One seed's place: its folder and its log."""

    seed: int
    rundir: RunDir
    metrics: MetricsLog


class DeviceTrainer(Loop[list[Evaluation]]):
    """One or several seeds of one configuration, trained on the device in one compiled program.

    Args:
        config: what to do; the seeds are those of ``runs``.
        env: the environment.
        runs: where each seed writes; locked by the caller.
        progress: where to report; it shows the mean over the seeds.

    Cadences, prefill and budget count every entry of every lane, the resets too (see
    :class:`~jaxdreamer.train.schedule.Segments`); the log tells agent steps and env frames as they were.

    Between calls nothing but a plan goes to the device and nothing but a report comes back, which is read when the next
    call is under way; both are explicit transfers, all others are disallowed. A checkpoint holds everything,
    environments and replay included, so a resumed run continues bit for bit.
    """

    name = "device"

    def __init__(self, config: Config, env: FunctionalEnv, runs: Sequence[Run], progress: Progress):
        super().__init__(config, progress)
        self.spec, self.runs = env.spec, list(runs)
        run, settings = config.run, config.env
        lanes = make_lanes(env, settings.num_envs, action_repeat=settings.action_repeat, time_limit=settings.time_limit)
        replay = make_device_replay(
            env.spec,
            capacity=config.replay.capacity,
            lanes=settings.num_envs,
            length=config.replay.batch_length,
            batch_size=config.replay.batch_size,
            cross_episodes=config.replay.cross_episodes,
            copies=len(self.runs),
        )
        progress.log(replay.size.describe())
        self.algorithm = make_algorithm(config, env.spec)
        program = make_program(config, lanes, replay, self.algorithm)
        self.traces = 0  # times the program was traced; a test holds it at one

        def traced(carry: Carry, plan: Plan) -> tuple[Carry, Report]:
            self.traces += 1
            return program.run(carry, plan)

        self._many = len(self.runs) > 1
        self._call_function = jax.vmap(traced, (0, None)) if self._many else traced
        self._call: Callable[[Carry, Plan], tuple[Carry, Report]] | None = None
        self._evaluate = make_device_evaluate(config, env, self.algorithm.policy)

        def look(params: PyTree, buffer: Any, key: Any) -> Any:
            batch = jax.tree.map(lambda x: x[:, :4], replay.sample(buffer, key))
            return self.algorithm.open_loop(params, batch, context=self.context, key=key)

        self._open_loop = jax.jit(look)
        with progress.status("building the networks and the environments"):
            keys = jnp.stack([jax.random.key(one.seed) for one in self.runs])
            self.carry: Carry = jax.jit(jax.vmap(program.init))(keys) if self._many else jax.jit(program.init)(keys[0])

        self.segments = Segments(run, settings.num_envs, config.replay.batch_length)
        updates = self.segments.rows * settings.num_envs * run.updates // run.train_every
        per_segment = max(1, min(self.segments.most, updates))
        if self.segments.prefill > run.prefill:
            progress.log(
                f"random actions for {self.segments.prefill:,} entries instead of run.prefill {run.prefill:,}: every one of "
                f"the {settings.num_envs} environments has to fill a sequence of {config.replay.batch_length}"
            )
        if self.segments.prefill * settings.action_repeat >= run.frames:
            raise ConfigError(
                f"run.frames {run.frames} would be spent before learning begins, after {self.segments.prefill} entries "
                f"of {settings.num_envs} environments: raise run.frames, or lower run.prefill or env.num_envs"
            )
        self.per_call = min(MOST_SEGMENTS, max(1, self.segments.most // per_segment))
        self._unread: Report | None = None
        self.tallies = [Tally() for _ in self.runs]

    def begin_with(self, start: TrainState) -> None:
        """Learn on from another run's state, in every seed; it is copied. ConfigError where it is of other networks."""
        self._check_start(self.state, start)
        many = lambda x: jnp.stack([x] * len(self.runs)) if self._many else jnp.copy(x)  # noqa: E731
        self.carry = self.carry._replace(train=jax.tree.map(many, start))
        self.segments.random = False
        for tally in self.tallies:
            tally.updates, tally.skipped = int(start.updates), int(start.skipped)

    # ---- the loop ------------------------------------------------------------------------------------------------

    @property
    def env_frames(self) -> int:
        """Simulator steps of a seed so far, the most of all seeds."""
        return max(tally.agent_steps for tally in self.tallies) * self.config.env.action_repeat

    @property
    def updates(self) -> int:
        """Updates of a seed so far."""
        return max(tally.updates for tally in self.tallies)

    @property
    def position(self) -> int:
        """Entries of all lanes, the resets too."""
        return self.segments.entries

    @property
    def spent(self) -> bool:
        """Whether the budget of entries is, and no update is owed."""
        return self.position * self.config.env.action_repeat >= self.config.run.frames and not self.in_debt

    @property
    def work(self) -> Work:
        """What is left of the run."""
        return self._left(self.segments.owed, self.segments.started >= 0, self.segments.prefill)

    @property
    def in_debt(self) -> bool:
        """Whether updates are owed: calls have an end."""
        return self.segments.owed > 0

    @property
    def state(self) -> TrainState:
        """What the first seed has learned."""
        return self.state_of(0)

    def state_of(self, index: int) -> TrainState:
        """What one seed has learned."""
        return self._of(self.carry.train, index)

    def _acting(self, index: int) -> PyTree:
        params, aux = self._of((self.carry.train.params, self.carry.train.aux), index)
        return self.algorithm.acting(params, aux)

    def _of(self, tree: PyTree, index: int) -> PyTree:
        return jax.tree.map(lambda x: x[index], tree) if self._many else tree

    def step(self) -> None:
        """One call of the program, and whatever is due after it."""
        plan = jax.device_put(self._plan())
        call = self._call or self._compile(plan)
        with self.clock.timed("device"), jax.transfer_guard("disallow"):
            self.carry, report = call(self.carry, plan)
            self._read()
        self._unread = report
        latest = [tally.latest for tally in self.tallies if tally.latest is not None]
        self.progress.update(
            self.counted,
            self.updates,
            left=self.work,
            note=self._due(self.segments.owed) if self.in_debt else "",
            last_return=float(np.mean(latest)) if latest else None,
        )
        self.report()

    def _plan(self) -> Plan:
        """The next segments, up to where something is due."""
        segments: list[Segment] = []
        while len(segments) < self.per_call and not self.spent:
            if sum(segment.updates for segment in segments) >= self.segments.most:
                break
            if not self.segments.owed and any(e.will_be_due(self.segments.entries) for e in self.every.values()):
                break
            segments.append(self.segments.next())
        segments += [Segment(False, 0, 0)] * (self.per_call - len(segments))
        random, rows, updates = zip(*segments)
        return Plan(np.array(random), np.array(rows, np.int32), np.array(updates, np.int32))

    def _compile(self, plan: Plan) -> Callable[[Carry, Plan], tuple[Carry, Report]]:
        lanes = f"{self.config.env.num_envs} environments"
        seeds = f" for {len(self.runs)} seeds" if self._many else ""
        with self.progress.status(f"compiling the loop: {lanes} and {self.config.preset}{seeds}, {how_often()}"):
            self._call = jax.jit(self._call_function, donate_argnums=0).lower(self.carry, plan).compile()
        return self._call

    def _read(self) -> None:
        """Take note of the last call's report."""
        if self._unread is None:
            return
        report, self._unread = jax.device_get(self._unread), None
        for index, tally in enumerate(self.tallies):
            try:
                tally.read(self._of(report, index))
            except (Diverged, EnvError) as error:
                if not self._many:
                    raise
                one = self.runs[index]
                raise type(error)(
                    f"seed {one.seed}: {error} (the others can go on alone, each with --logdir {one.rundir.path.parent}/"
                    "seed-N)"
                ) from error

    # ---- reporting -----------------------------------------------------------------------------------------------

    def log(self) -> None:
        """Write one line of metrics for each seed."""
        self._read()
        rates = self.clock.take(self.env_frames, self.updates)
        lanes = self.config.env.num_envs
        entries = min(self.segments.entries, self.config.replay.capacity // lanes * lanes)
        for one, tally in zip(self.runs, self.tallies):
            scalars = tally.take() | rates
            scalars["replay/entries"] = entries
            scalars["train_ratio"] = self.config.train_ratio
            one.metrics.write(scalars, **self._counters(tally))

    def _counters(self, tally: Tally) -> dict[str, int]:
        frames = tally.agent_steps * self.config.env.action_repeat
        return {"agent_steps": tally.agent_steps, "env_frames": frames, "updates": tally.updates}

    def evaluate(self, final: bool = False, write: bool = True) -> list[Evaluation]:
        """Play whole episodes on the device without exploration, with seeds of their own; log it, and save pictures."""
        self._read()
        sees_images = any(spec.kind == "image" for spec in self.spec.obs.values())
        film = self.config.run.video and (final or sees_images)
        evaluations = []
        with self.evaluating():
            for index, one in enumerate(self.runs):
                params = self._acting(index)
                evaluations.append(
                    self._evaluate(params, self.config.run.eval_episodes, seed=one.seed, film=film, watch=self.watch)
                )
        if final and write:
            self.log()
        with self.clock.timed("evaluate"):
            for index, (one, tally, evaluation) in enumerate(zip(self.runs, self.tallies, evaluations)):
                counters = self._counters(tally)
                if evaluation.frames is not None:
                    path = one.rundir.videos / f"policy-{counters['env_frames']:012d}.gif"
                    with spared():
                        video.save_video(path, evaluation.frames, evaluation.frame_rate)
                if sees_images and self.predicts and tally.updates and write:
                    self._save_open_loop(index, counters)
                if write:
                    one.metrics.write(evaluation.metrics(), **counters)
        mean = float(np.mean([np.mean(evaluation.returns) for evaluation in evaluations]))
        self.progress.update(self.counted, self.updates, left=self.work, eval_return=mean)
        return evaluations

    def _save_open_loop(self, index: int, counters: dict[str, int]) -> None:
        one = self.runs[index]
        buffer = self._of(self.carry.replay, index)
        report = jax.device_get(self._open_loop(self._acting(index), buffer, jax.random.key(one.seed)))
        save_open_loop(report, self.spec, one.rundir, one.metrics, context=self.context, counters=counters)

    # ---- saving and resuming -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of everything for each seed, atomically; of the replay what is filled."""
        self._read()
        with self.clock.timed("save"):
            rows = int(np.max(jax.device_get(self.carry.replay.filled)))  # the seeds' lanes move in lockstep
            for index, (one, tally) in enumerate(zip(self.runs, self.tallies)):
                host = self._cadence(one.seed) | {
                    "segments": self.segments.state(),
                    "random_prefill": self.segments.random,
                    "replay_rows": rows,
                    "told": tally.state(),
                    "metrics_offset": one.metrics.offset,
                }
                carry = self._of(self.carry._replace(replay=self._cut(self.carry.replay, rows)), index)
                tree = {"train": carry.train, "loop": carry._asdict() | {"train": ()}}
                # Killed between two seeds' saves, a set must still have a checkpoint in common.
                keep = max(self.config.run.keep_checkpoints, 2 if self._many else 1)
                checkpoint.save(one.rundir.checkpoints, self.segments.entries, tree, host, keep)
                one.rundir.mark_saved()
        self.saved_at = self.counted
        if self.on_save is not None:
            self.on_save(self.state, self.env_frames)

    def _form(self) -> dict[str, Any]:
        return super()._form() | {
            "segments": Segments.FORM,
            "random_prefill": bool,
            "replay_rows": natural,
            "told": Tally.FORM,
            "metrics_offset": natural,
        }

    def restore(self, drop_damaged: bool = False) -> None:
        """Go on from the newest checkpoint that every seed has, undamaged; the replay is a part of it."""
        if drop_damaged:
            self.progress.log(
                "drop_damaged_replay does nothing on the device: there the replay is part of the checkpoint, and a damaged "
                "checkpoint is skipped for the one before it"
            )
        common = set.intersection(*(set(checkpoint.steps(one.rundir.checkpoints)) for one in self.runs))
        if not common:
            raise ConfigError(
                "the seeds' folders have no checkpoint in common, so they can only go on alone, each with its own --logdir: "
                + "; ".join(f"{one.rundir.path}: {checkpoint.steps(one.rundir.checkpoints)}" for one in self.runs)
            )
        like = jax.eval_shape(lambda carry: self._of(carry, 0), self.carry)
        del self.carry  # the ring is large: not two of them while another is read
        for step in sorted(common, reverse=True):
            try:
                found = [self._read_checkpoint(one.rundir, step, like) for one in self.runs]
            except checkpoint.CheckpointDamaged as error:
                if step == min(common):
                    raise
                self.progress.log(f"checkpoint {step} is damaged and skipped: {error}")
                continue
            break
        carries = [carry for carry, _ in found]
        self.carry = jax.tree.map(lambda *x: jnp.stack(x), *carries) if self._many else carries[0]
        for one, tally, (_, host) in zip(self.runs, self.tallies, found):
            tally.load(host["told"])
            if told := one.metrics.truncate(host["metrics_offset"], tally.agent_steps * self.config.env.action_repeat):
                self.progress.log(told)
        host = found[0][1]
        self.segments.load(host["segments"])
        self.segments.random = bool(host["random_prefill"])
        self._load_cadence(host)
        self.saved_at = self.counted
        self.progress.log(f"resumed at {self.env_frames:,} frames, update {self.updates:,}")

    def _read_checkpoint(self, rundir: RunDir, step: int, like: Carry) -> tuple[Carry, dict[str, Any]]:
        host = checkpoint.read_host(rundir.checkpoints, step)
        try:
            require(host, self._form(), "host.json")
        except FileUnusable as error:
            raise checkpoint.CheckpointDamaged(f"{rundir.checkpoints}, step {step}: {error}") from error
        rows = host["replay_rows"]
        if rows > like.replay.age.shape[0]:
            raise checkpoint.CheckpointDamaged(
                f"{rundir.checkpoints}, step {step}: host.json says {rows} rows of replay"
            )
        part = like._replace(replay=jax.eval_shape(lambda ring: cut(ring, rows), like.replay))
        tree, host, _ = checkpoint.restore(
            rundir.checkpoints, {"train": part.train, "loop": part._asdict() | {"train": ()}}, step=step
        )
        carry = Carry(**(tree["loop"] | {"train": tree["train"]}))
        return carry._replace(replay=grow(carry.replay, like.replay.age.shape[0])), host

    def _cut(self, ring: DeviceReplayState, rows: int) -> DeviceReplayState:
        return jax.vmap(lambda one: cut(one, rows))(ring) if self._many else cut(ring, rows)
