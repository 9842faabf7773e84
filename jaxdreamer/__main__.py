"""``python -m jaxdreamer``, and the program ``jaxdreamer``."""

import sys

from jaxdreamer.cli import main
from jaxdreamer.memory import keep_freed_memory


def run() -> None:
    """The command line, in a process of its own."""
    keep_freed_memory()
    sys.exit(main())


if __name__ == "__main__":
    run()
