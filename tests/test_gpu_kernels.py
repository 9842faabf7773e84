"""How many kernels an update launches on a GPU: the counting, and a ceiling where a compiler for GPUs is at hand."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu_kernels.py"
PROGRAM = """HloModule jit_update

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  %wrapped_add = s32[] fusion(%number), kind=kLoop, calls=%add
  %gemm = (f32[4]{0}, s8[64]{0}) custom-call(%number), custom_call_target="__cublas$gemm"
  ROOT %tuple = (s32[], f32[4]) tuple(%wrapped_add, %number)
}

%less (state: (s32[], f32[4])) -> pred[] {
  %state.1 = (s32[], f32[4]) parameter(0)
  ROOT %compare = pred[] fusion(%state.1), kind=kLoop, calls=%lt
}

%short (x: f32[4]) -> f32[4] {
  ROOT %copy = f32[4]{0} copy(%x)
}

%long (x.1: f32[4]) -> f32[4] {
  %copy.1 = f32[4]{0} copy(%x.1)
  ROOT %copy.2 = f32[4]{0} copy(%copy.1)
}

ENTRY %main (x.2: f32[4]) -> f32[4] {
  %x.2 = f32[4]{0} parameter(0)
  %bitcast = f32[2,2]{1,0} bitcast(%x.2)
  %while = (s32[], f32[4]) while(%x.2), condition=%less, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %chosen = f32[4]{0} conditional(%x.2, %x.2, %x.2), branch_computations={%short, %long}
  ROOT %sum = f32[4]{0} fusion(%chosen), kind=kInput, calls=%reduce
}
"""


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_loops_count_as_often_as_they_run_and_branches_by_the_longest(script):
    loops = []
    computations, entry = script.read(PROGRAM)
    assert entry == "main" and set(computations) == {"body", "less", "short", "long", "main"}
    assert script.launched(computations, entry, loops) == 5 * (2 + 1) + 2 + 1
    assert loops == [{"steps": 5, "each": 3, "what": ""}]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="no compiler for GPUs is installed")
@pytest.mark.parametrize(("preset", "most"), [("dreamer_v1", 2300), ("dreamer_v2", 2800)])
def test_an_update_stays_below_its_ceiling(preset, most, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
    words = [sys.executable, SCRIPT, "--presets", preset]
    subprocess.run(words, env=env | {"BENCHMARK_RESULTS": str(tmp_path)}, check=True, capture_output=True, timeout=580)
    assert json.loads((tmp_path / "gpu_kernels.json").read_text())["found"][preset]["kernels"] <= most
