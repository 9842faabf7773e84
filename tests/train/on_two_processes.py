"""What two processes do that train one run. test_crew.py starts it twice: ``SCENARIO PORT PROCESS FOLDER``."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.agent.algorithm import Policy
from jaxdreamer.cli import main
from jaxdreamer.ops.across import ALONE
from jaxdreamer.train import crew as crews
from jaxdreamer.train.api import train_agent
from jaxdreamer.train.device.loop import DeviceLoop
from jaxdreamer.train.host.loop import HostLoop
from jaxdreamer.train.sharing import by_process
from tests.envs.toy import Saying
from tests.train import toy

TINY = ["backend=pure", "env=pendulum", "num_envs=4", "action_repeat=1", "time_limit=17", "prefill=48", "pretrain=2",
        "train_every=12", "updates=1", "eval_every=0", "log_every=24", "eval_episodes=2", "checkpoint_every=48",
        "capacity=128", "batch_length=6", "replay.shards=2", "video=false", "frames=132"]  # fmt: skip
QUIET = {"console": Console(file=io.StringIO())}


def config(*words):
    return configs.preset("dreamer_v1,tiny", *TINY, *words)


def shared_toy(config, spec, networks=None, across=ALONE):
    """The toy, as each of several devices computes it."""
    one = toy.make(config, spec)

    def update(state, batch):
        return one.update(state, batch._replace(reward=across.mean(batch.reward) * across.devices))

    def act(params, state, obs, is_first, key, mode="explore"):
        action, _ = one.policy.act(params, state, obs, jnp.tile(is_first, across.devices), key, mode)
        return across.over(len(is_first)).take(action), state

    return one._replace(update=update, policy=Policy(one.policy.init, act))


def at(entries, what, kind=DeviceLoop):
    """Let ``what`` happen before the first step that a loop begins with so many entries."""
    step, done = kind.step, []

    def stepped(self):
        if self.position >= entries and not done:
            done.append(0)
            what()
        step(self)

    kind.step = stepped
    return lambda: setattr(kind, "step", step)


def end_self(number):
    os.kill(os.getpid(), number)


def whole(crew, folder):
    """A run that nothing happens to; one that is stopped twice, and goes on; one that is late."""
    found = {"doctor": by_process(crew)}
    close, loops = DeviceLoop.close, []
    DeviceLoop.close = lambda self: loops.append(self)
    learned = train_agent(config(), folder / "learned", crew=crew, **QUIET)
    DeviceLoop.close = close
    found["predicted"] = {key: error.tolist() for key, error in loops[0].open_loop(0).error.items()}
    found["devices"] = [str(device) for device in learned.state.updates.devices()]
    train_agent(config(), folder / "straight", algorithm=shared_toy, crew=crew, **QUIET)

    def stopped():
        return train_agent(config("eval_every=96"), folder / "stopped", algorithm=shared_toy, crew=crew, **QUIET)

    # Asked in a step, of the process that does not lead.
    undo = at(60, lambda: crew.leads or end_self(signal.SIGTERM))
    found["finished"] = [stopped().finished]
    undo()
    # Asked while it waits for an evaluation, which lasts until then.
    watch = DeviceLoop.watch

    def slow(self, done):
        if not crew.leads:
            return
        until = time.monotonic() + 30
        while time.monotonic() < until:
            watch(self, done)
            time.sleep(0.05)

    DeviceLoop.watch = slow
    waits = crew._get
    crew._get = lambda key, other, what, *more: (
        what == "the end of an evaluation" and end_self(signal.SIGTERM),
        waits(key, other, what, *more),
    )[1]
    found["finished"].append(stopped().finished)
    del crew._get
    DeviceLoop.watch = watch
    if crew.leads:
        shutil.copytree(folder / "stopped", folder / "alone")
    crew.collect("the copy")
    found["finished"].append(stopped().finished)

    if crew.leads:
        try:
            crew.collect("tea", seconds=0.2)
        except crews.CrewLate as error:
            found["late"] = str(error)
    else:
        time.sleep(1.0)
        crew.collect("tea")
    crew.collect("the end")
    (folder / f"found-{crew.process}.json").write_text(json.dumps(found))


class Fails(Saying):
    """Now and then it shows what is no number, and its episode breaks off."""

    def __init__(self):
        super().__init__(action="box")

    def step(self, action):
        obs, reward, *ends = super().step(action)
        return (obs, reward if self.time != 2 or self._origin % 5 else np.nan, *ends)


def host_config(*words):
    return config("backend=gym", "env=none-of-gyms", "run.loop=host", "replay.shards=0", "time_limit=0", *words)


def hosted(crew, folder):
    """Environments on the host, in this process and in workers; a run that is stopped goes on."""

    def train(name, *words, **more):
        return train_agent(host_config(*words), folder / name, make=Fails, crew=crew, **more, **QUIET)

    train("learned", "context=collected")
    train("straight", algorithm=shared_toy)
    train("workers", "env.workers=2", algorithm=shared_toy)
    undo = at(60, lambda: crew.leads or end_self(signal.SIGTERM), HostLoop)
    finished = [train("stopped", algorithm=shared_toy).finished]
    undo()
    if crew.leads:
        shutil.copytree(folder / "stopped", folder / "alone")
    crew.collect("the copy")
    finished.append(train("stopped", algorithm=shared_toy).finished)
    crew.collect("the end")
    (folder / f"found-{crew.process}.json").write_text(json.dumps(finished))


def hosted_raised(crew, folder):
    """One's environments fail."""
    at(60, lambda: crew.leads or fail(), HostLoop)
    train_agent(host_config(), folder / "run", make=Fails, algorithm=shared_toy, crew=crew, **QUIET)


def differing(crew, folder):
    train_agent(config(f"train_every={12 + crew.process}"), folder / "run", algorithm=shared_toy, crew=crew, **QUIET)


def killed(crew, folder, who):
    at(60, lambda: crew.process == who and end_self(signal.SIGKILL))
    train_agent(config(), folder / "run", algorithm=shared_toy, crew=crew, **QUIET)


def fail():
    raise RuntimeError("no fuel")


def raised(crew, folder):
    at(60, lambda: crew.leads or fail())
    train_agent(config(), folder / "run", algorithm=shared_toy, crew=crew, **QUIET)


def raised_early(port, process, folder):
    """While the other compiles, and cannot be told."""
    at(0, lambda: process == 1 and fail())
    where = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", f"{process}"]
    return main(["train", "--preset", "dreamer_v1,tiny", *TINY, "--logdir", str(folder / "run"), *where])


def run(scenario, port, process, folder):
    port, process, folder = int(port), int(process), Path(folder)
    if scenario == "early":
        return raised_early(port, process, folder)
    if scenario == "unmet":
        crews._BEGIN = 1
    crew = crews.start_crew(f"127.0.0.1:{port}", 2, process)
    if scenario.startswith("killed"):
        return killed(crew, folder, int(scenario[-1]))
    each = (whole, hosted, hosted_raised, differing, raised)
    return {one.__name__: one for one in each}[scenario](crew, folder)


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
