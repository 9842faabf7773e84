"""The one reader of a run's files: ordinary files of a bounded size, or a sentence; never a wait."""

import os
import shutil
import subprocess
import time

import pytest

from jaxdreamer.errors import shown
from jaxdreamer.files import (
    MOST,
    FileMissing,
    FileUnusable,
    open_file,
    read_bytes,
    read_json,
    read_text,
    safe_name,
    shell_word,
    unique_name,
)


def test_plain_values_are_read_and_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, {"b": "\xc3\xa4"}]}')
    assert read_json(path) == {"a": [1, {"b": "ä"}]} and read_text(path).startswith("{")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", r"config\.json is not valid JSON"),
        (b"", r"is not valid JSON"),
        (b'{"a": 1, "a": 2}', r"it has 'a' twice"),
        (b"\xff\xfe{}", r"is not UTF-8 text \(byte 0 is invalid start byte\)"),
        (b"[" * 200_000 + b"]" * 200_000, r"is nested too deeply"),
        (b"[" * 100 + b"]" * 100, r"is nested too deeply"),
        (b'{"a": ' * 70 + b"1" + b"}" * 70, r"is nested too deeply"),
        (b'{"a": "\\ud800"}', r"an incomplete character"),
        (b'{"\\udc00": 1}', r"an incomplete character"),
        (b"1" * 5000, r"is not valid JSON"),
    ],
)
def test_what_no_run_writes_is_refused_by_the_files_name(tmp_path, content, told):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(FileUnusable, match=told) as raised:
        read_json(path)
    assert str(path) in str(raised.value) and len(str(raised.value)) < 500 + len(str(path))


def test_devices_pipes_folders_and_odd_names_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    told = {
        "pipe": "is a pipe",
        "zero": "is a device",
        "loop": "cannot be read",
        "folder": "is a folder",
        "a\0b": "null",
    }
    start = time.monotonic()
    for name, text in told.items():
        with pytest.raises(FileUnusable, match=text):
            read_bytes(tmp_path / name)
    with pytest.raises(FileMissing, match=r"nothing is missing: restore it"):
        open_file(tmp_path / "nothing")
    assert time.monotonic() - start < 5


def test_a_file_may_not_be_larger_than_it_ever_should_be(tmp_path):
    path = tmp_path / "spec.json"
    path.write_bytes(b"1234")
    assert read_bytes(path, 4) == b"1234"
    with pytest.raises(FileUnusable, match=r"spec\.json has more than 3 bytes"):
        read_bytes(path, 3)
    with open(path, "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(FileUnusable, match=f"more than {MOST:,} bytes"):
        read_json(path)


def test_a_value_is_shown_briefly_however_large_it_is():
    bomb = "x"
    for _ in range(40):
        bomb = [bomb] * 10  # as YAML's anchors make it: 10^40 entries of one list
    for value in ("y" * 10**6, 10**6000, list(range(10**5)), {str(i): bomb for i in range(100)}, b"z" * 10**6):
        assert len(shown(value)) <= 203
    assert shown({"a": [1, "b"]}) == "{'a': [1, 'b']}" and shown(None) == "None"


def test_names_made_of_data_stay_in_their_folder_and_apart(tmp_path):
    texts = [
        "image",
        "Image",
        "IMAGE",
        "../../x",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/b",
        "a-b",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * 300,
        "x" * 301,
        "\U00020000" * 300,
        "\ud800",
        "ä",
        "Ä",
        unique_name("a/b"),
        ".hidden",
        "C:x",
        "a b",
        "robot0:eye in hand",
    ]
    names = [unique_name(text) for text in texts]
    assert len({name.lower() for name in names}) == len(texts) and names[0] == "image"
    for name in [*names, *map(safe_name, texts)]:
        assert name and (tmp_path / name).resolve().parent == tmp_path.resolve()
        (tmp_path / name).write_text("")
    assert [safe_name(text) for text in ("Pendulum-v1", "ALE/Pong-v5")] == ["Pendulum-v1", "ALE-Pong-v5"]


@pytest.mark.parametrize("name", [b"plain", b"it's two", b"bad\xff\xc3", b"new\nline'\\7", "\u200bé\u00a0".encode()])
def test_a_path_is_a_word_that_a_shell_reads_as_it_was(name):
    word = shell_word(os.fsdecode(name))
    assert word.isprintable()
    bash = shutil.which("bash") or pytest.skip("no bash")
    assert subprocess.run([bash, "-c", f"printf %s {word}"], capture_output=True).stdout == name
