"""torchwm's Dreamer API on jaxdreamer: a torchwm script runs unchanged.

``from torchwm_compat import DreamerAgent, DreamerConfig``; or ``python -m torchwm_compat script.py``; or :func:`install`,
after which ``import torchwm`` leads here. Importing this package imports neither torch nor jax.

The package ships in jaxdreamer's wheel because it is a thin layer over jaxdreamer's public names and is tested against
exactly that version. ``__version__`` is the torchwm release whose API and file formats it follows, since scripts written
for torchwm ask for it; the version of the code is ``jaxdreamer.__version__``.
"""

from __future__ import annotations

from torchwm_compat.aliases import HOME, install
from torchwm_compat.aliases import public as __getattr__  # noqa: F401

__version__ = "0.4.2"

__all__ = ["__version__", "install", *sorted(HOME)]


def __dir__() -> list[str]:
    """The public names, whether imported yet or not."""
    return sorted({*globals(), *__all__})
