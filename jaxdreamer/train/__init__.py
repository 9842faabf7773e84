"""The loops, and the function :func:`jaxdreamer.train.run.train` under the package's own name.

``jaxdreamer.train(config, logdir)`` and ``import jaxdreamer.train.run`` are both meant to work, but Python sets the
attribute ``train`` of ``jaxdreamer`` to this package as soon as anything of it is imported. So the package is callable.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdreamer.config import Config
    from jaxdreamer.train.run import Result


class _CallablePackage(ModuleType):
    def __call__(self, config: Config, logdir: str | os.PathLike[str], **options: Any) -> Result:
        """See :func:`jaxdreamer.train.run.train`."""
        from jaxdreamer.train.run import train

        return train(config, logdir, **options)


sys.modules[__name__].__class__ = _CallablePackage
