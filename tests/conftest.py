"""Shared by all tests: the CPU, a compilation cache, and compiled learners made once."""

from __future__ import annotations

import builtins
import gc
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

from jaxdreamer import families

families.FAMILIES["toy"] = "tests.envs.toy"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Kept between test processes and runs: most of a test's time is compiling.
_CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"jaxdreamer-test-cache-{os.getuid()}")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Tests are tiny and compile much: without LLVM's optimisations, with XLA's older emitters, and in one part, as both cores
# have a test each, they compile in a sixth of the time. A flag that a jaxlib does not know ends the process, so all but the
# first are for the versions that they were tried with.
_FLAGS = ["--xla_backend_optimization_level=0"]
if metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()


@pytest.fixture
def without(monkeypatch):
    """``without("torch")``: from here on that library cannot be imported."""
    real = builtins.__import__

    def remove(library: str) -> None:
        def absent(name, *rest, **more):
            if name.partition(".")[0] == library:
                raise ModuleNotFoundError(f"No module named {library!r}", name=library)
            return real(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", absent)
        for name in {library, *sys.modules}:  # and for importlib.import_module
            if name.partition(".")[0] == library:
                monkeypatch.setitem(sys.modules, name, None)

    return remove


@pytest.fixture(scope="module", autouse=True)
def _compiled_functions_end_with_their_file():
    """JAX keeps all that it traced and compiled, gigabytes by the end of the suite; files share little of it."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        gc.collect()


# As little is kept, it need not be searched often: that took a twentieth of the time.
gc.set_threshold(10_000, 20, 100)


# Files are handed to the workers whole, in this order: with the longest first both end together.
_LONGEST = ("test_docs", "torchwm_compat", "train/", "deploy/", "test_unity_env")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not any(name in item.nodeid for name in _LONGEST))
