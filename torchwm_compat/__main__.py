"""``python -m torchwm_compat SCRIPT [ARGS]`` or ``-m MODULE [ARGS]``: run a torchwm program on jaxdreamer, unchanged.

``python -m torchwm_compat train dreamer ...`` is torchwm's own command ``torchwm train dreamer ...``.
"""

from __future__ import annotations

import os
import runpy
import sys

from torchwm_compat.aliases import install

USAGE = (
    "usage: python -m torchwm_compat SCRIPT [ARGS]\n       python -m torchwm_compat -m MODULE [ARGS]\n"
    "       python -m torchwm_compat train dreamer [--FIELD VALUE] [FIELD=VALUE ...]"
)
_TRAINS = ("torchwm.training.train_dreamer", "world_models.training.train_dreamer")


def main(arguments: list[str]) -> int:
    """Run the program as Python would, with torchwm's imports leading here; 2 where none is named."""
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        print(USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    install()
    if arguments[0] == "train" and not os.path.isfile("train"):
        return _train(arguments[1:])
    if arguments[0] == "-m" and arguments[1] in _TRAINS:
        return _train(["dreamer", *arguments[2:]])
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


def _train(words: list[str]) -> int:
    """torchwm's ``train MODEL ...``: the status, 2 after a sentence about what cannot be."""
    from jaxdreamer import ConfigError

    try:
        if words[:1] != ["dreamer"]:
            found = f"found {words[0]!r}" if words else "found none"
            raise ConfigError(f"train: expected the model dreamer, which is what is offered here, {found}\n{USAGE}")
        from torchwm_compat.training.train_dreamer import main as train

        train(words[1:])
    except (ConfigError, FileNotFoundError, ValueError) as error:
        print(f"torchwm_compat: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
