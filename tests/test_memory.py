"""How much memory there is, and the refusal of what would not fit."""

import psutil
import pytest

from jaxdreamer import memory
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
