"""Ids that other packages register: what is installed is found, what is not is named, and nothing else is imported."""

import sys

import gymnasium
import numpy as np
import pytest

from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra
from jaxdreamer.envs import make_env
from jaxdreamer.envs.host import plugins

SOURCE = """
import gymnasium
gymnasium.register("{id}", entry_point="tests.envs.toy:CountingEnv", kwargs={{"truncate_at": 3}})
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package that registers an id, installed or merely lying there."""
    before, modules = set(gymnasium.registry), set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def write(module, id, source=SOURCE, installed=True, requires="gymnasium>=1.0"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(source.format(id=id))
        if installed:
            about = tmp_path / f"{module}-1.0.dist-info"
            about.mkdir()
            name = module.replace("_", "-")
            fields = ("Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", f"Requires-Dist: {requires}", "")
            about.joinpath("METADATA").write_text("\n".join(fields))
            about.joinpath("top_level.txt").write_text(module)

    yield write
    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "id", "asked"),
    [
        ("pluto_py", "PLUTO/Walk-v3", "PLUTO/Walk-v3"),
        ("pluto_py", "PLUTO/Walk-v3", "PLUTO/Walk"),
        ("gym_pluto", "gym_pluto/Walk-v0", "gym_pluto/Walk-v0"),
        ("pluto_walk_gymnasium", "PlutoWalk-v0", "PlutoWalk-v0"),
        ("miniworld", "MiniWorld-Hallway-v0", "MiniWorld-Hallway-v0"),
    ],
)
def test_an_installed_package_is_found_by_the_id(package, module, id, asked):
    package(module, id)
    env = make_env(EnvConfig(id=asked))
    env.reset(0)
    assert [env.step(np.eye(5)[0]).is_last for _ in range(3)] == [False, False, True]


def test_what_is_not_installed_is_not_imported(package):
    ran = 'raise AssertionError("it ran")'
    package("pluto_py", "PLUTO/Walk-v3", ran, installed=False)
    package("saturn", "Saturn/Walk-v3", ran, requires="numpy")  # installed, and has nothing to do with gymnasium
    package("miniworld", "MiniWorld-Hallway-v0", ran, installed=False)
    for name in ("PLUTO/Walk-v3", "Saturn/Walk-v3"):
        with pytest.raises(ConfigError, match=f"knows no environment '{name}'") as caught:
            make_env(EnvConfig(id=name))
        assert "did you mean" not in str(caught.value)
    with pytest.raises(
        MissingExtra, match=r"MiniWorld-Hallway-v0 is registered .* not installed\npip install miniworld$"
    ):
        make_env(EnvConfig(id="MiniWorld-Hallway-v0"))


def test_ataris_games_name_the_extra(monkeypatch):
    for key in [key for key, spec in gymnasium.registry.items() if "ale_py" in str(spec.entry_point)]:
        monkeypatch.delitem(gymnasium.registry, key)
    monkeypatch.setattr(plugins.metadata, "packages_distributions", dict)
    with pytest.raises(MissingExtra, match=r"\npip install 'jaxdreamer\[atari\]'$"):
        make_env(EnvConfig(id="ALE/Pong-v5"))


def test_a_package_that_cannot_be_imported_or_knows_another_id_is_told(package):
    package("pluto_py", "x", "import no_such_thing")
    with pytest.raises(ConfigError, match=r"'pluto_py' cannot be imported.*no_such_thing"):
        make_env(EnvConfig(id="PLUTO/Walk-v3"))
    package("mars", "Mars/Walk-v0")
    with pytest.raises(ConfigError, match=r"Mars/Wlak-v0.*did you mean Mars/Walk-v0"):
        make_env(EnvConfig(id="Mars/Wlak-v0"))


@pytest.mark.parametrize(("name", "backend"), [("dm_control/walker-walk-v0", "dmc"), ("FetchReachTypo-v4", "robotics")])
def test_ids_of_other_backends_name_them(name, backend, monkeypatch):
    for key in [
        key for key in gymnasium.registry if key.startswith(("Fetch", "Hand", "Adroit", "Franka", "Point", "AntM"))
    ]:
        monkeypatch.delitem(gymnasium.registry, key)
    monkeypatch.setattr(plugins.metadata, "packages_distributions", dict)
    with pytest.raises(ConfigError, match=f"env.backend={backend}"):
        make_env(EnvConfig(id=name))
