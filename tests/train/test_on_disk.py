"""A run whose replay lies on disk is the run whose replay lies in memory, killed and resumed too."""

from __future__ import annotations

import shutil

import numpy as np

from jaxdreamer import cli
from jaxdreamer.data.export import export_data
from jaxdreamer.data.source import open_source
from tests.train.test_contract import World, lines

WORLD = World("host")
WORDS = ("eval_every=0", "capacity=60", "batch_length=5", "checkpoint_every=30", "keep_checkpoints=1")


def test_it_learns_the_same_and_goes_on_from_a_checkpoint_that_later_rows_came_after(tmp_path, capsys):
    memory = WORLD.toy(tmp_path / "memory", *WORDS, "frames=320")
    disk = WORLD.toy(tmp_path / "disk", *WORDS, "frames=320", "on_disk=true")
    assert float(disk.state.aux["rewards"]) == float(memory.state.aux["rewards"]) < 0
    assert lines(tmp_path / "disk") == lines(tmp_path / "memory")
    assert not list((tmp_path / "disk" / "replay").glob("chunk-*"))
    # Killed after it wrote later rows: the checkpoint is an older one than the files.
    WORLD.toy(tmp_path / "run", *WORDS, "frames=240", "on_disk=true")
    shutil.copytree(tmp_path / "run" / "checkpoints", tmp_path / "old")
    WORLD.toy(tmp_path / "run", *WORDS, "frames=300", "on_disk=true")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.move(tmp_path / "old", tmp_path / "run" / "checkpoints")
    resumed = WORLD.toy(tmp_path / "run", *WORDS, "frames=320", "on_disk=true")
    assert float(resumed.state.aux["rewards"]) == float(memory.state.aux["rewards"])
    # What it holds is exported like what the other holds.
    found = [open_source(str(export_data(tmp_path / name).folder), WORLD.config().env) for name in ("run", "memory")]
    for one, two in zip(*found, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], strict=True)
    assert cli.main(["data", "show", str(tmp_path / "run" / "data")]) == 0
    assert "episodes of " in capsys.readouterr().out
