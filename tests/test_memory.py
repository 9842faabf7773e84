"""How much memory there is, and the refusal of what would not fit."""

import os
import platform
import subprocess
import sys

import psutil
import pytest

from jaxdreamer import config as configs
from jaxdreamer import memory
from jaxdreamer.cli import training
from jaxdreamer.memory import TooLarge, refuse_beyond_memory


def test_a_cgroup_limit_counts(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("5:memory:/docker/abc\n0::/job\n")
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "memory.max").write_text("1000\n")
    (tmp_path / "job" / "memory.current").write_text("700\n")
    (tmp_path / "job" / "memory.stat").write_text("anon 5\ninactive_file 50\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    assert sorted(memory.cgroup_room(str(tmp_path), str(own))) == [350, 4000]
    assert memory.cgroup_room(str(tmp_path / "nothing"), str(tmp_path / "none")) == []
    assert 0 < memory.available_memory() <= psutil.virtual_memory().total


def test_what_does_not_fit_is_refused_with_its_bytes():
    refuse_beyond_memory("a bit", 1, "use less")
    with pytest.raises(
        TooLarge, match=r"a lot would take 1000 TB \(1,000,000,000,000,000 bytes\).*available: use less"
    ):
        refuse_beyond_memory("a lot", 10**15, "use less")


FAULTS = """
import ctypes, resource, sys
from jaxdreamer.memory import keep_freed_memory

assert keep_freed_memory() == (sys.argv[1] == "keep")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for turn in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("preset, one", [("dreamer_v1", True), ("dreamer_v2", True), ("dreamer_v3", True),
                                         ("classic", False), ("dreamer_v1,tiny", False)])  # fmt: skip
def test_only_large_updates_share_one_arena(preset, one, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "use_one_arena", lambda: asked.append(True))
    training.suit_memory(configs.preset(preset))
    assert bool(asked) is one


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what it sets is glibc's")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept_unless_the_user_has_said_how(kept):
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    env = theirs if kept else theirs | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, "keep" if kept else "leave"], env=env, check=True, capture_output=True, text=True
    )
    pages = 2**26 // os.sysconf("SC_PAGESIZE")
    assert (int(done.stdout) < pages / 100) is kept
