"""Do the seed's torchwm examples run unchanged, at torchwm's default sizes? One program for each backend, killed on the way.

Each is the example as it stands, with a budget of one round (5,000 frames of chance, 100 full-size updates, 900 frames), run by ``python -m torchwm_compat``. Ctrl-C is sent in the midst of its updates, and the same program is run again:
it resumes, trains to the end, evaluates, saves and reloads what it saved.

    python benchmarks/compat_examples.py [pendulum walker humanoid cartpole halfcheetah ant unity] [--keep FOLDER]

An update takes 6 to 12 seconds on two cores, so an example takes a quarter of an hour. Unity is played by the tests' scripted player.
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
PROGRAM = """
from torchwm import DreamerAgent
from torchwm import DreamerConfig
cfg = DreamerConfig()
{settings}
cfg.total_steps = 5_900
cfg.logdir = {logdir!r}
agent = DreamerAgent(cfg)
agent.train()

import json
rewards, videos, latents = agent.evaluate()
agent.dreamer.save(cfg.logdir + "/model.pt")
again = DreamerAgent.from_pretrained(cfg.logdir, logdir=cfg.logdir + "/again")
own, loaded = agent.dreamer.state_dicts(), again.dreamer.state_dicts()
same = all((own[module][name] == loaded[module][name]).all() for module in own for name in own[module])
print("RESULT", json.dumps({{
    "returns": rewards.tolist(), "videos": [list(video.shape) for video in videos], "latents": list(latents.shape),
    "reloaded_alike": same, "updates": int(agent.dreamer.state.updates), "parameters": agent.parameter_count(),
}}))
"""
CARTPOLE = """<mujoco model="cartpole"><option timestep="0.005"/><visual><global offwidth="64" offheight="64"/></visual>
<worldbody><light pos="0 -1 3"/><geom type="plane" size="4 4 .1" pos="0 0 -1" rgba=".3 .4 .5 1"/>
<body name="cart"><joint name="slide" type="slide" axis="1 0 0" range="-2 2" limited="true" damping=".05"/>
<geom type="box" size=".2 .1 .1" rgba=".8 .3 .2 1"/>
<body name="pole"><joint name="hinge" axis="0 1 0"/><geom type="capsule" size=".05" fromto="0 0 0 0 0 1" rgba=".9 .8 .2 1"/>
</body></body></worldbody><actuator><motor joint="slide" gear="10" ctrlrange="-1 1" ctrllimited="true"/></actuator></mujoco>"""


def run_example(name: str, folder: Path, stop_after: int) -> dict:
    """Run, stop in the midst of the updates, run again; what came of it."""
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "cartpole.xml").write_text(CARTPOLE)
    settings = EXAMPLES[name]
    if name == "unity":
        sys.path.insert(0, str(ROOT))
        from tests.envs.unity_venv import make_player, unity_python

        make_player(
            folder / "env", agents=[{"length": 200}, {"length": 120, "interrupted": True}], image="png", continuous=2
        )
        # The library appends the platform's suffix itself; a camera wants graphics, and the stubs their own interpreter.
        settings += f"\ncfg.unity_no_graphics = False\ncfg.unity_python = {unity_python()!r}"
    logdir = folder / "run"
    script = folder / "script.py"
    script.write_text(PROGRAM.format(settings=settings, logdir=str(logdir)))
    command = [sys.executable, "-m", "torchwm_compat", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    first = interrupted(command, folder, env, stop_after)
    with open(folder / "second.log", "w") as log:
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True, check=False)
    told = (folder / "second.log").read_text()
    if done.returncode:
        raise SystemExit(f"{name}: {told[-3000:]}")
    found = json.loads(re.search("RESULT (.*)", done.stdout).group(1))
    lines = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    found |= {
        "program": script.read_text().split("\n\nimport json")[0].strip().splitlines(),
        "interrupted": first,
        "resumed": re.search("resumed at .*", told).group(0),
        "loop": "device" if "the program" in told or name == "ant" else "host",
        "seconds": round(time.perf_counter() - began),
        "last_losses": {key: lines_with(lines, key)[-1] for key in ("model_loss", "actor_loss", "value_loss")},
        "checkpoints": sorted(path.name for path in (logdir / "ckpts").glob("*.pt")),
        "files": sorted(path.name for path in logdir.iterdir() if path.is_file()),
    }
    return found


def lines_with(lines: list[dict], key: str) -> list[float]:
    return [line[key] for line in lines if key in line]


def interrupted(command: list[str], folder: Path, env: dict[str, str], stop_after: int) -> dict:
    """Start the program, send Ctrl-C once it says that ``stop_after`` updates are done, and wait for its end."""
    with open(folder / "first.log", "w") as log:
        child = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    asked = 0.0
    while child.poll() is None:
        counts = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) updates \|", (folder / "first.log").read_text())]
        if not asked and counts and counts[-1] >= stop_after:
            asked = time.perf_counter()
            child.send_signal(signal.SIGINT)
        time.sleep(0.5)
    told = (folder / "first.log").read_text()
    if not asked:
        raise SystemExit(f"{folder.name}: ended before it was interrupted:\n{told[-3000:]}")
    return {
        "exit_code": child.returncode,
        "seconds_to_end": round(time.perf_counter() - asked, 1),
        "said": re.findall("stopped and saved.*", told),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(EXAMPLES), help="all by default")
    parser.add_argument("--keep", type=Path, help="keep the folders there")
    parser.add_argument("--stop-after", type=int, default=20, help="updates before Ctrl-C")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from harness import RESULTS, stamp, write

    path = RESULTS / "compat_examples.json"
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.names:
            found = run_example(name, (arguments.keep or Path(temporary)) / name, arguments.stop_after)
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
