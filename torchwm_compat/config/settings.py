"""torchwm's configuration object, in dictionaries and YAML and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torchwm_compat.config.fields import ALIASES, DEFAULTS, EXTRAS, KNOWN, Fields
from torchwm_compat.config.values import NAMESPACES, fitted, writable


class DreamerConfig(Fields):
    """Mutable settings: set as attributes, or by keyword. Values become plain ones of the field's type where they can:
    numpy's numbers, paths, ``"1e6"``.

    ``embed_size`` is another name of ``obs_embed_size``. Beyond torchwm there are ``obs`` ("pixels", "state" or "both"),
    ``num_categories``, ``actor_gradient``, ``update_order`` and ``unity_python``. Setting any other attribute raises
    AttributeError with the nearest name: torchwm takes it silently, and trains with something else.
    """

    obs: str
    num_categories: int
    actor_gradient: str
    update_order: str
    unity_python: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        extras = {name: kwargs.pop(name) for name in [*EXTRAS, *ALIASES] if name in kwargs}
        super().__init__(*args, **kwargs)
        for name, value in {**EXTRAS, **extras}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        name = ALIASES.get(name, name)
        if name not in KNOWN:
            near = get_close_matches(name, [*KNOWN, *ALIASES], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"DreamerConfig has no field {name!r}{hint}")
        if name != "env_instance":
            value = fitted(value, KNOWN[name])
        super().__setattr__(name, value)

    @property
    def embed_size(self) -> int:
        """The same as ``obs_embed_size``."""
        return self.obs_embed_size

    def __eq__(self, other: object) -> bool:
        """Equal settings; ``env_instance`` must be the same object."""
        if not isinstance(other, DreamerConfig):
            return NotImplemented
        return self.to_dict() == other.to_dict() and self.env_instance is other.env_instance

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, tuples as lists. A live ``env_instance`` is left out: it is no setting.

        Raises:
            ConfigError: a value that is no number, text, list or dictionary.
        """
        changed = [name for name, default in EXTRAS.items() if getattr(self, name) != default]
        names = [*DEFAULTS, *changed]
        return {name: None if name == "env_instance" else writable(name, getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DreamerConfig:
        """Read what :meth:`to_dict` wrote; fields left out have their defaults.

        Raises:
            ValueError: a key that is no field.
        """
        return override(cls(), data, "Invalid DreamerConfig field")

    def to_yaml(self, path: Any = None) -> str:
        """The settings as YAML text; also written to ``path`` where one is given, whose folder is made."""
        import yaml

        text = yaml.safe_dump(self.to_dict(), sort_keys=True)
        if path is not None:
            file = Path(path).expanduser()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return text

    def save_yaml(self, path: Any) -> None:
        """Write the settings to ``path`` as YAML."""
        self.to_yaml(path)

    @classmethod
    def from_yaml(cls, source: Any) -> DreamerConfig:
        """Read a YAML file, or YAML text.

        Raises:
            FileNotFoundError: ``source`` is the name of a file that does not exist. ValueError: it holds no settings, or
            a key that is no field.
        """
        import yaml

        data = yaml.safe_load(read_source(source)) or {}
        if not isinstance(data, dict):
            raise ValueError(f"expected YAML settings, NAME: VALUE on each line, found {type(data).__name__}")
        return cls.from_dict(data)


def override(
    args: DreamerConfig, values: Mapping[str, Any], complaint: str = "Invalid DreamerConfig override"
) -> DreamerConfig:
    """Set fields on the very object; ValueError, ``complaint: NAME``, for a name that is no field."""
    for name, value in values.items():
        if ALIASES.get(name, name) not in KNOWN:
            raise ValueError(f"{complaint}: {name}")
        setattr(args, name, value)
    return args


def read_source(source: Any) -> str:
    """The text of a file, given by its path; or ``source`` itself where it is several lines or reads ``key: value``."""
    if isinstance(source, str) and ("\n" in source or ": " in source):
        return source
    return Path(source).expanduser().read_text(encoding="utf-8")


def as_config(config: Any = None) -> DreamerConfig:
    """A DreamerConfig of what an agent may be given: one (the very object), a mapping or namespace, YAML text or a path."""
    if config is None:
        return DreamerConfig()
    if isinstance(config, DreamerConfig):
        return config
    if isinstance(config, Mapping):
        return DreamerConfig.from_dict(config)
    if isinstance(config, NAMESPACES):
        return DreamerConfig.from_dict(vars(config))
    if isinstance(config, str | os.PathLike):
        return DreamerConfig.from_yaml(config)
    raise TypeError(
        f"config: expected a DreamerConfig, a dictionary or namespace, a YAML path or text, found {type(config).__name__}"
    )
