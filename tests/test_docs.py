"""README and docs are true: snippets run, commands work, tables are those of the results, Sphinx does not warn."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdreamer
from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.envs.unity.process import REQUIREMENTS
from tests.envs.unity.unity_venv import make_player, unity_python

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
# In the order of reading: some commands need the run of an earlier one.
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))]
TEXT = "\n".join(PAGES)
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", TEXT, re.S)
SNIPPETS = list(dict.fromkeys(block for kind, block in BLOCKS if kind == "python"))
LINES = (line.partition("#")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines())
COMMANDS = list(dict.fromkeys(line for line in LINES if line.startswith("jaxdreamer ")))
# What makes a run a matter of seconds; the words that a page gives still decide everything else.
BRIEF = ["frames=80", "prefill=30", "pretrain=1", "train_every=20", "updates=1", "eval_episodes=1", "eval_every=0",
         "batch_size=2", "batch_length=4", "capacity=1000", "video=false", "image_size=16x16", "imagine_horizon=3",
         "deter_size=8", "hidden_size=8", "units=8", "cnn_depth=2", "prior_layers=1", "vector_layers=1", "reward_layers=1",
         "critic_layers=1", "actor_layers=1"]  # fmt: skip


# The same for the snippet of a torchwm script.
TORCHWM_BRIEF = """cfg.total_steps, cfg.seed_steps, cfg.collect_steps, cfg.update_steps, cfg.time_limit = 60, 24, 12, 1, 20
cfg.batch_size, cfg.train_seq_len, cfg.imagine_horizon, cfg.buffer_size, cfg.test_episodes = 2, 4, 3, 500, 1
cfg.deter_size, cfg.num_units, cfg.stoch_size, cfg.obs_embed_size, cfg.image_size = 16, 16, 4, 16, (16, 16)"""


def test_the_two_commands_at_the_top_start_from_a_bare_clone():
    first, second = re.findall(r"```bash\n(.*?)```", README, re.S)[:2]
    assert first.startswith("python3 -m venv .venv && .venv/bin/pip install")
    assert second.strip() == "bash .ci/run" and (ROOT / ".ci" / "run").exists()
    words = shlex.split(first.partition(".venv/bin/jaxdreamer ")[2])
    assert words[0] == "train"
    config, _, _ = cli.parse_train(words[1:])
    assert (config.preset, config.env.id) == ("classic", "Pendulum-v1")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """One folder for all commands and snippets: some need the run of an earlier one."""
    folder = tmp_path_factory.mktemp("docs")
    # What the section on other interpreters speaks of: one, and a module in the working folder.
    (folder / "old").symlink_to(Path(sys.executable).parent.parent)
    (folder / "tasks.py").write_text("import gymnasium\n\ndef make():\n    return gymnasium.make('Pendulum-v1')\n")
    # What was printed by --print-config.
    (folder / "pendulum.yaml").write_text(configs.to_yaml(configs.preset("classic", env="Pendulum-v1")))
    # What the Unity section speaks of: an environment with mlagents-envs, and a build.
    (folder / "unity-venv").symlink_to(Path(unity_python()).parent.parent)
    (folder / "builds").mkdir()
    make_player(folder / "builds" / "3DBall", agents=[{"length": 7}, {"length": 9, "interrupted": True}], continuous=2)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    words = shlex.split(command)[1:]
    if words[0] == "train" and "--help" not in words:
        cli.parse_train(words[1:])  # as the page has it
        resuming = "runs/pendulum" in words and Path("runs/pendulum/config.json").exists()
        words = ["train", *words[1:], *(["frames=100"] if resuming else BRIEF)]
    if words[0] == "sweep":
        words += ["--trials=1", *(BRIEF if "--vary" in words else [])]
    if words[0] == "bench":
        words += [*BRIEF, "--seconds=1"]
    try:
        assert cli.main(words) == 0, capsys.readouterr().err
    except SystemExit as exit:
        assert exit.code == 0


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippets_run(index, workplace):
    code = SNIPPETS[index].replace('"frames=1000", "prefill=200"', ", ".join(map(repr, BRIEF)))
    code = code.replace("cfg.total_steps = 1_000_000", TORCHWM_BRIEF)
    done = subprocess.run([sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "examples").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(notebook, workplace):
    cells = json.loads(notebook.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = code.replace('"frames=10000", "prefill=1000"', ", ".join(map(repr, BRIEF)))
    words = [sys.executable, "-W", "ignore:FigureCanvasAgg is non-interactive", "-c", code]
    env = os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(words, cwd=workplace, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not [cell for cell in cells if cell.get("outputs")], "outputs are not kept: they would not be checked"


def test_the_environment_for_unity_is_the_one_that_errors_advise_and_tests_use():
    assert f"unity-venv/bin/pip install -q {REQUIREMENTS}\n" in TEXT


def test_every_setting_the_pages_name_exists():
    names = re.findall(r"`([a-z_.]+)=[^`]*`", TEXT)
    assert len(names) > 4
    parameters = {
        *inspect.signature(jaxdreamer.train_agent).parameters,
        *inspect.signature(jaxdreamer.evaluate_agent).parameters,
        *inspect.signature(jaxdreamer.load_agent).parameters,
    }
    for name in set(names) - {"key"} - parameters:  # key=value says how settings are written
        configs.resolve_name(name)


def test_the_readme_is_a_front_door():
    assert README.count("\n") <= 200


def test_every_public_name_is_in_the_reference():
    documented = re.findall(r"^\.\. [\w:]+:: jaxdreamer\.(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.M)
    assert sorted(documented) == sorted(jaxdreamer.__all__)


def test_the_docs_are_built_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", ROOT / "docs", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tables_are_those_of_the_results():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
