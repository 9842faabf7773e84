"""A trained run, made once."""

import io

import pytest
from rich.console import Console

import jaxdreamer
from jaxdreamer.config import preset
from tests.deploy.test_agent import SMALL


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Of V3 in a tiny size on Pendulum-v1."""
    config = preset("classic,tiny", id="Pendulum-v1", **(SMALL | {"frames": 100, "checkpoint_every": 1000}))
    folder = tmp_path_factory.mktemp("runs") / "run"
    return jaxdreamer.train_agent(config, folder, console=Console(file=io.StringIO())).logdir
