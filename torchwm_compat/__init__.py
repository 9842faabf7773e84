"""torchwm's Dreamer API on jaxdreamer: a torchwm script runs unchanged.

``from torchwm_compat import DreamerAgent, DreamerConfig``; or ``python -m torchwm_compat script.py``; or :func:`install`,
after which ``import torchwm`` leads here. Importing this package imports neither torch nor jax.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torchwm_compat.aliases import HOME, install

__version__ = "0.4.2"  # torchwm's, whose API this is

# At the top torchwm offers all but the inner workings.
_INNER = {
    "ActionRepeat",
    "FreezeParameters",
    "Logger",
    "NormalizeActions",
    "TimeLimit",
    "compute_return",
    "preprocess_obs",
}

__all__ = ["__version__", "install", *sorted(HOME.keys() - _INNER)]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: it offers torchwm's Dreamer, see dir({__name__})"
        )
    value = getattr(import_module(f"{__name__}.{HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The names there are."""
    return sorted({*globals(), *__all__})
