"""What a stored run would import or execute that is not ours: it is named first, and done only where that is allowed.

A run's ``config.json`` may name modules and programs. Who types such a name knows what it is; who was sent the folder does
not.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from jaxdreamer import families
from jaxdreamer.config import ConfigError, EnvConfig, with_metadata

__all__ = ["Untrusted", "foreign", "refuse_untrusted", "trust_word"]


class Untrusted(ConfigError):
    """A stored run names a program that is neither jaxdreamer's nor an installed backend's; nothing of it was run."""


def foreign(config: EnvConfig) -> dict[str, str]:
    """By setting: what making this environment would run that is neither ours nor an installed backend's."""
    record, found = families.find(config.backend), {}
    if record and record.runs and (does := record.runs(config.id)):
        found["env.id"] = does
    for name, does in with_metadata(config, "runs").items():
        if value := getattr(config.options, name):
            found[f"env.{name}"] = f"{does} {value!r}"
    return found


def trust_word(config: EnvConfig) -> str:
    """What a command that reads this configuration from a run needs at its end: `` --trust``, or nothing."""
    return " --trust" if foreign(config) else ""


def refuse_untrusted(config: EnvConfig, source: str | os.PathLike[str], own: Collection[str] = ()) -> None:
    """Untrusted where the configuration read from ``source`` would run a program that the user does not know.

    ``own`` are the settings, by dotted name, that the user gave himself.
    """
    wanted = {name: does for name, does in foreign(config).items() if name not in own}
    if wanted:
        does = ", ".join(f"{does} ({name})" for name, does in wanted.items())
        raise Untrusted(
            f"{os.fspath(source)} would {does}, which is not part of jaxdreamer. Nothing was run. If you trust whoever "
            "made it, allow it with --trust, or trust=True in Python"
        )
