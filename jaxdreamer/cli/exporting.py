"""The command that carries a trained agent elsewhere: export."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxdreamer.cli import words


@dataclass(frozen=True)
class ExportOptions:
    """Write a run's policy as programs that act without jaxdreamer, and a contract that names what goes in and out."""

    logdir: Path = field(metadata=words.BARE)
    """The run's folder."""
    out: Path | None = field(default=None, metadata={"short": "o"})
    """The folder to write to. Default: export, in the run's folder."""
    format: Literal["stablehlo", "onnx", "both"] = "both"
    """StableHLO is read by jax.export, on CPU, CUDA and TPU; ONNX by onnxruntime and others."""
    sample: bool = False
    """Act by samples of the policy instead of by its most likely actions."""
    best: bool = False
    """Export the best checkpoint, of a run that was trained with run.keep_best, instead of the newest."""


def export(options: ExportOptions) -> int:
    """``jaxdreamer export``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxdreamer.deploy.export import export_policy
    from jaxdreamer.files import read_json

    acts_by: Literal["sample", "greedy"] = "sample" if options.sample else "greedy"
    folder = export_policy(options.logdir, options.out, format=options.format, acts_by=acts_by, best=options.best)
    contract = read_json(folder / "contract.json")
    for file in contract["files"].values():
        print(f"{folder / file['name']}: {(folder / file['name']).stat().st_size:,} bytes, for {file['read_by']}")
    rate, why = contract["control"]["rate_hz"], contract["control"]["why"]
    print(f"rate: {'not known, ' if rate is None else f'{rate:g} Hz, '}{why}")
    for group in ("observations", "state", "noise", "actions"):
        for port in contract[group]:
            print(f"{group}: {port['name']} {port['dtype']} {port['shape']}")
    print(f"what each of them means is in {folder / 'contract.json'}")
    return 0
