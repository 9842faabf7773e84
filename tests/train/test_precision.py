"""``model.precision=auto``: what it stands for where, and that a run keeps what it began with."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from jaxdreamer import config as configs
from jaxdreamer.config import ConfigError
from jaxdreamer.nets.networks import make_networks
from jaxdreamer.train import precision
from jaxdreamer.train.api import train_agent
from jaxdreamer.train.precision import Choice, choose, processor_flags
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec
from tests.train.test_run import tiny

ACTION = ActionSpec((ActionPart("continuous", 1),))
STATE = EnvSpec({"state": ArraySpec((3,), "float32", "vector")}, ACTION)
PIXELS = EnvSpec({"image": ArraySpec((64, 64, 3), "uint8", "image")}, ACTION)
V1 = configs.preset("dreamer_v1", "precision=auto")


def device(platform, **more):
    return SimpleNamespace(platform=platform, device_kind=f"a {platform}", **more)


@pytest.mark.parametrize(
    ("where", "flags", "spec", "wanted", "why"),
    [
        (device("cpu"), {"avx2", "avx512f"}, PIXELS, "float32", "nothing says that this processor multiplies bfloat16"),
        (device("cpu"), set(), PIXELS, "float32", "nothing says"),
        (device("cpu"), {"avx512_bf16", "avx2"}, PIXELS, "bfloat16", r"\(avx512_bf16\)"),
        (device("cpu"), {"avx512_bf16", "amx_bf16"}, PIXELS, "bfloat16", r"\(amx_bf16, avx512_bf16\)"),
        (device("cpu"), {"amx_bf16"}, STATE, "float32", "strided convolutions"),
        (device("tpu"), set(), STATE, "bfloat16", "TPUs"),
        (device("gpu", compute_capability="9.0"), set(), STATE, "bfloat16", "a gpu multiplies it"),
        (device("gpu", compute_capability="12.0"), set(), PIXELS, "bfloat16", "a gpu"),
        (device("gpu", compute_capability="7.5"), set(), PIXELS, "float32", "compute capability 8.0"),
        (device("gpu", compute_capability="gfx942"), set(), PIXELS, "float32", "not known"),
        (device("metal"), set(), PIXELS, "float32", "not known"),
    ],
)
def test_it_is_chosen_by_device_processor_and_observations(where, flags, spec, wanted, why):
    found = choose(V1, spec, where, frozenset(flags))
    assert found.precision == wanted
    assert re.search(why, found.why)


@pytest.mark.parametrize("preset", ["dreamer_v1,small", "dreamer_v3", "classic"])
def test_no_gain_on_a_cpu_is_claimed_that_nobody_measured(preset):
    found = choose(configs.preset(preset), PIXELS, device("cpu"), frozenset({"amx_bf16"}))
    assert found.precision == "float32" and "strided convolutions as wide as V1's" in found.why


def test_the_processors_features_are_read_off_the_system(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: X\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert processor_flags(path) == {"fpu", "avx2", "amx_bf16"}
    path.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")  # an ARM: of these nothing was measured
    assert processor_flags(path) == processor_flags(tmp_path / "nothing") == frozenset()


def test_networks_want_it_settled():
    with pytest.raises(ConfigError, match="auto is settled where a run begins"):
        make_networks(V1.model, STATE)


def test_a_run_keeps_the_precision_it_began_with(tmp_path, monkeypatch):
    """Also on a machine where auto would be something else; it cannot be changed either."""
    asked = tiny("frames=60", "time_limit=20", "eval_episodes=1", "precision=auto")

    def go_on(frames=60, **more):
        console = Console(file=io.StringIO(), width=10_000)
        config = configs.replace(asked, {"run.frames": frames, **more})
        assert train_agent(config, tmp_path / "run", console=console).finished
        stored = json.loads((tmp_path / "run" / "config.json").read_text())
        return console.file.getvalue(), stored["model"]["precision"]

    monkeypatch.setattr(precision, "choose", lambda config, spec: Choice("bfloat16", "because of the moon"))
    said, stored = go_on()
    assert said.count("model.precision") == 1 and stored == "bfloat16"
    assert "model.precision=auto: bfloat16, because of the moon\n" in said
    monkeypatch.setattr(precision, "choose", lambda config, spec: Choice("float32", "the moon has set"))
    said, stored = go_on(80)
    assert "model.precision=auto: bfloat16, with which the run began\n" in said and stored == "bfloat16"
    with pytest.raises(ConfigError, match=r"model\.precision: the run has 'bfloat16', asked for 'float32'"):
        go_on(80, **{"model.precision": "float32"})
    assert "model.precision" not in go_on(80, **{"model.precision": "bfloat16"})[0]
