"""``model.precision=auto``: float32 or bfloat16, by what was measured on devices and processors like this one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from jaxdreamer import config as configs
from jaxdreamer.config import Config
from jaxdreamer.types import EnvSpec

__all__ = ["Choice", "choose", "processor_flags", "settle_precision"]

# What Linux calls the instructions that multiply bfloat16: Intel's tiles, and Intel's and AMD's vectors.
_MULTIPLY = ("amx_bf16", "avx512_bf16")

# Measured with these instructions: V1's update from images in 0.83 to 0.9 of float32's time, a small one from state vectors
# in 1.16. Narrower convolutions and V3's pooled ones were not measured.
_LEAST_DEPTH = 32


class Choice(NamedTuple):
    """What ``auto`` stands for, and why."""

    precision: Literal["float32", "bfloat16"]
    why: str


def choose(config: Config, spec: EnvSpec, device: Any = None, flags: frozenset[str] | None = None) -> Choice:
    """What ``auto`` means for a configuration on these observations. It depends on nothing that is timed.

    Args:
        config: of the run.
        spec: of its environments.
        device: that computes; jax's default one.
        flags: of the processor, as :func:`processor_flags` gives them.
    """
    device = jax.devices()[0] if device is None else device
    if device.platform == "cpu":
        return _on_cpu(config, spec, processor_flags() if flags is None else flags)
    if device.platform == "tpu":
        return Choice("bfloat16", "TPUs multiply it")
    # CUDA's compute capability, as in 9.0; AMD's is a name, as in gfx942, of which nothing was measured.
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        return Choice("float32", f"whether {device.device_kind} multiplies bfloat16 is not known")
    if int(major) < 8:
        return Choice(
            "float32", f"{device.device_kind} has no products of bfloat16, which compute capability 8.0 brought"
        )
    return Choice("bfloat16", f"{device.device_kind} multiplies it")


def _on_cpu(config: Config, spec: EnvSpec, flags: frozenset[str]) -> Choice:
    found = [name for name in _MULTIPLY if name in flags]
    if not found:
        return Choice("float32", "nothing says that this processor multiplies bfloat16")
    sees_images = any(item.kind == "image" for item in spec.obs.values())
    if not sees_images or config.model.cnn != "strided" or config.model.cnn_depth < _LEAST_DEPTH:
        return Choice(
            "float32", "on a CPU bfloat16 was measured to be faster only for strided convolutions as wide as V1's"
        )
    return Choice("bfloat16", f"this processor multiplies it ({', '.join(found)})")


def processor_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's features by the names of Linux; none where the system does not tell them so."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def settle_precision(each: Sequence[Config], spec: EnvSpec) -> tuple[list[Config], str]:
    """The seeds' configurations with ``auto`` settled for this machine, and why it is what it is."""
    if each[0].model.precision != "auto":
        return list(each), "with which the run began"
    choice = choose(each[0], spec)
    return [configs.replace(one, {"model.precision": choice.precision}) for one in each], choice.why
