"""Configurations as files: JSON, or YAML, which is written too."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxdreamer import values
from jaxdreamer.config.parse import from_dict, kind_of, presets_of, settings_of, to_dict
from jaxdreamer.config.schema import Config
from jaxdreamer.errors import ConfigError
from jaxdreamer.files import FileUnusable, at_home, read_json, read_text

_MOST = 2**20  # bytes of a configuration; a whole one has a few thousand
# PyYAML writes YAML 1.1, where 1e-3 is a text; JSON and YAML 1.2 have a number there.
_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load(path: str | Path) -> Config:
    """Read a JSON or YAML file. ConfigError, naming the file, where it is not a valid configuration."""
    path = Path(path)
    try:
        return from_dict(_read(path))
    except FileUnusable as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}: fix it, or choose another folder") from error


def read_settings(path: str | Path, options: Collection[str] = ()) -> dict[str, Any]:
    """What a JSON or YAML file sets, by dotted name and each of its own type; ``preset`` may be among it.

    Names are those of ``config.json``, or any that a command line takes. ``options`` are names that mean something there and
    nothing in a file. ConfigError, naming the file, for an unknown name, with the nearest, and for a value of another type.
    """
    path = at_home(path)
    try:
        data = _read(path)
        if isinstance(data, dict) and (wrong := [key for key in data if key in options and key != "preset"]):
            raise ConfigError(f"{wrong[0]} is no setting of a run: write it on the command line, as --{wrong[0]}")
        found = settings_of(data, options)
        presets_of(found.get("preset", "dreamer_v1"))
        return {
            key: value if key == "preset" else values.convert(kind_of(key), key, value) for key, value in found.items()
        }
    except FileUnusable as error:
        raise ConfigError(str(error)) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def to_yaml(config: Config) -> str:
    """Every setting as YAML text, which :func:`load` and :func:`read_settings` read."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes lists in one line, and quotes what :func:`_read` would take for a number."""

    Dumper.add_implicit_resolver(*_FLOAT)
    Dumper.add_representer(
        list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
    )
    return yaml.dump(to_dict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**20)


def _read(path: Path) -> Any:
    return _read_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else read_json(path, _MOST)


def _read_yaml(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Takes 1e-3 for a number, and refuses a name that is there twice, as JSON's reader does."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise yaml.constructor.ConstructorError(None, None, f"it has {twice!r} twice", node.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(*_FLOAT)
    text = read_text(path, _MOST)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 30th of February
        raise FileUnusable(f"{path} is not valid YAML ({error}): fix it, or choose another file") from error
