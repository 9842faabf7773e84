"""What gymnasium, old gym and whatever looks like them have in common: spaces as plain values, seeds, frames.

Another interpreter imports this file from its folder: it may be as old as Python 3.8 and lack jaxdreamer, so only the
standard library and numpy are imported here.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

LEAVES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_OTHERS = ("Text", "Sequence", "Graph", "OneOf")  # gymnasium's, which are not supported


def kind_of(space: Any) -> str:
    """``Box``, ``Discrete``, ``MultiDiscrete``, ``MultiBinary``, ``Dict``, ``Tuple`` or ``Text``; else its class's name."""
    names = [cls.__name__ for cls in type(space).__mro__]
    known = next((name for name in names if name in (*LEAVES, "Dict", "Tuple", *_OTHERS)), None)
    return known or _kind_by_structure(space) or names[0]


def _kind_by_structure(space: Any) -> str:
    if isinstance(space, Mapping):
        return "Dict"
    inner = getattr(space, "spaces", None)
    if inner is not None:
        return "Dict" if isinstance(inner, Mapping) else "Tuple"
    if _has_numbers(space, "low", "high"):
        return "Box"
    if _has_numbers(space, "nvec"):
        return "MultiDiscrete"
    if _has_numbers(space, "n"):
        many = np.ndim(space.n) > 0 or getattr(space, "shape", None)
        return "MultiBinary" if many else "Discrete"
    if hasattr(space, "_fields"):
        return "Dict"
    if isinstance(space, (tuple, list)):
        return "Tuple"
    return "Text" if getattr(getattr(space, "dtype", None), "kind", "") == "U" else ""


def _has_numbers(space: Any, *names: str) -> bool:
    """Whether these attributes are numbers: those of a named tuple may be its members, which are spaces."""
    return all(hasattr(space, name) and np.asarray(getattr(space, name)).dtype.kind in "biuf" for name in names)


def children(space: Any) -> dict[Any, Any]:
    """The members of a Dict or Tuple space by key or index, in the space's own order."""
    inner = getattr(space, "spaces", space)
    if hasattr(inner, "_fields"):
        inner = inner._asdict()
    return dict(inner.items()) if isinstance(inner, Mapping) else dict(enumerate(inner))


def describe_space(space: Any) -> dict[str, Any]:
    """``space`` as plain values for strict JSON, members in their order.

    :func:`~jaxdreamer.envs.host.spaces.restore_space` reads it back. Equal bounds are written once; an infinite one is the
    text ``"inf"`` or ``"-inf"``. A space of an unsupported kind is only named: an observation has them where ``env.exclude``
    leaves them out.
    """
    kind = kind_of(space)
    if kind == "Dict":
        return {"kind": kind, "spaces": [[name, describe_space(child)] for name, child in children(space).items()]}
    if kind == "Tuple":
        return {"kind": kind, "spaces": [describe_space(child) for child in children(space).values()]}
    if kind not in LEAVES:
        return {"kind": kind, "text": str(space)}
    if kind == "MultiBinary":
        return {"kind": kind, "n": np.asarray(space.n).tolist()}
    if kind == "Box":
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"kind": kind, "dtype": str(_box_dtype(space)), "shape": _box_shape(space), **bounds}
    dtype = str(np.dtype(getattr(space, "dtype", None) or np.int64))
    if kind == "Discrete":
        return {"kind": kind, "dtype": dtype, "n": int(space.n), "start": int(getattr(space, "start", 0))}
    start = np.broadcast_to(getattr(space, "start", 0), np.shape(space.nvec))
    return {"kind": kind, "dtype": dtype, "nvec": np.asarray(space.nvec).tolist(), "start": start.tolist()}


def _box_dtype(space: Any) -> np.dtype:
    """A Box's type; before old gym had them, Boxes held float32."""
    return np.dtype(getattr(space, "dtype", None) or np.float32)


def _box_shape(space: Any) -> list[int]:
    shape = getattr(space, "shape", None)
    sizes = np.broadcast(space.low, space.high).shape if shape is None else shape
    return [int(size) for size in sizes]


def _bound(bound: Any) -> Any:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    array = np.asarray(bound)
    equal = array.size > 0 and bool((array == array.flat[0]).all())
    return plain((array.flat[0] if equal else array).tolist())


def takes(env: Any, method: str, parameter: str) -> bool:
    """Whether ``env.method`` accepts ``parameter``; a wrapper's ``**kwargs`` is followed to what it wraps."""
    function = getattr(env, method, None)
    if function is None:
        return False
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    if parameter in parameters:
        return True
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return False
    inner = env.__dict__.get("env") if hasattr(env, "__dict__") else None
    return True if inner is None else takes(inner, method, parameter)


def has_seed(env: Any) -> bool:
    """Whether ``env.seed(number)`` works, as old gym's does; gym's wrappers hand it on to environments that take none."""
    functions = [getattr(item, "seed", None) for item in (env, getattr(env, "unwrapped", env))]
    try:
        return callable(functions[0]) and all(f is None or inspect.signature(f).bind(0) for f in functions)
    except TypeError:
        return False
    except ValueError:  # written in C, which does not say
        return True


def begin(env: Any, seed: int | None, seedable: bool) -> Any:
    """What ``reset`` returns. The seed goes to it, or to ``seed`` where ``reset`` takes none (not ``seedable``)."""
    if seedable:
        return env.reset(seed=seed)
    if seed is not None and has_seed(env):
        env.seed(seed)
    return env.reset()


def has_pairs(space: Any) -> bool:
    """Whether observations of ``space`` have two members, as what ``reset`` returns may have."""
    return kind_of(space) == "Tuple" and len(children(space)) == 2


def first_observation(result: Any, pairs: bool) -> Any:
    """The observation in what ``reset`` returned, it alone or with an info. ``pairs``: see :func:`has_pairs`."""
    has_info = isinstance(result, tuple) and len(result) == 2 and (result[1] is None or isinstance(result[1], Mapping))
    if has_info and pairs and not isinstance(result[0], (tuple, list)):
        has_info = False  # the pair is the observation itself
    return result[0] if has_info else result


def draws_arrays(env: Any) -> bool:
    """Whether the instance was made to give frames as arrays."""
    if hasattr(env, "render_mode"):
        return env.render_mode in ("rgb_array", "rgb_array_list")
    return takes(env, "render", "mode")


def frame_of(env: Any) -> Any:
    """The present frame as the instance draws it; None where it draws none."""
    # Frames are arrays here, never windows, and silent: else SDL looks for a display and a sound card, and complains where
    # there is none.
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    frame = env.render() if hasattr(env, "render_mode") else env.render(mode="rgb_array")
    if isinstance(frame, list):  # rgb_array_list: the frames since the last call
        return frame[-1] if frame else None
    return frame
