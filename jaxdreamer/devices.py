"""The devices that jax computes on; one sentence where those that were asked for are not there."""

from __future__ import annotations

import jax

from jaxdreamer.errors import JaxdreamerError

__all__ = ["DeviceError", "devices"]


class DeviceError(JaxdreamerError, RuntimeError):
    """jax finds no device of the kind it was told to use."""


def devices() -> list[jax.Device]:
    """What jax computes on, the first by default. Raises DeviceError; asked at the start of whatever computes."""
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:  # which of the two, and with which words, depends on the platform
        asked = jax.config.values.get("jax_platforms") or ""
        reason = (str(error).splitlines() or ["jax does not say why"])[0].partition(" (set JAX_PLATFORMS")[0]
        raise DeviceError(
            f"JAX_PLATFORMS={asked}: jax cannot use that here ({reason}); unset it to compute on what there is, or "
            "install what it needs, such as pip install 'jax[cuda13]' for an NVIDIA GPU"
        ) from error
