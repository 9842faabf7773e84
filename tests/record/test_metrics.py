import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdreamer.config import ConfigError, MissingExtra
from jaxdreamer.errors import import_extra
from jaxdreamer.files import FileUnusable
from jaxdreamer.record import sinks
from jaxdreamer.record.metrics import MetricsLog, read, without_time
from jaxdreamer.record.rundir import RunDir
from jaxdreamer.record.sinks import make_sinks
from jaxdreamer.record.video import save_video
from jaxdreamer.saving import StorageError

AT = {"agent_steps": 5, "env_frames": 10, "updates": 2}


def test_a_line_a_record_in_stable_order(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path, clock=lambda: 1.5) as log:
        log.write({"loss/model": jnp.float32(0.5), "time/fps": 3, "actor": np.float64(2)}, **AT)
        log.write({"actor": 1, "loss/model": 2.0, "time/fps": 4}, agent_steps=np.int64(6), env_frames=12, updates=3)
    keys = ["agent_steps", "env_frames", "updates", "actor", "loss/model", "time/fps", "time/unix"]
    lines = path.read_text().splitlines()
    assert [list(json.loads(line)) for line in lines] == [keys, keys]
    assert read(path)[0] == AT | {"actor": 2.0, "loss/model": 0.5, "time/fps": 3, "time/unix": 1.5}
    assert without_time(read(path)[0]) == AT | {"actor": 2.0, "loss/model": 0.5}


def test_what_is_not_finite_is_null_in_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"a": float("nan"), "b": jnp.float32(jnp.inf), "c": np.float32(-np.inf), "d": None, "e": True}, **AT)

    def refuse(name):
        raise AssertionError(name)

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert [record[key] for key in "abcde"] == [None, None, None, None, 1]


def test_wrong_values_are_told(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        with pytest.raises(ValueError, match=r"loss: a metric is one number, found shape \(3,\)"):
            log.write({"loss": np.ones(3)}, **AT)
        with pytest.raises(ValueError, match="env_frames"):
            log.write({"env_frames": 3}, **AT)
        assert read(tmp_path / "m.jsonl") == []


def test_cut_at_a_checkpoints_offset_and_go_on(tmp_path):
    def run(log, numbers):
        for number in numbers:
            log.write({"loss": number / 3}, agent_steps=number, env_frames=2 * number, updates=number)

    straight, path = tmp_path / "straight.jsonl", tmp_path / "m.jsonl"
    with MetricsLog(straight) as log:
        run(log, range(10))
    with MetricsLog(path) as log:
        run(log, range(4))
        offset = log.offset
        run(log, range(4, 7))
    with open(path, "a") as file:
        file.write('{"agent_steps": 7, "env_fr')  # killed while writing
    assert len(read(path)) == 7
    with MetricsLog(path) as log:
        assert len(path.read_text().splitlines()) == 7
        log.truncate(offset)
        assert log.offset == offset
        run(log, range(4, 10))
    assert [without_time(r) for r in read(path)] == [without_time(r) for r in read(straight)]


def test_a_new_log_goes_on_after_the_old(tmp_path):
    path = tmp_path / "m.jsonl"
    for _ in range(2):
        with MetricsLog(path) as log:
            log.write({}, **AT)
    assert len(read(path)) == 2


@pytest.mark.parametrize("damage", ["deleted", "emptied", "halved", "edited"])
def test_a_log_that_is_not_the_checkpoints_keeps_what_it_has_and_says_so(tmp_path, damage):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        for number in range(10):
            log.write({"loss": number}, agent_steps=number, env_frames=number, updates=number)
            if number == 5:
                offset = log.offset
    data = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes({"emptied": b"", "halved": data[: offset // 2 + 5], "edited": b"oops\n" + data}[damage])
    with MetricsLog(path) as log:
        told = log.truncate(offset, env_frames=5)
        log.write({}, agent_steps=6, env_frames=6, updates=6)
    left = {"deleted": [], "emptied": [], "halved": [0, 1, 2], "edited": [0, 1, 2, 3, 4, 5]}[damage]
    assert f"continues after the {len(left)} remaining records" in told and str(path) in told
    assert [record["env_frames"] for record in read(path)] == [*left, 6]


def test_a_log_removed_while_it_is_written_goes_on_in_a_new_file(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    with MetricsLog(path) as log:
        log.write({}, **AT)
        path.unlink()
        log.write({}, **AT)
        assert log.offset == path.stat().st_size > 0
    assert len(read(path)) == 1 and "was removed during the run" in caplog.text


def test_a_full_disk_is_a_sentence_and_leaves_no_half_line(tmp_path):
    """A limit on the size of files is a disk that fills up in the midst of a line."""
    code = f"""
import resource, signal
from jaxdreamer.record import sinks
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.saving import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))
with MetricsLog({str(tmp_path / "m.jsonl")!r}) as log:
    try:
        for number in range(9):
            log.write({{"loss": number}}, agent_steps=number, env_frames=number, updates=number)
    except StorageError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written: the file is larger than is allowed here. What was saved before is intact" in done.stdout
    assert (tmp_path / "m.jsonl").read_bytes().endswith(b"\n") and 1 <= len(read(tmp_path / "m.jsonl")) < 9


def test_a_folder_in_the_logs_place_is_a_sentence(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(
        StorageError, match=r"metrics\.jsonl cannot be written: there is a folder where a file is needed"
    ):
        MetricsLog(tmp_path / "metrics.jsonl")


def test_damaged_lines_are_left_out_and_counted(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    bad = [b'{"a": ', b"", b"[1]", b"null", b'{"a": "x"}', b'{"a": NaN}', b'{"a": [1]}', b'{"a": true}', b"\xff\xfe"]
    bad += [
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1' + b"0" * 200 + b"}",
        b"[" * 10**5,
        b"x" * 3 * 2**20,
    ]
    path.write_bytes(b"\n".join([b'{"a": 1}', *bad, b'{"a": 2, "b": null}']) + b'\n{"a": 3}')
    assert read(path) == [{"a": 1}, {"a": 2, "b": None}]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: {len(bad)} damaged lines are skipped, the first is line 2"
    ]


@pytest.mark.parametrize("content", [b"garbage\n", b"\0" * 100 + b"\n", b"[]\n" * 7])
def test_a_file_without_any_record_is_told(tmp_path, content):
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileUnusable, match=rf"m\.jsonl: none of its {content.count(10)} lines is a record of metrics"):
        read(path)


def test_what_is_no_file_is_neither_read_nor_written_to(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    for name, told in (("link", "is a link"), ("zero", "is a link"), ("pipe", "is not a regular file")):
        with pytest.raises(FileUnusable, match=told):
            MetricsLog(tmp_path / name)
    for name, told in (("zero", "is a device"), ("pipe", "is a pipe")):
        with pytest.raises(FileUnusable, match=told):
            read(tmp_path / name)
    run = RunDir(tmp_path / "run").create()
    (run.path / "lock").symlink_to(mine)
    with pytest.raises(FileUnusable, match="lock is a link"):
        run.acquire()
    assert mine.read_text() == "precious"


def test_an_incomplete_line_of_any_length_is_removed(tmp_path):
    path = tmp_path / "m.jsonl"
    for whole, rest in ((b"", b"x" * 200_000), (b'{"a": 1}\n', b"y" * 200_000), (b'{"a": 1}\n', b""), (b"", b"")):
        path.write_bytes(whole + rest)
        MetricsLog(path).close()
        assert path.read_bytes() == whole


class Failing:
    name = "failing"

    def __init__(self):
        self.calls = 0

    def write(self, record, step):
        self.calls += 1
        if self.calls == 2:
            raise OSError("no route to host")

    image = close = lambda self, *_: None


def test_a_failing_sink_warns_once_and_training_goes_on(tmp_path, caplog):
    sink = Failing()
    with caplog.at_level(logging.WARNING), MetricsLog(tmp_path / "m.jsonl", [sink]) as log:
        for _ in range(5):
            log.write({"a": 1}, **AT)
    assert sink.calls == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "failing" in caplog.text and "no route to host" in caplog.text
    assert len(read(tmp_path / "m.jsonl")) == 5


def a_film(path):
    return save_video(path, np.random.default_rng(0).integers(0, 255, (3, 8, 10, 3), dtype=np.uint8))


def test_tensorboard_writes_readable_event_files(tmp_path):
    film = a_film(tmp_path / "film.gif")
    with MetricsLog(tmp_path / "m.jsonl", make_sinks(["tensorboard"], tmp_path)) as log:
        log.settings({"env.id": "a|b\nc", "model.classes": 0, "run.stop_at_return": None})
        log.write({"loss": 0.25, "bad": float("nan")}, **AT)
        log.image("openloop", np.zeros((4, 6, 3), np.uint8), env_frames=10)
        log.film("eval/film", film, env_frames=10)
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 - the format read below

    [path] = (tmp_path / "tensorboard").iterdir()
    data, found, images, texts = path.read_bytes(), {}, {}, {}
    while data:
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            if value.HasField("image"):
                image = value.image
                images[value.tag] = (event.step, image.height, image.width, image.encoded_image_string)
            elif value.HasField("tensor"):
                texts[value.tag] = value.tensor.string_val[0].decode()
            else:
                found[value.tag] = (value.simple_value, event.step)
    assert found["loss"] == (0.25, 10) and found["updates"] == (2, 10) and "bad" not in found
    assert images["openloop"][:3] == (10, 4, 6)
    assert images["eval/film"] == (10, 8, 10, film.read_bytes())  # it moves: the GIF itself
    assert list(texts) == ["settings/text_summary"]
    assert texts["settings/text_summary"].splitlines()[2:] == [
        r"| env.id | a\|b c |", "| model.classes | 0 |", "| run.stop_at_return |  |"
    ]  # fmt: skip


def test_a_missing_extra_names_the_pip_line(tmp_path, monkeypatch):
    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(MissingExtra, match=rf"pip install 'jaxdreamer\[{name}\]'"):
            make_sinks([name], tmp_path)
    with pytest.raises(ConfigError, match="tensorboard, wandb"):
        make_sinks(["comet"], tmp_path)


def test_a_folder_of_a_librarys_name_is_not_the_library(tmp_path, monkeypatch):
    (tmp_path / "no_such_extra" / "run-1").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingExtra, match=r"no_such_extra is a folder without a module\)\npip install 'jaxdreamer\[a\]'"
    ):
        import_extra("no_such_extra", "a", "this")


class Wandb:
    """What is used of the library."""

    Error = RuntimeError

    def __init__(self):
        self.asked, self.logged, self.settings = [], [], {}

    def init(self, **options):
        self.asked.append(options)
        return Run(self)

    class Image:
        def __init__(self, array):
            self.shape = array.shape

    class Video:
        def __init__(self, path, format):
            self.bytes, self.format = Path(path).read_bytes(), format


class Run:
    id = "abc"

    def __init__(self, wandb):
        self.wandb, self.config = wandb, self

    def update(self, settings, allow_val_change):
        assert allow_val_change  # a resumed run may have a larger budget
        self.wandb.settings.update(settings)

    def log(self, values, step):
        self.wandb.logged.append((values, step))

    def finish(self):
        self.wandb.logged.append("finished")


def test_wandb_gets_finite_values_and_continues_its_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    folder = tmp_path / "ant" / "seed-1"
    folder.mkdir(parents=True)
    for resume_frames in (None, 10, None):
        with MetricsLog(folder / "m.jsonl", [sinks.Wandb(folder, resume_frames)], clock=lambda: 1.0) as log:
            log.write({"loss": 1, "bad": float("nan")}, **AT)
    # One that begins anew in the folder is another run there, too.
    assert [(asked["name"], asked["id"]) for asked in wandb.asked] == [
        ("ant-seed-1", None), ("ant-seed-1", "abc"), ("ant-seed-1", None)
    ]  # fmt: skip
    first = wandb.asked[0]
    assert first["reinit"] == "create_new"  # or a second seed's would end the first's
    assert (first["project"], first["group"]) == ("jaxdreamer", "ant")
    assert wandb.logged == [(AT | {"loss": 1, "time/unix": 1.0}, 10), "finished"] * 3
    monkeypatch.setenv("WANDB_PROJECT", "thesis")
    sinks.Wandb(tmp_path)
    assert wandb.asked[-1]["project"] == "thesis" and "group" not in wandb.asked[-1]


def test_wandb_gets_settings_pictures_and_films(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb := Wandb())
    film = a_film(tmp_path / "film.gif")
    with MetricsLog(tmp_path / "m.jsonl", [sinks.Wandb(tmp_path)]) as log:
        log.settings({"run.frames": 5, "env.id": "ant"})
        log.settings({"run.frames": 9})
        log.image("open_loop/image", np.zeros((4, 6, 3), np.uint8), env_frames=7)
        log.film("eval/film", film, env_frames=8)
    assert wandb.settings == {"run.frames": 9, "env.id": "ant"}
    (picture, at), (moving, later), _ = wandb.logged
    assert picture["open_loop/image"].shape == (4, 6, 3) and at == 7
    assert (moving["eval/film"].bytes, moving["eval/film"].format, later) == (film.read_bytes(), "gif", 8)


def test_a_sink_that_takes_no_films_and_settings_is_not_handed_any(tmp_path, caplog):
    sink = Failing()
    with MetricsLog(tmp_path / "m.jsonl", [sink]) as log:
        log.settings({"a": 1})
        log.film("eval/film", tmp_path / "film.gif", env_frames=8)
        log.write({"a": 1}, **AT)
    assert sink.calls == 1 and not caplog.records


@pytest.mark.parametrize("why", ["No API key configured", "deadline exceeded\nno such host"])
def test_wandb_without_a_login_or_a_network_is_a_sentence(why, tmp_path, monkeypatch):
    class Wandb:
        Error = type("UsageError", (Exception,), {})

        def init(self, **options):
            raise self.Error(why)

    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    with pytest.raises(ConfigError, match=rf"{why.splitlines()[0]}.*WANDB_MODE=offline.*leave --wandb out"):
        sinks.Wandb(tmp_path)
