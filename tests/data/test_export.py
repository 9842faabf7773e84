"""What a run holds is written for others, and read back it is the same."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from jaxdreamer.config import ConfigError, EnvConfig, MissingExtra
from jaxdreamer.data import minari_io, npz
from jaxdreamer.data.episodes import DataError
from jaxdreamer.data.export import export_data
from jaxdreamer.data.source import open_source
from jaxdreamer.data.stored import open_run, stored_episodes
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.gymnasium_env import wrap
from jaxdreamer.types import EnvSpec
from tests.cli.test_cli import fails
from tests.envs.toy import CountingEnv
from tests.train.test_contract import World


@pytest.fixture(scope="module", params=["host", "device"])
def run(request, tmp_path_factory):
    """A run of either loop, whose ring has wrapped around."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    World(request.param).toy(folder, "eval_every=0", "frames=260", "capacity=100", "checkpoint_every=60")
    return folder


def same(one, two):
    one, two = list(one), list(two)
    assert len(one) == len(two) > 0
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


@pytest.mark.parametrize("to", ["npz", "minari"])
def test_exported_and_read_back_it_is_the_same(run, to, tmp_path):
    rundir, config, spec = open_run(run)
    stored = list(stored_episodes(rundir, config, spec))
    written = export_data(run, to, tmp_path / "out-v0")
    source = open_source(str(written.folder), config.env)
    assert source.spec == spec
    assert source.lengths == [len(one["reward"]) for one in stored]
    assert (written.episodes, written.entries) == (len(stored), sum(source.lengths))
    # The ring holds 100 entries; at most one of each lane may stand alone and be left out.
    assert 100 - config.env.num_envs <= written.entries <= 100
    same(source, stored)
    with pytest.raises(ConfigError, match="out-v0 is in use: choose another --out"):
        export_data(run, to, written.folder)


@pytest.mark.parametrize("action", ["discrete", "offset", "multi_discrete", "multi_binary", "box", "dict", "tuple"])
def test_a_dataset_of_minari_has_the_environments_own_actions(action, tmp_path):
    """Of every kind of space; observations of every kind come back too."""
    rng = np.random.default_rng(0)
    env = wrap(CountingEnv("dict", action), EnvConfig())
    spec = EnvSpec(env.spec.obs, env.spec.action)
    drawn = {
        "continuous": lambda size: rng.uniform(-1, 1, (5, size)),
        "discrete": lambda size: np.eye(size)[rng.integers(size, size=5)],
    }
    steps = np.concatenate([drawn[part.kind](part.size) for part in spec.action.parts], axis=1)
    steps[0] = 0
    episode = {
        f"obs/{key}": rng.integers(0, 4, (5, *item.shape)).astype(item.dtype) for key, item in spec.obs.items()
    } | {
        "action": steps.astype(np.float32),
        "reward": np.float32([0, 1, 2, 3, 4]),
        "is_first": np.arange(5) == 0,
        "is_last": np.arange(5) == 4,
        "is_terminal": np.zeros(5, bool),
    }
    space = CountingEnv("dict", action).action_space
    minari_io.write(tmp_path / "all-v3", [episode, episode], spec, space, 0.0, {})
    dataset = minari_io.open_dataset(str(tmp_path / "all-v3"), EnvConfig())
    assert dataset.spec == spec and dataset.lengths == [5, 5]
    same([dataset.read(0), dataset.read(1)], [episode, episode])
    # What Minari's own reader shows is what the environment takes.
    stored = dataset.stored[1]
    assert stored.truncations.tolist() == [False, False, False, True] and not stored.terminations.any()
    acts = ActionMap(space)
    for step in range(4):
        taken = minari_io._item(stored.actions, step)
        assert space.contains(taken)
        np.testing.assert_allclose(acts.from_env(taken), acts.from_env(acts.to_env(episode["action"][step + 1])))


@pytest.mark.filterwarnings("ignore::UserWarning")  # about authors and links that the dataset lacks
def test_a_dataset_that_others_recorded_is_read_as_an_environment_is(tmp_path, monkeypatch):
    """By its id, with actions in its own units only; nothing is fetched."""
    import gymnasium
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = minari.DataCollector(gymnasium.make("Pendulum-v1", max_episode_steps=7))
    taken = []
    for seed in range(2):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        ended = False
        while not ended:
            taken.append(env.action_space.sample())
            _, _, terminated, truncated, _ = env.step(taken[-1])
            ended = terminated or truncated
    env.create_dataset("others/pendulum-v1")
    env.close()
    source = open_source("others/pendulum-v1", EnvConfig())
    assert source.lengths == [8, 8] and list(source.spec.obs) == ["state"]
    episodes = list(source)
    acted = np.concatenate([one["action"][1:] for one in episodes])
    np.testing.assert_allclose(2 * acted, taken, rtol=1e-6)
    assert episodes[0]["is_last"].tolist() == [False] * 7 + [True] and not episodes[0]["is_terminal"].any()
    with pytest.raises(DataError, match=r"'others/cartpole-v1' is neither a folder of episodes nor a Minari dataset"):
        open_source("others/cartpole-v1", EnvConfig())


def test_without_minari_its_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        MissingExtra, match=r"'pendulum-v0' is no folder of arrays, and reading (.|\n)*jaxdreamer\[data\]"
    ):
        open_source("pendulum-v0", EnvConfig())


def test_files_that_are_no_episodes_are_refused_by_name(run, tmp_path):
    written = export_data(run, "npz", tmp_path / "out")
    source = open_source(str(written.folder), EnvConfig())
    file = npz.files_in(written.folder)[0]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"episode-000000.npz is no file of arrays that NumPy reads"):
        source.read(0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no episodes: expected spec.json and .npz files"):
        open_source(str(tmp_path / "empty"), EnvConfig())


def test_the_command_says_what_it_wrote_and_what_is_there(run, tmp_path, capsys):
    from jaxdreamer import cli

    assert cli.main(["data", "export", str(run), "--out", str(tmp_path / "out")]) == 0
    assert "episodes of " in capsys.readouterr().out
    assert cli.main(["data", "show", str(tmp_path / "out")]) == 0
    assert "observation state: 3 float32" in capsys.readouterr().out
    assert "data takes `export RUN` or `show PATH`, found 'export'" in fails(capsys, "data", "export")
    assert "holds no run" in fails(capsys, "data", "export", str(tmp_path / "none"))
    assert "as in pendulum-v0" in fails(
        capsys, "data", "export", str(run), "--to", "minari", "--out", str(tmp_path / "x")
    )
