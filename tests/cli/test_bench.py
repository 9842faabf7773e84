"""``jaxdreamer bench``: the table, the numbers in a file, and advice that is about the largest part."""

from __future__ import annotations

import dataclasses
import json
import tempfile

import pytest

from jaxdreamer import cli
from jaxdreamer import config as configs
from jaxdreamer.cli.benching import advice, lines
from tests.cli.test_cli import fails
from tests.train.test_bench import SPLIT
from tests.train.test_run import tiny


def largest(name, loop="host", device="cpu (cpu)", auto="float32", **settings):
    config = configs.replace(SPLIT.config, settings)
    seconds = dict.fromkeys(SPLIT.seconds, 0.1) | {"store": 0.1, name: 5.0}
    return dataclasses.replace(SPLIT, config=config, loop=loop, device=device, auto=auto, seconds=seconds, updates=20)


@pytest.mark.parametrize(
    ("split", "cores", "said"),
    [
        (largest("environment"), 8, "as env.num_envs=2 env.workers=2 on 8 cores"),
        (largest("environment", **{"env.workers": 2}), 8, "as env.num_envs=4 env.workers=4 on 8 cores"),
        (largest("environment", **{"env.workers": 2}), 2, "more cores: its processes share 2 with learning"),
        (largest("environment", loop="device"), 8, "a GPU, or more environments side by side (env.num_envs)"),
        (dataclasses.replace(largest("environment"), draws=True), 8, "smaller pictures (env.image_size), or processes"),
        (largest("update"), 2, "a GPU, smaller sizes (in model"),
        (largest("update", auto="bfloat16", **{"preset": "dreamer_v1"}), 2, "=bfloat16, a GPU, --preset dreamer_v1,small"),
        (largest("update", device="H100 (gpu)", auto="bfloat16"), 2, "model.precision=bfloat16, smaller sizes"),
        (largest("update"), 2, "fewer updates (run.updates=2, run.train_every=10)"),
        (largest("policy"), 2, "step more environments side by side (env.num_envs, now 2)"),
        (largest("sample"), 2, "smaller batches"),
        (largest("transfer"), 2, "more updates a call (run.updates_per_call, now 2)"),
        (largest("store"), 2, "more environments"),
        (largest("log"), 2, "run.log_every, now 50"),
        (dataclasses.replace(largest("log"), wall=50.0), 2, "updates a call"),
    ],
)  # fmt: skip
def test_the_advice_is_one_line_about_the_largest_part(split, cores, said):
    found = advice(split, cores)
    assert said in found and "\n" not in found
    assert ("a GPU" in found) == ("(cpu)" in split.device and (split.largest == "update" or split.loop == "device"))
    assert lines(split)[-1].startswith(f"most goes into {split.largest}: ")


def test_the_table_says_what_was_scaled_and_what_was_timed_apart():
    table = "\n".join(lines(SPLIT))
    assert "the parts add up to 90.0 % of the wall time" in table
    assert "these entries lead to 20 updates" in table and "  update        53.3 %    400.000 ms an update" in table
    assert "  environment   13.3 %     40.000 ms a step" in table and "compiled apart" not in table
    assert "these entries lead to" not in "\n".join(lines(dataclasses.replace(SPLIT, updates=20)))
    on_device = "\n".join(lines(dataclasses.replace(SPLIT, loop="device"), seeds=3))
    assert "compiled apart" in on_device and "3 seeds side by side" in on_device
    assert (
        "do not add up" in on_device and "do not add up" not in table
    )  # 90 %; a clock that is the loop's own cannot err
    whole = {name: spent / 0.9 for name, spent in SPLIT.seconds.items()}
    assert "do not add up" not in "\n".join(lines(dataclasses.replace(SPLIT, loop="device", seconds=whole)))


def test_a_configuration_is_measured_as_it_is_and_nothing_is_kept(tmp_path, capsys, monkeypatch):
    """That of the run in --logdir, which is left alone, with a word that changes it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "run").mkdir()
    stored = tiny("env=CartPole-v1", "frames=60")
    (tmp_path / "run" / "config.json").write_text(json.dumps(configs.to_dict(stored)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    words = ["--logdir", str(tmp_path / "run"), "num_envs=2", "precision=auto", "--seconds", "0.5", "--wandb"]
    monkeypatch.chdir(tmp_path / "run")
    assert cli.main(["bench", *words, "--json", str(tmp_path / "out.json")]) == 0
    shown = capsys.readouterr()
    assert "--wandb means nothing to bench" in shown.err and "warming up" in shown.err
    assert "CartPole-v1 (env.backend=gym) with dreamer_v1,tiny, float32; environments: 2 in this process" in shown.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["config"] == configs.to_dict(configs.replace(stored, {"env.num_envs": 2}))
    assert 0.9 < found["covered"] <= 1.0 and sum(found["shares"].values()) == pytest.approx(1.0)
    assert found["largest"] == max(found["shares"], key=found["shares"].get)
    assert f"most goes into {found['largest']}: {found['advice']}" in shown.out
    assert found["updates"] >= 2 and found["entries"] >= 10 and found["wall_seconds"] >= 0.5
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "out.json"}
    assert (
        after.keys() == before.keys()
        and after[tmp_path / "run" / "config.json"] == before[tmp_path / "run" / "config.json"]
    )


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_a_time_that_is_none_is_told(capsys, seconds):
    assert "seconds" in fails(capsys, "bench", "--preset", "tiny", "--seconds", seconds)


def test_words_are_those_of_train_and_help_explains_its_own(capsys):
    assert cli.main(["bench", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--seconds FLOAT" in shown and "--json PATH" in shown and "--logdir PATH" in shown
    assert "Write the numbers there, too." in shown and "--model.deter-size" in shown
    assert "side by side need an environment of pure functions" in fails(capsys, "bench", "--seeds", "2")
