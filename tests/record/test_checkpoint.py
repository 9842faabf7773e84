import errno
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdreamer.files import FileUnusable
from jaxdreamer.record import checkpoint
from jaxdreamer.record.checkpoint import CheckpointDamaged, CheckpointMismatch, CheckpointMissing
from jaxdreamer.record.parts import Part
from jaxdreamer.saving import StorageError
from jaxdreamer.types import TrainState


class Odd(NamedTuple):
    nothing: None
    numbers: tuple
    keys: jax.Array
    empty: jax.Array


def make_state(seed=0, deter=4):
    rng = np.random.default_rng(seed)
    weights = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    params = {
        "model": {"gru/cell": {"kernel": weights(deter, 3), "bias": weights(3)}},
        "actor": {"out": weights(2, 2)},
        "critic": {"out": weights(2, 1)},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return TrainState(
        params=params,
        optimizers={name: optimizer.init(params[name]) for name in ("model", "actor", "critic")},
        aux={"target_critic": params["critic"]},
        updates=jnp.int32(7),
        skipped=jnp.int32(1),
        skipped_in_a_row=jnp.int32(0),
        key=jax.random.key(seed),
    )


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def saved(tmp_path):
    """Two checkpoints, and what they hold."""
    states = {10: make_state(1), 20: make_state(2)}
    for step, state in states.items():
        checkpoint.save(tmp_path, step, state, {"step": step, "pending": [[1, 2]], "rate": np.float32(0.5)})
    return tmp_path, states


def test_round_trip_keeps_types_values_and_host(saved):
    folder, states = saved
    assert checkpoint.steps(folder) == [10, 20]
    for like in (states[10], jax.eval_shape(lambda: make_state(0))):
        tree, host, step = checkpoint.restore(folder, like)
        assert step == 20 and host == {"step": 20, "pending": [[1, 2]], "rate": 0.5}
        assert type(tree) is TrainState
        assert_same(tree, states[20])
    tree, host, step = checkpoint.restore(folder, states[20], step=10)
    assert step == 10 and host["step"] == 10
    assert_same(tree, states[10])
    assert checkpoint.read_host(folder, 10)["step"] == 10


def test_a_restored_state_goes_on_bit_for_bit(saved):
    folder, states = saved
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))

    @jax.jit
    def update(state):
        key, noise = jax.random.split(state.key)
        grads = jax.tree.map(lambda x: x + jax.random.normal(noise, x.shape), state.params["model"])
        updates, opt = optimizer.update(grads, state.optimizers["model"])
        params = state.params | {"model": optax.apply_updates(state.params["model"], updates)}
        return state._replace(params=params, optimizers=state.optimizers | {"model": opt}, key=key)

    assert_same(update(checkpoint.restore(folder, states[10])[0]), update(states[20]))


def test_odd_trees(tmp_path):
    tree = Odd(
        nothing=None,
        numbers=(
            jnp.ones(3, jnp.bfloat16),
            np.arange(4, dtype=np.int64).astype(np.int32),
            (),
            {"flag": jnp.array(True)},
        ),
        keys=jax.random.split(jax.random.key(3, impl="rbg"), 4),
        empty=jnp.zeros((0, 3)),
    )
    checkpoint.save(tmp_path, 0, tree, {})
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))
    restored, _, _ = checkpoint.restore(tmp_path, like)
    assert_same(restored, jax.tree.map(jnp.asarray, tree))
    assert jax.random.key_impl(restored.keys) == "rbg"
    with pytest.raises(CheckpointMismatch, match="keys: the checkpoint has key<rbg>"):
        checkpoint.restore(tmp_path, tree._replace(keys=jax.random.split(jax.random.key(3), 4)))
    checkpoint.save(tmp_path, 1, jnp.arange(3), {})
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, jnp.zeros(3, jnp.int32))[0], [0, 1, 2])


def test_parameters_alone(saved):
    folder, states = saved
    like = {"params": jax.eval_shape(lambda: make_state(0).params)}
    tree, host, step = checkpoint.restore(folder, like, within=[("params",)])
    assert step == 20 and host["step"] == 20
    assert_same(tree["params"], states[20].params)
    both = {"aux": states[10].aux, "params": states[10].params}
    assert_same(checkpoint.restore(folder, both, 10, within=[("params",), ("aux",)])[0], both)
    with pytest.raises(CheckpointMismatch, match="actor/out"):
        less = {key: value for key, value in like["params"].items() if key != "actor"}
        checkpoint.restore(folder, {"params": less}, within=[("params",)])


def files_of_newest(folder):
    newest = folder / f"{checkpoint.steps(folder)[-1]:012d}"
    return sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())


def test_truncating_any_file_of_the_newest_falls_back_with_a_warning(saved, tmp_path_factory, caplog):
    folder, states = saved
    names = files_of_newest(folder)
    assert Path("manifest.json") in names and Path("host.json") in names and len(names) == 3
    for name in names:
        copy = tmp_path_factory.mktemp("copy") / "checkpoints"
        shutil.copytree(folder, copy)
        path = copy / f"{20:012d}" / name
        os.truncate(path, path.stat().st_size // 2)
        if path.stat().st_size == 0 and (folder / f"{20:012d}" / name).stat().st_size == 0:
            path.unlink()  # an empty file cannot get shorter
        caplog.clear()
        tree, host, step = checkpoint.restore(copy, states[10])
        assert step == 10 and host["step"] == 10
        assert_same(tree, states[10])
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert name.name in caplog.text
        assert checkpoint.restore(copy, {"params": states[10].params}, within=[("params",)])[2] == 10


@pytest.mark.parametrize("name", ["manifest.json", "host.json", "largest"])
def test_one_changed_byte_is_noticed(saved, name):
    folder, states = saved
    newest = folder / f"{20:012d}"
    if name == "largest":
        path = max((path for path in newest.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    else:
        path = newest / name
    data = bytearray(path.read_bytes())
    place = data.index(b'"step": 2') + 8 if name != "largest" else len(data) // 2
    data[place] ^= 1
    path.write_bytes(data)
    assert checkpoint.restore(folder, states[10])[2] == 10
    with pytest.raises(CheckpointDamaged, match=path.name):
        checkpoint.restore(folder, states[10], step=20)


def test_hosts_of_all_that_can_be_read(saved):
    folder, _ = saved
    assert {step: host["step"] for step, host in checkpoint.hosts(folder).items()} == {10: 10, 20: 20}
    os.truncate(folder / f"{10:012d}" / "host.json", 3)
    assert list(checkpoint.hosts(folder)) == [20]
    assert checkpoint.hosts(folder / "nowhere") == {}


def test_a_check_by_the_caller_can_refuse_one(saved):
    folder, states = saved
    check = lambda host: "its replay is damaged" if host["step"] == 20 else None  # noqa: E731
    assert checkpoint.restore(folder, states[10], check=check)[2] == 10
    with pytest.raises(CheckpointDamaged, match="replay is damaged"):
        checkpoint.restore(folder, states[10], check=lambda host: "its replay is damaged")


def test_nothing_to_restore(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointMissing, match="no checkpoint"):
            checkpoint.restore(folder, make_state())
    checkpoint.save(tmp_path, 3, make_state(), {})
    with pytest.raises(CheckpointMissing, match=r"there are steps \[3\]"):
        checkpoint.restore(tmp_path, make_state(), step=4)


def test_mismatch_names_keys_and_both_shapes(saved):
    folder, _ = saved
    with pytest.raises(CheckpointMismatch) as caught:
        checkpoint.restore(folder, make_state(deter=5))
    text = str(caught.value)
    wanted = "params/model/gru/cell/kernel: the checkpoint has float32[4, 3], this run needs float32[5, 3]"
    assert wanted in text and "optimizers/model/1/0/mu/gru/cell/kernel" in text
    assert "bias" not in text
    state = make_state()
    other = state._replace(params=state.params | {"extra": {"w": jnp.ones(2)}}, updates=jnp.float32(1))
    with pytest.raises(CheckpointMismatch, match=r"updates: the checkpoint has int32\[\], this run needs float32\[\]"):
        checkpoint.restore(folder, other)
    with pytest.raises(CheckpointMismatch, match="params/extra/w: not in the checkpoint"):
        checkpoint.restore(folder, other)


def test_keeps_as_many_as_asked_and_drops_an_abandoned_future(tmp_path):
    state = make_state()
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, state, {}, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 30]
    checkpoint.save(tmp_path, 25, state, {}, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 25]
    checkpoint.save(tmp_path, 25, make_state(5), {"again": True}, keep=1)
    assert checkpoint.steps(tmp_path) == [25]
    tree, host, _ = checkpoint.restore(tmp_path, state)
    assert host == {"again": True}
    assert_same(tree, make_state(5))
    assert [path.name for path in tmp_path.iterdir()] == ["000000000025"]


def test_killed_in_the_middle_of_saving(saved, monkeypatch):
    folder, states = saved
    for victim in ("sync", "crc32_of", "sync_folder"):
        with monkeypatch.context() as patch:

            def killed(*_):
                raise KeyboardInterrupt

            patch.setattr(checkpoint, victim, killed)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(folder, 30, make_state(3), {})
        assert checkpoint.restore(folder, states[10])[2] == 20
    checkpoint.save(folder, 30, make_state(3), {})
    assert checkpoint.steps(folder) == [20, 30]
    assert not list(folder.glob(".tmp*"))


def test_killed_between_an_old_checkpoint_and_a_new_one_of_its_step(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 5, make_state(1), {}, keep=1)
    real, renamed = Path.rename, []

    def rename(path, target):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(path)
        return real(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", rename)
        checkpoint.save(tmp_path, 5, make_state(2), {}, keep=1)
    assert checkpoint.steps(tmp_path) == [5]
    assert_same(checkpoint.restore(tmp_path, make_state())[0], make_state(1))
    checkpoint.save(tmp_path, 5, make_state(3), {}, keep=1)
    assert_same(checkpoint.restore(tmp_path, make_state())[0], make_state(3))
    assert [path.name for path in tmp_path.iterdir()] == ["000000000005"]


@pytest.mark.parametrize("kind", ["file", "dangling link", "link", "pipe"])
def test_whatever_lies_in_a_checkpoints_place_gives_way_and_nothing_else(tmp_path, kind):
    elsewhere, place = tmp_path / "elsewhere", tmp_path / "run" / "000000000002"
    checkpoint.save(tmp_path / "run", 1, {"a": jnp.ones(2)}, {})
    (tmp_path / "elsewhere").mkdir()
    (elsewhere / "kept").touch()
    {
        "file": place.touch,
        "dangling link": lambda: place.symlink_to("nowhere"),
        "link": lambda: place.symlink_to(elsewhere),
        "pipe": lambda: os.mkfifo(place),
    }[kind]()
    checkpoint.save(tmp_path / "run", 2, {"a": jnp.zeros(2)}, {})
    assert checkpoint.restore(tmp_path / "run", {"a": jnp.ones(2)})[2] == 2
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"000000000001", "000000000002"}
    assert (elsewhere / "kept").exists()


def test_host_takes_plain_values_only(tmp_path):
    checkpoint.save(tmp_path, 1, jnp.ones(1), {"big": 2**120, "bool": np.bool_(True)})
    assert checkpoint.read_host(tmp_path, 1) == {"big": 2**120, "bool": True}
    with pytest.raises(TypeError, match="put arrays in tree"):
        checkpoint.save(tmp_path, 2, jnp.ones(1), {"array": np.ones(3)})
    assert checkpoint.steps(tmp_path) == [1]


def test_a_copy_of_the_folder_restores(saved, tmp_path_factory):
    folder, states = saved
    copy = tmp_path_factory.mktemp("copy") / "moved"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    shutil.rmtree(folder)
    assert_same(checkpoint.restore(copy, states[10])[0], states[20])


def test_the_manifest_tells_versions_and_arrays(saved):
    folder, states = saved
    manifest = json.loads((folder / f"{20:012d}" / "manifest.json").read_text())
    assert {"jax", "optax", "numpy"} <= set(manifest["versions"])
    leaf = next(leaf for leaf in manifest["leaves"] if leaf["path"] == ["params", "actor", "out"])
    assert (leaf["shape"], leaf["dtype"]) == ([2, 2], "float32")
    # Whoever has no jaxdreamer reads an array so.
    data = (folder / f"{20:012d}" / "arrays.bin").read_bytes()[leaf["offset"] :]
    np.testing.assert_array_equal(np.frombuffer(data, "float32", 4).reshape(2, 2), states[20].params["actor"]["out"])
    same = json.loads((folder / f"{10:012d}" / "manifest.json").read_text())
    assert manifest["leaves"] == same["leaves"]


def test_saved_on_two_devices_restored_on_one(tmp_path):
    code = f"""
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxdreamer.record import checkpoint
assert len(jax.devices()) == 2
mesh = Mesh(jax.devices(), ("data",))
split = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, P("data")))
whole = jax.device_put(jnp.arange(3.0), NamedSharding(mesh, P()))
key = jax.device_put(jax.random.key(5), jax.devices()[1])
checkpoint.save({str(tmp_path)!r}, 1, {{"split": split, "whole": whole, "key": key}}, {{}})
"""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)
    wanted = {"split": jnp.arange(8.0), "whole": jnp.arange(3.0), "key": jax.random.key(5)}
    tree, _, _ = checkpoint.restore(tmp_path, wanted)
    assert_same(tree, wanted)
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(tree))


def test_the_room_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from jaxdreamer.record import checkpoint, metrics, plot, progress, rundir, video\n"
        "heavy = {'tensorboardX', 'wandb', 'imageio', 'matplotlib', 'PIL', 'torch', 'tensorflow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- any name, any content, any moment -----------------------------------------------------------------------------

NAMES = [
    "team[1]", "a\\b", "*", "?", "[!a]", "{a,b}", " ", " a ", "new\nline", "100%", "%s%d", "#", "a:b", "http:", "gs:",
    "$HOME", "~x", "~", "'", '"', "`ls`", ";", "&", "-x", "--help", "ä☃", "\u202eright", ":smile:", "[red]", "...",
    "x" * 255,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_that_a_file_system_allows(tmp_path, name):
    folder, tree = tmp_path / name / "checkpoints", {"w": jnp.arange(3.0), "key": jax.random.key(1)}
    checkpoint.save(folder, 5, tree, {"step": 5})
    restored, host, step = checkpoint.restore(folder, tree)
    assert_same(restored, tree)
    assert host == {"step": 5} and step == 5
    assert [path.name for path in tmp_path.iterdir()] == [name]  # and nothing went anywhere else


def test_relative_folders_and_links(tmp_path, monkeypatch):
    tree = {"w": jnp.arange(3.0)}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real[0]").mkdir()
    (tmp_path / "link*").symlink_to(tmp_path / "real[0]")
    checkpoint.save("link*/c", 1, tree, {})
    assert_same(checkpoint.restore("real[0]/c", tree)[0], tree)
    assert_same(checkpoint.restore("./link*/../real[0]/c", tree)[0], tree)


def resealed(manifest):
    """With a checksum that fits, as whoever means harm would write it."""
    manifest = {key: value for key, value in manifest.items() if key != "crc32"}
    return json.dumps(manifest | {"crc32": zlib.crc32(json.dumps(manifest, sort_keys=True).encode())})


HOSTILE = [
    None,
    -1,
    2**70,
    1e300,
    True,
    "",
    "../../etc/passwd",
    "/dev/zero",
    [],
    [1],
    {},
    {"a": 1},
    [[]],
    "\x00",
    10**20,
]


def garbled(rng, value):
    """The JSON value with something in it replaced, removed or added."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        copy = dict(value) if isinstance(value, dict) else list(value)
        place = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        if rng.random() < 0.2:
            del copy[place]
        elif isinstance(copy, dict) and rng.random() < 0.1:
            copy[rng.choice(["../x", "step", ""])] = copy.pop(place)
        else:
            copy[place] = garbled(rng, copy[place])
        return copy
    return rng.choice(HOSTILE)


def test_200_garbled_manifests_all_leave_the_older_checkpoint(saved, caplog):
    """Well-formed or not, with a checksum that fits or not: never anything but CheckpointDamaged, or the same arrays."""
    folder, states = saved
    newest = folder / f"{20:012d}"
    original, rng = (newest / "manifest.json").read_text(), random.Random(0)
    fell_back = 0
    for turn in range(200):
        if turn % 4 == 0:
            data = bytearray(original.encode())
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            text = bytes(data[: rng.randrange(len(data))] if turn % 8 else data)
        else:
            made = garbled(rng, json.loads(original))
            text = (resealed(made) if isinstance(made, dict) else json.dumps(made)).encode()
        (newest / "manifest.json").write_bytes(text)
        try:
            tree, _, step = checkpoint.restore(folder, states[20])
        except CheckpointMismatch:
            continue  # another shape or path in a manifest that is whole: a checkpoint of other networks
        fell_back += step == 10
        if step == 10:
            assert_same(tree, states[10])
        assert checkpoint.hosts(folder)[10]["step"] == 10
    assert fell_back > 120


def test_a_manifest_of_very_many_arrays_is_damaged(saved):
    folder, states = saved
    newest = folder / f"{20:012d}"
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["leaves"] += [manifest["leaves"][0]] * 70_000
    (newest / "manifest.json").write_text(resealed(manifest))
    _, _, step = checkpoint.restore(folder, states[20])
    assert step == 10


@pytest.mark.parametrize("name", ["../../secret", "/dev/zero", "state"])
def test_names_in_a_manifest_are_not_followed(saved, tmp_path, name):
    folder, states = saved
    newest = folder / f"{20:012d}"
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"].pop("arrays.bin")
    (newest / "manifest.json").write_text(resealed(manifest))
    with pytest.raises(CheckpointDamaged, match=r"has no 'arrays\.bin'"):
        checkpoint.restore(folder, states[20], step=20)


def test_reading_while_another_thread_saves_and_prunes(tmp_path, monkeypatch):
    """Every read is of one whole checkpoint, however often the one being read is deleted or replaced."""
    state, stop, problems = {"w": jnp.zeros(20_000)}, threading.Event(), []
    for waits in ("sync", "sync_folder"):  # for the disk: the writer is to be as fast as it can
        monkeypatch.setattr(checkpoint, waits, lambda *_: None)

    def write():
        step = 0
        while not stop.is_set():
            step += 1
            checkpoint.save(tmp_path, step // 2, {"w": jnp.full(20_000, float(step // 2))}, {"step": step // 2}, keep=1)

    checkpoint.save(tmp_path, 0, state, {"step": 0}, keep=2)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = set()
        for _ in range(150):
            tree, host, step = checkpoint.restore(tmp_path, state)
            problems += [step] if set(np.unique(tree["w"])) != {step} or host["step"] != step else []
            seen.add(step)
    finally:
        stop.set()
        writer.join()
    assert not problems and len(seen) > 3


def test_a_listing_that_missed_everything_is_not_believed_however_often_something_was_replaced(saved, monkeypatch):
    folder, states = saved
    listed, read_one = checkpoint.steps, checkpoint._newest_of
    looks = []

    def miss_the_ninth(path):
        looks.append(path)
        return [] if len(looks) == 9 else listed(path)

    def replaced_at_first(*arguments):
        if len(looks) < 9:
            raise checkpoint._Replaced
        return read_one(*arguments)

    monkeypatch.setattr(checkpoint, "steps", miss_the_ninth)
    monkeypatch.setattr(checkpoint, "_newest_of", replaced_at_first)
    assert checkpoint.restore(folder, states[20])[2] == 20 and len(looks) == 10


def test_a_disk_that_fills_up_is_a_sentence_and_costs_nothing(saved):
    folder, states = saved
    code = f"""
import resource
import jax.numpy as jnp
from jaxdreamer.record import checkpoint
from jaxdreamer.saving import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save({str(folder)!r}, 30, {{"w": jnp.zeros(100_000)}}, {{}})
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{folder} cannot be written" in done.stdout
    assert "larger than is allowed here. What was saved before is intact: raise the limit" in done.stdout
    assert checkpoint.steps(folder) == [10, 20] and not list(folder.glob(".tmp*"))
    assert_same(checkpoint.restore(folder, states[20])[0], states[20])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_whatever_the_system_refuses_is_a_sentence(saved, monkeypatch, number):
    folder, states = saved

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with (
        monkeypatch.context() as patch,
        pytest.raises(StorageError, match=r"cannot be written: .* What was saved before"),
    ):
        patch.setattr(checkpoint, "sync", refuse)
        checkpoint.save(folder, 30, make_state(3), {})
    assert checkpoint.restore(folder, states[20])[2] == 20 and not list(folder.glob(".tmp*"))


def test_a_save_is_read_back_before_it_counts(saved, monkeypatch):
    """A disk that keeps other bytes than it was given: the save fails, and the last checkpoint stays."""
    folder, states = saved

    def spoil(file):
        os.fsync(file.fileno())
        if file.name.endswith("arrays.bin"):
            with open(file.name, "r+b") as other:
                other.write(b"?")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"arrays\.bin was altered.*did not keep"):
        patch.setattr(checkpoint, "sync", spoil)
        checkpoint.save(folder, 30, make_state(3), {})
    assert checkpoint.restore(folder, states[20])[2] == 20 and checkpoint.steps(folder) == [10, 20]


def test_a_file_in_the_folders_place_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="there is a file where a folder is needed"):
        checkpoint.save(tmp_path / "file", 1, {"w": jnp.ones(1)}, {})
    with pytest.raises(StorageError, match="there is a file where a folder is needed"):
        checkpoint.save(tmp_path / "file" / "deeper", 1, {"w": jnp.ones(1)}, {})


def test_a_part_that_is_not_what_another_process_wrote_is_refused_and_the_checkpoint_before_stands(tmp_path):
    tree = {"a": jnp.arange(3)}
    checkpoint.save(tmp_path, 1, tree, {})
    (tmp_path / ".part-1").write_bytes(b"12")
    for size, problem in ((3, "has 2 bytes instead of 3"), (2, "was altered: its checksum is wrong")):
        with pytest.raises(FileUnusable, match=rf"\.part-1 {problem}"):
            checkpoint.save(tmp_path, 2, tree, {}, parts=[Part(".part-1", size, 7, [])])
    assert checkpoint.steps(tmp_path) == [1]
    checkpoint.save(tmp_path, 2, tree, {})
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"{step:012d}" for step in (1, 2)]
