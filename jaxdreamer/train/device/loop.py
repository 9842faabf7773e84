"""The loop for environments made of pure functions: one compiled program, and the host that starts it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer.agent.algorithm import OpenLoop, kept_layout
from jaxdreamer.config import ConfigError
from jaxdreamer.devices import how_often
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.device.functional import FunctionalEnv, make_lanes
from jaxdreamer.files import FileUnusable, natural
from jaxdreamer.ops.across import ALONE
from jaxdreamer.record import checkpoint
from jaxdreamer.replay.device import DeviceReplay, DeviceReplayState, cut, grow, make_device_replay
from jaxdreamer.train.device.program import Carry, Plan, Program, Report, make_program
from jaxdreamer.train.evaluate import MAX_BROKEN_IN_A_ROW, Play, never_finite
from jaxdreamer.train.loop import Job, Loop, Run
from jaxdreamer.train.placement import FIRST, SECOND, WHOLE
from jaxdreamer.train.saved import Saved
from jaxdreamer.train.schedule import Segment
from jaxdreamer.train.status import show
from jaxdreamer.train.telemetry import Diverged, check_updates
from jaxdreamer.types import PyTree, TrainState

MOST_SEGMENTS = 64  # in one call; more saves no time


@dataclass(frozen=True, kw_only=True)
class DeviceSaved(Saved):
    """What a checkpoint of a device loop holds beside its arrays."""

    replay_rows: Annotated[int, natural]


class DeviceLoop(Loop):
    """One or several seeds of one configuration, trained on the device in one compiled program.

    Several devices share out the seeds, where there are several, and otherwise the environments of the one: its lanes,
    their rows of the replay and its batches.

    Between calls nothing but a plan goes to the device and nothing but a report comes back, which is read when the next
    call is under way; both are explicit transfers, all others are disallowed. Replay and environments are a part of the
    checkpoint, so a resumed run continues bit for bit.

    Args:
        job: what to do; the progress shows means over its seeds.
        env: the environment.
        play: plays evaluations.
    """

    name = "device"

    def __init__(self, job: Job, env: FunctionalEnv, play: Play):
        lanes = job.runs[0].config.env.num_envs
        super().__init__(job, env.spec, play, can_render=env.render is not None, lanes=lanes)
        self._many = len(self.runs) > 1
        program, replay = self._build(env)
        self.replay, self.memory = replay, replay.size.brief()
        self.traces = 0  # times the program was traced; a test holds it at one

        def traced(carry: Carry, plan: Plan) -> tuple[Carry, Report]:
            self.traces += 1
            return program.run(carry, plan)

        self._where = FIRST if self._many else _where()
        self._function = self.placement.over(
            jax.vmap(traced, (0, None)) if self._many else traced,
            (self._where, WHOLE),
            (self._where, FIRST if self._many else WHOLE),
        )
        self._call: Callable[[Carry, Plan], tuple[Carry, Report]] | None = None

        def look(params: PyTree, buffer: Any, key: Any) -> OpenLoop:
            batch = jax.tree.map(lambda x: x[:, :4], replay.sample(buffer, key))
            return self.algorithm.open_loop(params, batch, context=self.context, key=key)

        self._open_loop = self.placement.make(look, WHOLE)
        with self.progress.status("building the networks and the environments"):
            keys = jnp.stack([jax.random.key(run.config.seed) for run in self.runs])
            init = self.placement.make(jax.vmap(program.init) if self._many else program.init, self._where)
            self.carry: Carry = init(keys if self._many else keys[0])
        self._like: Carry = jax.eval_shape(lambda carry: self._of(carry, 0), self.carry)
        self._plan_calls()
        self._unread: Report | None = None

    def _build(self, env: FunctionalEnv) -> tuple[Program, DeviceReplay]:
        """The program of one seed, and its whole replay as one device would use it."""
        config, settings = self.config, self.config.env
        lanes = make_lanes(env, settings.num_envs, action_repeat=settings.action_repeat, time_limit=settings.time_limit)
        make_replay = partial(
            make_device_replay,
            env.spec,
            capacity=config.replay.capacity,
            lanes=settings.num_envs,
            length=config.replay.batch_length,
            batch_size=config.replay.batch_size,
            cross_episodes=config.replay.cross_episodes,
            online=config.replay.online,
            groups=max(1, config.replay.shards),
            devices=self.placement.devices,
            copies=len(self.runs),
            kept=kept_layout(self.algorithm),
        )
        across, crossing = ALONE if self._many else self.placement.across, config.replay.cross_episodes
        replay = make_replay(across=across)
        return make_program(self.shared, lanes, replay, cross_episodes=crossing, across=across), make_replay()

    def _plan_calls(self) -> None:
        run, lanes, length = self.config.run, self.config.env.num_envs, self.config.replay.batch_length
        updates = self.segments.rows * lanes * run.updates // run.train_every
        self.per_segment = max(1, min(self.segments.most, updates))
        self.per_call = min(MOST_SEGMENTS, max(1, self.segments.most // self.per_segment))
        if self.segments.prefill > run.prefill:
            self.progress.log(
                f"learning begins after {self.segments.prefill:,} entries instead of run.prefill {run.prefill:,}: every one "
                f"of the {lanes} environments has to fill a sequence of {length}"
            )
        if self.segments.prefill * self.config.env.action_repeat >= run.frames:
            raise ConfigError(
                f"run.frames {run.frames} would be spent before learning begins, after {self.segments.prefill} entries "
                f"of {lanes} environments: raise run.frames, or lower run.prefill or env.num_envs"
            )

    # ---- the loop ------------------------------------------------------------------------------------------------

    def state_of(self, index: int) -> TrainState:
        """What one seed has learned."""
        return self.placement.local(self._of(self.carry.train, index))

    def set_states(self, states: Sequence[TrainState]) -> None:
        """Learn on from these, one of each seed, which are copied."""
        many = lambda *x: jnp.stack(x) if self._many else jnp.copy(x[0])  # noqa: E731
        self.carry = self.placement.put(self.carry._replace(train=jax.tree.map(many, *states)), self._where)

    def _of(self, tree: PyTree, index: int) -> PyTree:
        return jax.tree.map(lambda x: x[index], tree) if self._many else tree

    def step(self) -> None:
        """One call of the program, and whatever is due after it."""
        report = self.advance(self._plan())
        self.read()
        self._unread = report
        show(self)
        self.report()

    def advance(self, plan: Plan) -> Report:
        """Start one call of the program, which goes on from the last one; the report is on the device."""
        plan = self.placement.put_state(plan)
        call = self._call or self._compile(plan)
        with self.clock.timed("device"), jax.transfer_guard("disallow"):
            self.carry, report = call(self.carry, plan)
        return report

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
            self._call = jax.jit(self._function, donate_argnums=0).lower(self.carry, plan).compile()
            self.crew.collect("the end of compiling", seconds=3600)  # which takes some machines longer than others
        return self._call

    def read(self) -> None:
        """Count in the last call's report."""
        if self._unread is None:
            return
        with self.clock.timed("device"):
            report, self._unread = self.placement.gather(self._unread), None
        for index, run in enumerate(self.runs):
            try:
                self._count(index, self._of(report, index))
            except (Diverged, EnvError) as error:
                if not self._many:
                    raise
                raise type(error)(
                    f"seed {run.config.seed}: {error} (resume the others alone, each with --logdir "
                    f"{run.rundir.path.parent}/seed-N)"
                ) from error

    def _count(self, index: int, report: Report) -> None:
        tally = self.runs[index].tally
        tally.agent_steps += int(report.agent_steps)
        tally.broken += int(report.broken)
        if report.broken_in_a_row >= MAX_BROKEN_IN_A_ROW:
            raise never_finite()
        tally.learned(report.learned)
        check_updates(report.learned.worst, updates=tally.updates, agent_steps=tally.agent_steps)
        self.played(index, report.ended)

    # ---- reporting -----------------------------------------------------------------------------------------------

    def measured(self) -> dict[str, float]:
        """Entries in replay."""
        lanes = self.config.env.num_envs
        return {"replay/entries": min(self.segments.entries, self.config.replay.capacity // lanes * lanes)}

    def open_loop(self, index: int) -> OpenLoop:
        """What the model predicts of four sequences from one seed's replay."""
        key = jax.random.key(self.runs[index].config.seed)
        state, ring = self._of((self.carry.train, self.carry.replay), index)  # where they lie: the ring may be large
        return self.placement.gather(self._open_loop(self.algorithm.acting(state.params, state.aux), ring, key))

    # ---- saving and resuming -------------------------------------------------------------------------------------

    def parts(self, index: int, common: dict[str, Any]) -> tuple[PyTree, DeviceSaved]:
        """Arrays and the rest of one seed's checkpoint; of the replay what is filled."""
        ring = self.carry.replay
        rows = int(np.max(self.placement.gather(ring.filled)))  # the seeds' lanes move in lockstep
        ring = jax.vmap(lambda one: cut(one, rows))(ring) if self._many else cut(ring, rows)
        carry = self._of(self.carry._replace(replay=ring), index)
        return _tree(carry), DeviceSaved(**common, replay_rows=rows)

    def restore(self, drop_damaged: bool = False) -> None:
        """Resume from the newest checkpoint that every seed has, undamaged; the replay is a part of it."""
        if drop_damaged:
            self.progress.log(
                "drop_damaged_replay does nothing on the device: there the replay is part of the checkpoint, and a damaged "
                "checkpoint is skipped for the one before it"
            )
        del self.carry  # the ring is large: not two of them while another is read
        super().restore(drop_damaged)

    def read_parts(self, run: Run, step: int, drop_damaged: bool) -> tuple[PyTree, DeviceSaved]:
        """One seed's carry and the rest of a checkpoint."""
        folder, most = run.rundir.checkpoints, self._like.replay.age.shape[0]
        try:
            saved = DeviceSaved.read(checkpoint.read_host(folder, step))
        except FileUnusable as error:
            raise checkpoint.CheckpointDamaged(f"{folder}, step {step}: {error}") from error
        rows = saved.replay_rows
        if rows > most:
            raise checkpoint.CheckpointDamaged(f"{folder}, step {step}: host.json says {rows} rows of replay")
        like = self._like._replace(replay=jax.eval_shape(lambda ring: cut(ring, rows), self._like.replay))
        with self.placement.reading():
            tree, _, _ = checkpoint.restore(folder, _tree(like), step=step)
            carry = Carry(**(tree["loop"] | {"train": tree["train"]}))
            return carry._replace(replay=grow(carry.replay, most)), saved

    def load_parts(self, found: list[tuple[PyTree, DeviceSaved]], drop_damaged: bool) -> None:
        """Take over the seeds' carries."""
        carries = [carry for carry, _ in found]
        carry = jax.tree.map(lambda *x: jnp.stack(x), *carries) if self._many else carries[0]
        self.carry = self.placement.put(carry, self._where)

    def close(self) -> None:
        """Nothing was started."""


def _where() -> Carry:
    """Where the carry of one seed lies: what has a lane axis is shared out along it."""
    ring = DeviceReplayState(entries=SECOND, age=SECOND, position=WHOLE, filled=WHOLE, begun=WHOLE, unseen=WHOLE)  # type: ignore[arg-type]
    whole = Carry(*[WHOLE] * len(Carry._fields))  # type: ignore[arg-type]
    by_lane = dict.fromkeys(("lanes", "timestep", "acting", "running", "broken_in_a_row"), FIRST)
    return whole._replace(replay=ring, **by_lane)  # type: ignore[arg-type]


def _tree(carry: Carry) -> PyTree:
    """A carry as a checkpoint has it, the train state where :func:`~jaxdreamer.record.checkpoint.restore_acting` looks."""
    return {"train": carry.train, "loop": carry._asdict() | {"train": ()}}
