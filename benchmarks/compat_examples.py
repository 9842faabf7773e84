"""Do the seed's torchwm examples run unchanged, at torchwm's default sizes? One program for each backend, killed on the way.

Each is the example as it stands, with a budget of one round (5,000 frames of chance, 100 full-size updates, 900 frames),
run by ``python -m torchwm_compat``. Ctrl-C is sent in the midst of its updates. The same program with more behind it is run
again: it resumes, trains to the end (or to ``--finish-after`` updates, an update takes 6 to 14 seconds here), evaluates,
saves, and reloads what it saved.

    python benchmarks/compat_examples.py [pendulum walker humanoid cartpole halfcheetah ant unity] [--keep FOLDER]

Unity is played by the tests' scripted player.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

EXAMPLES = {
    "pendulum": 'cfg.env_backend = "gym"\ncfg.env = "Pendulum-v1"',
    "walker": 'cfg.env_backend = "dmc"\ncfg.env = "walker-walk"',
    "humanoid": 'cfg.env_backend = "mujoco"\ncfg.env = "Humanoid-v4"',
    "cartpole": 'cfg.env_backend = "mujoco"\ncfg.env = "models/cartpole.xml"\n'
    "cfg.mujoco_camera = None\ncfg.mujoco_frame_skip = 4",
    "halfcheetah": 'cfg.env_backend = "robotics"\ncfg.env = "HalfCheetah-v2"',
    "ant": 'cfg.env_backend = "brax"\ncfg.env = "ant"\ncfg.brax_backend = "generalized"',
    "unity": 'cfg.env_backend = "unity_mlagents"\ncfg.unity_file_name = "env.exe"',
}
EXAMPLE = """
from torchwm import DreamerAgent
from torchwm import DreamerConfig
cfg = DreamerConfig()
{settings}
cfg.total_steps = 5_900
cfg.logdir = {logdir!r}
agent = DreamerAgent(cfg)
"""
AFTERWARDS = """
import json
try:
    agent.train()
except KeyboardInterrupt:  # --finish-after
    pass
rewards, videos, latents = agent.evaluate()
agent.dreamer.save(cfg.logdir + "/model.pt")
again = DreamerAgent.from_pretrained(cfg.logdir, logdir=cfg.logdir + "/again")
own, loaded = agent.dreamer.state_dicts(), again.dreamer.state_dicts()
same = all((own[module][name] == loaded[module][name]).all() for module in own for name in own[module])
print("RESULT", json.dumps({
    "returns": rewards.tolist(), "videos": [list(video.shape) for video in videos], "latents": list(latents.shape),
    "reloaded_alike": same, "updates": int(agent.dreamer.state.updates), "parameters": agent.parameter_count(),
}))
"""
CARTPOLE = """<mujoco model="cartpole"><option timestep="0.005"/><visual><global offwidth="64" offheight="64"/></visual>
<worldbody><light pos="0 -1 3"/><geom type="plane" size="4 4 .1" pos="0 0 -1" rgba=".3 .4 .5 1"/>
<body name="cart"><joint name="slide" type="slide" axis="1 0 0" range="-2 2" limited="true" damping=".05"/>
<geom type="box" size=".2 .1 .1" rgba=".8 .3 .2 1"/>
<body name="pole"><joint name="hinge" axis="0 1 0"/><geom type="capsule" size=".05"
 fromto="0 0 0 0 0 1" rgba=".9 .8 .2 1"/>
</body></body></worldbody>
<actuator><motor joint="slide" gear="10" ctrlrange="-1 1" ctrllimited="true"/></actuator></mujoco>"""


def run_example(name: str, folder: Path, stop_after: int, finish_after: int | None) -> dict:
    """Run, stop in the midst of the updates, run again; what came of it."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "cartpole.xml").write_text(CARTPOLE)
    settings = EXAMPLES[name]
    if name == "unity":
        sys.path.insert(0, str(ROOT))
        from tests.envs.unity.unity_venv import make_player, unity_python

        agents = [{"length": 200}, {"length": 120, "interrupted": True}]
        make_player(folder / "env", agents=agents, image="png", image_shape=[64, 64, 3], continuous=2)
        # mlagents_envs appends the platform's suffix itself; a camera wants graphics, and the stubs their own interpreter.
        settings += f"\ncfg.unity_no_graphics = False\ncfg.unity_python = {unity_python()!r}"
    logdir = folder / "run"
    example = EXAMPLE.format(settings=settings, logdir=str(logdir))
    (folder / "first.py").write_text(example + "agent.train()\n")
    (folder / "second.py").write_text(example + AFTERWARDS)
    began = time.perf_counter()
    first = run_program(folder, "first", stop_after)
    if first["exit_code"] in (0, None) or not first["said"]:
        raise SystemExit(f"{name}: Ctrl-C did not end it: {first}\n{(folder / 'first.log').read_text()[-3000:]}")
    second = run_program(folder, "second", finish_after)
    told = (folder / "second.log").read_text()
    if second["exit_code"]:
        raise SystemExit(f"{name}: {told[-3000:]}")
    found = json.loads(re.search("RESULT (.*)", told).group(1))
    lines = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    losses = ("model_loss", "actor_loss", "value_loss")
    return found | {
        "program": example.strip().splitlines(),
        "interrupted": first,
        "resumed": re.search("resumed at .*", told).group(0),
        "finished": finish_after is None,
        "seconds": round(time.perf_counter() - began),
        "last_losses": {key: [line[key] for line in lines if key in line][-1:] for key in losses},
        "checkpoints": sorted(path.name for path in (logdir / "ckpts").glob("*.pt")),
        "files": sorted(path.name for path in logdir.iterdir() if path.is_file()),
    }


def run_program(folder: Path, name: str, stop_after: int | None) -> dict:
    """Run ``NAME.py``; where it says that ``stop_after`` updates are done, send Ctrl-C and wait for its end."""
    path = folder / f"{name}.log"
    command = [sys.executable, "-m", "torchwm_compat", str(folder / f"{name}.py")]
    with open(path, "w") as log:
        child = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=subprocess.STDOUT
        )
    asked = 0.0
    while child.poll() is None:
        counts = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) updates \|", path.read_text())]
        if stop_after is not None and not asked and counts and counts[-1] >= stop_after:
            asked = time.perf_counter()
            child.send_signal(signal.SIGINT)
        time.sleep(0.5)
    return {
        "exit_code": child.returncode,
        "seconds_to_end": round(time.perf_counter() - asked, 1) if asked else None,
        "said": re.findall("stopped and saved.*", path.read_text()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(EXAMPLES), help="all by default")
    parser.add_argument("--keep", type=Path, help="keep the folders there")
    parser.add_argument("--stop-after", type=int, default=20, help="updates before Ctrl-C")
    parser.add_argument("--finish-after", type=int, help="updates before another one, instead of the whole budget")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from harness import RESULTS, stamp, write

    path = RESULTS / "compat_examples.json"
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.names:
            folder = (arguments.keep or Path(temporary)) / name
            found = run_example(name, folder, arguments.stop_after, arguments.finish_after)
            # Folders of one machine tell nobody anything.
            found = json.loads(json.dumps(found).replace(f"{folder}/", "").replace(f"{ROOT}/", ""))
            print(name, json.dumps(found), flush=True)
            # Read anew each time: examples may be run by two processes at once.
            kept = json.loads(path.read_text())["examples"] if path.exists() else {}
            write(
                "compat_examples",
                {
                    "question": "the seed's examples by python -m torchwm_compat at torchwm's default sizes",
                    "examples": kept | {name: found | {"stamp": stamp()}},
                },
            )


if __name__ == "__main__":
    main()
