"""Importing the package is cheap and silent, and gives every public name."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import jaxdreamer

CHILD = """
import json, sys, time
start = time.perf_counter()
import jaxdreamer
seconds = time.perf_counter() - start
after_import = sorted(sys.modules)
backends_at_once = list(sys.modules["jax._src.xla_bridge"]._backends) if "jax" in sys.modules else []
listed = dir(jaxdreamer)
gymnasiums = {"MuJoCoImageEnv", "DreamEnv", "DreamVectorEnv"}  # which import it
other = [name for name in jaxdreamer.__all__ if name not in gymnasiums]
missing = [name for name in other if getattr(jaxdreamer, name, None) is None]
import jax
from jax._src import xla_bridge
print(json.dumps({
    "seconds": seconds, "after_import": after_import, "missing": missing, "listed": listed,
    "backends": backends_at_once + list(xla_bridge._backends), "after_names": sorted(sys.modules),
}))
"""
HEAVY = {"jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "rich", "PIL"}
FOREIGN = {"torch", "tensorflow", "brax", "dm_control", "mujoco", "pygame", "matplotlib", "wandb", "imageio"}


@pytest.fixture(scope="module")
def child():
    run = subprocess.run([sys.executable, "-W", "error", "-c", CHILD], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "" and run.stdout.count("\n") == 1  # nothing printed but what the child says
    return json.loads(run.stdout)


def test_import_is_cheap(child):
    assert child["seconds"] < 2.0
    loaded = {name.split(".")[0] for name in child["after_import"]}
    assert not loaded & (HEAVY | FOREIGN)
    assert "gymnasium.envs" not in child["after_import"]


def test_every_public_name_is_there_and_starts_no_device(child):
    assert child["missing"] == []
    assert set(jaxdreamer.__all__) <= set(child["listed"])
    assert child["backends"] == []
    assert not {name.split(".")[0] for name in child["after_names"]} & FOREIGN
    assert "gymnasium.envs" not in child["after_names"]


def test_type_checkers_see_the_names_that_python_sees():
    tree = ast.parse(Path(jaxdreamer.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"jaxdreamer.{home}" for name, home in jaxdreamer._HOME_OF.items()}


def test_names_are_where_they_are_documented():
    assert jaxdreamer.__all__ == sorted(jaxdreamer.__all__)
    assert {"__version__", *jaxdreamer.__all__} <= set(dir(jaxdreamer))
    for name in jaxdreamer.__all__:
        assert callable(getattr(jaxdreamer, name)) or name == "TRUTH", name
    with pytest.raises(AttributeError, match=r"jaxdreamer.*'dream'"):
        jaxdreamer.dream  # noqa: B018
