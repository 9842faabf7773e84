"""``python -m torchwm_compat SCRIPT [ARGS]`` or ``-m MODULE [ARGS]``: run a torchwm program on jaxdreamer, unchanged."""

from __future__ import annotations

import os
import runpy
import sys

from torchwm_compat.aliases import install

USAGE = "usage: python -m torchwm_compat SCRIPT [ARGS]\n       python -m torchwm_compat -m MODULE [ARGS]"


def main(arguments: list[str]) -> int:
    """Run the program as Python would, with torchwm's imports leading here; 2 where none is named."""
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        print(USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    install()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    script = arguments[0]
    if not os.path.exists(script):
        print(f"torchwm_compat: there is no script {script!r}\n{USAGE}", file=sys.stderr)
        return 2
    sys.argv = list(arguments)
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    runpy.run_path(script, run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
