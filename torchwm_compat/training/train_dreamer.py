"""torchwm's ``training.train_dreamer``, and its command line: ``torchwm train dreamer``.

``python -m torchwm_compat train dreamer [--config FILE] [--print-config] [--FIELD VALUE] [FIELD=VALUE ...]``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from jaxdreamer import ConfigError
from torchwm_compat.agent.dreamer import DreamerAgent
from torchwm_compat.config.fields import ALIASES, KNOWN
from torchwm_compat.config.mapping import BACKENDS
from torchwm_compat.config.settings import DreamerConfig, override

USAGE = (
    "usage: python -m torchwm_compat train dreamer [--config FILE] [--print-config] [--FIELD VALUE] [FIELD=VALUE ...]\n\n"
    "Fields are DreamerConfig's. --env may be BACKEND/TASK, as in dmc/walker-walk; --device is cpu, or cuda."
)


def train_dreamer(config: DreamerConfig | None = None, **kwargs: Any) -> DreamerAgent:
    """Train an agent, which is returned; keywords override fields of ``config``. ValueError for one that is no field."""
    agent = DreamerAgent(override(DreamerConfig() if config is None else config, kwargs))
    agent.train()
    return agent


def main(arguments: Sequence[str] | None = None) -> DreamerConfig | None:
    """The words behind ``torchwm train dreamer``; returns the configuration, None where help was asked for.

    Raises:
        ConfigError: a word that means nothing, with the nearest field.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return None
    file, fields, only_print = _read(words)
    config = override(DreamerConfig() if file is None else DreamerConfig.from_yaml(file), fields)
    if only_print:
        print(config.to_yaml(), end="")
        return config
    train_dreamer(config)
    return config


def _read(words: list[str]) -> tuple[str | None, dict[str, Any], bool]:
    """The file, the fields and whether to print only."""
    file, fields, only_print = None, dict[str, Any](), False
    while words:
        word = words.pop(0)
        if word == "--print-config":
            only_print = True
            continue
        name, found, text = word.partition("=")
        if word.startswith("--"):
            if not found:
                if not words:
                    raise ConfigError(f"{name} needs a value\n{USAGE}")
                text = words.pop(0)
            name = name[2:].replace("-", "_")
            if name == "config":
                file = text
            elif name == "device":
                fields["no_gpu"] = _without_gpu(text)
            elif name == "env" and text.partition("/")[0].lower() in BACKENDS and "/" in text:
                fields["env_backend"], _, fields["env"] = text.partition("/")
            else:
                fields[_known(name, word)] = _value(text)
        elif found:
            fields[_known(name, word)] = _value(text)
        else:
            raise ConfigError(f"unexpected word {word!r}: fields are written FIELD=VALUE\n{USAGE}")
    return file, fields, only_print


def _known(name: str, word: str) -> str:
    if name not in KNOWN and name not in ALIASES:
        near = get_close_matches(name, [*KNOWN, *ALIASES, "config", "device", "print_config"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{word!r}: DreamerConfig has no field {name!r}{hint}")
    return name


def _value(text: str) -> Any:
    """As torchwm reads it: YAML, so that lists, truths and numbers are such."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _without_gpu(device: str) -> bool:
    """What ``--device`` says; ConfigError for a GPU that is not there."""
    kind = device.partition(":")[0].lower()
    if kind not in ("cpu", "cuda", "gpu"):
        raise ConfigError(f"--device: expected cpu or cuda, found {device!r}")
    if kind != "cpu":
        import jax

        if jax.default_backend() == "cpu":
            raise ConfigError(
                f"--device {device}: jax finds no GPU here; `jaxdreamer doctor` says what to install, or leave it out"
            )
    return kind == "cpu"


if __name__ == "__main__":
    main()
