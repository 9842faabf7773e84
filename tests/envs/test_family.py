"""A new family of environments is one file and one line: everything else reads its record."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from jaxdreamer import cli, doctor, evaluate_agent, families, train_agent
from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError, EnvConfig, Options
from jaxdreamer.envs.registry import backends, is_functional, make_env, register, tasks
from jaxdreamer.record import metrics
from tests.envs import walk_family
from tests.envs.walk_family import WalkOptions

WORDS = ("env.backend=walk", "env=walk", "num_envs=2", "action_repeat=1", "prefill=40", "pretrain=1", "train_every=20",
         "updates=1", "batch_length=5", "log_every=40", "eval_every=0", "eval_episodes=2", "capacity=200")  # fmt: skip


@pytest.fixture(params=["listed", "registered"])
def walk(request, monkeypatch):
    """The family is known, by a line in the list or by a program's registration."""
    monkeypatch.setattr(families, "_registered", {})
    if request.param == "listed":
        monkeypatch.setitem(families.FAMILIES, "walk", walk_family.__name__)
    else:
        register(walk_family.BACKEND)


def test_it_trains_on_the_device_with_its_option_and_goes_on(walk, tmp_path):
    config = configs.preset("dreamer_v2,tiny", *WORDS, "frames=80", "stride=3", "shoes=boots")
    assert config.env.options == WalkOptions(stride=3, shoes="boots") and is_functional(config.env)
    quiet = Console(file=io.StringIO())
    result = train_agent(config, tmp_path / "run", console=quiet)
    assert result.finished and json.loads((tmp_path / "run" / "config.json").read_text())["env"]["options"] == {
        "stride": 3, "shoes": "boots"
    }  # fmt: skip
    assert evaluate_agent(tmp_path / "run").returns == result.evaluation.returns
    assert {total % 3 for total in result.evaluation.returns} == {0}  # every place is a multiple of the stride
    longer = configs.replace(config, {"frames": 120, "shoes": "sandals"})
    with pytest.raises(ConfigError, match=r"env\.stride: the run has 3, asked for 2"):
        train_agent(configs.replace(longer, {"stride": 2}), tmp_path / "run", console=quiet)
    assert train_agent(longer, tmp_path / "run", console=quiet).finished
    assert metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]["env_frames"] > 80


def test_every_list_and_message_has_it(walk, monkeypatch, capsys):
    assert "walk" in backends() and tasks("stroll") == ["walk"]
    assert cli.main(["envs", "walk"]) == 0 and cli.main(["help", "train"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("--env.backend walk\n  --env walk\n")
    assert (
        "env, of walk: A walk to and fro.\n  --env.stride INT\n      Places that a step moves. (default: 2)\n" in said
    )
    for word, message in {
        "stride=2": r"^env.stride is an option of env.backend=walk; 'gym' has camera",
        "env.backend=walk stride=6": "env.stride must be at most 5, found 6",
        "env.backend=walk camera=x": "env.camera is an option of .*; 'walk' has shoes, stride",
        "env.backend=walk strid=3": r"unknown setting 'strid' \(did you mean stride",
    }.items():
        with pytest.raises(ConfigError, match=message):
            configs.preset("tiny", *word.split())
    with pytest.raises(ConfigError, match=r"unknown backend 'strol' \(did you mean stroll.*toy, unity_mlagents, walk"):
        make_env(EnvConfig(backend="strol"))
    with pytest.raises(ConfigError, match=r"env\.backend=brax or craftax or gymnax or playground or pure or walk"):
        train_agent(configs.preset("tiny", "loop=device"), "nowhere")
    record = families.find("walk")
    monkeypatch.setattr(families, "FAMILIES", {})
    monkeypatch.setattr(families, "_registered", {"walk": record})
    assert doctor._backends()[1:] == ["  walk: works (walk: place)"]
    unsampled = dataclasses.replace(record, sample="", libraries=("no-such-library",), extra="walk")
    monkeypatch.setattr(families, "_registered", {"walk": unsampled})
    assert doctor._backends()[1:] == ["  walk: pip install 'jaxdreamer[walk]'"]


def test_a_stored_option_of_a_backend_that_is_not_registered_here_is_explained():
    data = {"env": {"backend": "walk", "options": {"stride": 3}}}
    with pytest.raises(ConfigError, match=r"'env\.options\.stride'.*are known once it is registered"):
        configs.from_dict(data)


@dataclasses.dataclass(frozen=True)
class Clash(Options):
    """An option with the name of another setting."""

    discount: float = 0.5


@dataclasses.dataclass(frozen=True)
class OtherKind(Options):
    """An option that several backends have, as something else."""

    camera: int = 0


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"options": Clash}, r"the option discount .* has the name of behavior\.discount"),
        ({"options": OtherKind}, r"the option camera \(<class 'int'>\) has the name of env\.camera \(<class 'str'>\)"),
        ({"options": dict}, "options is a subclass of Options"),
        ({"kind": "moon"}, "kind is host, lanes or device, found .* and 'moon'"),
        ({"aliases": ("gymnasium",)}, "the name gymnasium is gym's"),
        ({"aliases": ("custom",)}, "the name custom is train_agent's"),
    ],
)
def test_a_record_that_would_mean_two_things_is_refused(about, message):
    with pytest.raises(ConfigError, match=message):
        register("mine", make_env, **about)
    assert families.find("mine") is None


def test_to_read_the_records_loads_no_simulator():
    code = (
        "import sys\nfrom jaxdreamer import config, families\n"
        "config.types(), families.records()\n"
        "print(sorted({'jax', 'flax', 'brax', 'mujoco', 'dm_control', 'gymnasium_robotics', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
