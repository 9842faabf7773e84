"""The command ``completion``: a script by which a shell completes commands, flags and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxdreamer import config as configs

_SCRIPT = """_jaxdreamer() {{
  local known="" at="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  if [ "$COMP_CWORD" -eq 1 ]; then known="{commands}"
  elif [ "$before" = "--preset" ]; then known="{presets}"
  else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=( $(compgen -W "$known" -- "$at") )
}}
complete -o default -F _jaxdreamer jaxdreamer"""


@dataclass(frozen=True)
class CompletionOptions:
    """Print a script by which bash, or zsh after bashcompinit, completes the words of this command line.

    In ~/.bashrc: eval "$(jaxdreamer completion)"
    """


def script(commands: Mapping[str, Any]) -> str:
    """The script for commands by name: of each its options, and the settings where it takes some."""
    settings = _flags(configs.types())
    cases = []
    for name, command in commands.items():
        own = _flags(item.name for item in dataclasses.fields(command.options) if not item.metadata.get("bare"))
        words = [*own, *(settings if command.settings else ())]
        cases.append(f'      {name}) known="{" ".join(words)}" ;;')
    return _SCRIPT.format(commands=" ".join(commands), presets=" ".join(configs.PRESETS), cases="\n".join(cases))


def _flags(names: Iterable[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names]
