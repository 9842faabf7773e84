"""Arrays of the kind that was given: numpy, JAX or torch. torch is imported only where it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdreamer import MissingExtra


def require_torch(why: str) -> Any:
    """The torch package; MissingExtra, which says what to install, where it is not there."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("jaxdreamer[torch]", f"{why} needs PyTorch") from error
    return torch


def has_torch() -> bool:
    """Whether torch can be imported; imports nothing."""
    from importlib.util import find_spec

    return find_spec("torch") is not None


def is_tensor(x: Any) -> bool:
    """Whether ``x`` is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def to_numpy(x: Any) -> np.ndarray:
    """Any array as a numpy one; a tensor is detached and brought to the CPU."""
    return x.detach().cpu().numpy() if is_tensor(x) else np.asarray(x)


def to_float(x: Any) -> np.ndarray:
    """The same as float32."""
    return to_numpy(x).astype(np.float32, copy=False)


def as_jax(x: Any) -> jax.Array:
    """The same as a float32 JAX array."""
    return jnp.asarray(to_float(x))


def answer_like(*inputs: Any) -> Callable[[Any], Any]:
    """Converts results, and dictionaries of them, to the kind of the inputs: torch, else JAX, if any is; else numpy."""
    flat = [item for x in inputs for item in (x.values() if isinstance(x, dict) else (x,))]
    tensor = next((item for item in flat if is_tensor(item)), None)
    if tensor is not None:
        import torch

        return _over_dicts(lambda x: torch.as_tensor(np.array(x), device=tensor.device))
    if any(isinstance(item, jax.Array) for item in flat):
        return _over_dicts(lambda x: x)
    return _over_dicts(np.array)


def tensors_or_arrays(arrays: dict[str, np.ndarray], device: Any = "cpu") -> dict[str, Any]:
    """Tensors on a torch device, where torch is installed, as torchwm gives them; the arrays themselves elsewhere."""
    if not has_torch():
        return arrays
    import torch

    return {name: torch.as_tensor(np.array(array), device=torch.device(device)) for name, array in arrays.items()}


def _over_dicts(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: {key: convert(value) for key, value in x.items()} if isinstance(x, dict) else convert(x)
