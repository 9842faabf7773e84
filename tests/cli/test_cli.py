"""The command line: what its commands do and print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError
from jaxdreamer.record.plot import spark
from jaxdreamer.train.folder import load_run
from jaxdreamer.train.metrics import sentence

SMALL = ["--preset", "dreamer_v1,tiny", "frames=60", "prefill=20", "train_every=10", "updates=1", "pretrain=1",
         "eval_every=0", "eval_episodes=1", "video=false"]  # fmt: skip


def fails(capsys, *words: str) -> str:
    """Standard error of a command that must end with status 2 and without a traceback."""
    try:
        status = cli.main(list(words))
    except SystemExit as exit:
        status = exit.code
    errors = capsys.readouterr().err
    assert status == 2 and "Traceback" not in errors
    return errors


def test_words_and_flags_mean_the_same():
    flags, _, _ = cli.parse_train(["--preset", "dreamer_v2", "--env", "CartPole-v1", "--model.deter-size", "33"])
    words, _, _ = cli.parse_train(["--preset=dreamer_v2", "env=CartPole-v1", "deter_size=33"])
    assert flags == words == configs.preset("dreamer_v2", env="CartPole-v1", deter_size=33)
    assert cli.parse_train(["--run.video", "false", "--env.image-size", "48", "64"])[0].run.video is False
    pixels, _, options = cli.parse_train(["--obs", "pixels", "image_size=48x64", "kl_balance=0.5", "--tensorboard"])
    assert pixels.env.obs == "pixels" and pixels.env.image_size == (48, 64) and pixels.loss.kl_balance == 0.5
    assert options.sinks == ("tensorboard",)
    assert cli.parse_train(["exclude=a,b*", "video=false", "kl_balance=none"])[0].env.exclude == ("a", "b*")


def test_a_run_folder_is_named_after_task_and_preset():
    _, logdir, _ = cli.parse_train(["--preset", "dreamer_v2,small", "--env", "ALE/Pong-v5"])
    assert logdir.parent == Path("runs") and logdir.name.startswith("ALE-Pong-v5-dreamer_v2-small-")
    for model, name in (("<mujoco/>", "mjcf"), ("models/cart.xml", "cart"), ("/a/Arm.mjb", "Arm")):
        _, logdir, _ = cli.parse_train(["--env", model, "backend=mujoco"])
        assert logdir.name.startswith(f"{name}-dreamer_v1-")
    _, logdir, _ = cli.parse_train(["--env.backend", "unity", "unity_file_name=builds/3DBall"])
    assert logdir.name.startswith("3DBall-dreamer_v1-")


def test_train_then_evaluate_then_go_on(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    assert cli.main(["train", "--logdir", str(run), *SMALL]) == 0
    shown = capsys.readouterr().err
    assert "final evaluation of 1 episodes" in shown and "learning curve" in shown
    card = shown[shown.index("finished ---") :]
    assert re.search(r"\n  return +-\d+\.\d over 1 episode without exploration \(lowest ", card)
    for line in (r"best +-\d+\.\d at 58 frames", r"frames +58 without resets, \d+ updates", r"time +0:0\d:\d\d, ",
                 f"folder +{run}", f"play it +jaxdreamer evaluate {run}",
                 f"look at it +jaxdreamer report {run}"):  # fmt: skip
        assert re.search(rf"\n  {line}", card), (line, card)
    assert {"config.json", "spec.json", "metrics.jsonl", "checkpoints", "replay"} <= {p.name for p in run.iterdir()}
    assert cli.main(["evaluate", str(run), "--episodes", "2", "--film", str(tmp_path / "film.gif")]) == 0
    shown = capsys.readouterr().out
    assert "episode 1: return -" in shown and "mean return -" in shown and f"\nfilm {tmp_path / 'film.gif'}\n" in shown
    assert (tmp_path / "film.gif").stat().st_size > 1000
    # The run's own settings hold where none are given.
    assert cli.main(["train", "--logdir", str(run), "frames=80"]) == 0
    assert configs.load(run / "config.json") == configs.preset("dreamer_v1,tiny", *SMALL[2:], "frames=80")
    assert cli.main(["plot", str(run), "--out", str(tmp_path / "curve.png")]) == 0
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "run: eval/return, 58 to 78 frames: -" in capsys.readouterr().out
    # A folder as --seeds makes it: every run of it is played and drawn.
    for seed in (0, 10):
        shutil.copytree(run, tmp_path / "many" / f"seed-{seed}")
    assert cli.main(["evaluate", "--episodes", "1", str(tmp_path / "many"), f"--film={tmp_path / 'f.gif'}"]) == 0
    shown = capsys.readouterr().out
    assert "seed-10:\nepisode 0: return -" in shown and "mean return of 2 seeds: -" in shown
    assert (tmp_path / "f-seed-0.gif").exists() and (tmp_path / "f-seed-10.gif").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["plot", str(tmp_path / "many")]) == 2
    shown = capsys.readouterr()
    assert "many/seed-10: eval/return, 58 to 78 frames: -" in shown.out and "▁" in shown.out
    assert shown.err.endswith("pip install 'jaxdreamer[plot]'\n")


@pytest.mark.parametrize("words", [["train", "--preset", "tiny", "--logdir"], ["evaluate"], ["plot"]])
def test_a_name_that_no_file_can_have_is_a_sentence(words, capsys, tmp_path):
    assert "File name too long" in fails(capsys, *words, str(tmp_path / ("x" * 300)))


@pytest.mark.parametrize("seeds", ["-1", "1e9"])
def test_as_many_seeds_as_no_program_holds_are_refused(seeds, capsys):
    said = fails(capsys, "train", "--preset", "tiny", "--env.backend", "pure", "--env", "pendulum", "--seeds", seeds)
    assert "seeds must be 1 to 1000" in said


def test_plotting_what_is_not_there_is_told(capsys, tmp_path):
    assert "nosuch holds no metrics.jsonl: give run folders" in fails(capsys, "plot", str(tmp_path / "nosuch"))


def test_evaluating_nothing_is_told(capsys, tmp_path):
    assert f"{tmp_path} holds no run: it has no config.json" in fails(capsys, "evaluate", str(tmp_path))
    assert "holds no run: there is no such folder" in fails(capsys, "evaluate", str(tmp_path / "nothing"))
    (tmp_path / "config.yaml").touch()
    assert "holds no run: it is a file, give the folder" in fails(capsys, "evaluate", str(tmp_path / "config.yaml"))
    (tmp_path / "seed-3").mkdir()
    (tmp_path / "seed-3" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"give one of the runs in it, such as .*seed-3"):
        load_run(tmp_path)


@pytest.mark.parametrize("words", [[], ["--help"], ["train", "--help"], ["evaluate", "--help"], ["presets"], ["envs"]])
def test_help_and_lists(words, capsys):
    try:
        assert cli.main(words) == 0
    except SystemExit as exit:
        assert exit.code == 0
    out = capsys.readouterr().out
    assert out and all(
        word in out for word in {"train": ["--preset", "--model.deter-size"]}.get(words[0] if words else "", [])
    )


def test_one_of_a_list_is_explained(capsys):
    assert cli.main(["metrics", "loss/kl"]) == 0 and capsys.readouterr().out == f"loss/kl: {sentence('loss/kl')}\n"
    assert cli.main(["metrics", "losses"]) == 2 and "no metric is called 'losses'" in capsys.readouterr().err
    assert cli.main(["presets"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[: len(configs.PRESETS)]] == list(configs.ABOUT)
    assert set(configs.ABOUT) == set(configs.PRESETS)


@pytest.mark.parametrize(
    ("backend", "task"),
    [("toy", "chain"), ("pure", "pendulum"), ("brax", "ant"), ("playground", "WalkerWalk"), ("gym", "Pendulum-v1")],
)
def test_a_backends_tasks_are_listed(backend, task, capsys):
    if backend in ("brax", "playground"):
        pytest.importorskip({"playground": "mujoco_playground"}.get(backend, backend))
    assert cli.main(["envs", "--backend", backend]) == 0
    assert f"--env.backend {backend}\n" in (out := capsys.readouterr().out) and f"  --env {task}\n" in out


def test_the_installed_command_runs():
    script = Path(sys.executable).parent / "jaxdreamer"
    assert subprocess.run([script, "--version"], capture_output=True, text=True).stdout.startswith("jaxdreamer 0.")
    module = subprocess.run([sys.executable, "-m", "jaxdreamer", "trian"], capture_output=True, text=True)
    assert module.returncode == 2 and "did you mean train" in module.stderr


def test_whoever_reads_may_know_no_blocks_and_may_stop_reading(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"env_frames": 1, "eval/return": 1}\n{"env_frames": 2, "eval/return": 2}\n'
    )
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "jaxdreamer", "plot", "metrics.jsonl"]
    plot = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert plot.returncode == 0 and "1 ?? 2" in plot.stdout, plot.stderr
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "jaxdreamer", "help", "train"]
    help = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert help.returncode == 141 and help.stderr == ""


def test_spark_shows_the_shape():
    assert spark([0.0, 5.0, 10.0]) == "0 ▁▄█ 10"
    assert spark([np.float64(2.0)]) == "2 ▁ 2"
    assert spark(range(1000)) == f"10 {''.join(block * 7 for block in '▁▂▃▄▅▆▇')}█ 990"
