"""Configurations from presets, words and dictionaries, and back; errors name the setting."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxdreamer import families, values
from jaxdreamer.config.environment import NO_ENV, DrawingOptions, options_of, replace_env
from jaxdreamer.config.presets import PRESETS
from jaxdreamer.config.schema import Config
from jaxdreamer.config.settings import check_limits, hints, members
from jaxdreamer.errors import ConfigError, nearest, shown


def preset(name: str = "dreamer_v1", *overrides: str, **changes: Any) -> Config:
    """The configuration of a preset, or of several joined by commas, with changes on top.

    ``preset("dreamer_v2,small", "deter_size=128")`` and ``preset("dreamer_v2", deter_size=128)`` both work; a name
    is ``group.field``, or the field alone. Only the outcome must be valid, not each change by itself.
    Raises ConfigError for an unknown preset or setting, with the nearest names.
    """
    settings: dict[str, Any] = {}
    for part in presets_of(name):
        settings |= PRESETS[part]
    settings |= parse_words(overrides)
    settings |= {resolve_name(key): value for key, value in changes.items()}
    if "preset" in settings:
        raise ConfigError(
            "preset: pass it as the first argument, as in preset('dreamer_v2,small'); all settings start from it"
        )
    return replace(Config(preset=name), settings)


def presets_of(name: Any) -> list[str]:
    """The presets that a name joins; ConfigError for an unknown one."""
    if not isinstance(name, str):
        raise ConfigError(f"preset: expected a text, found {shown(name)}")
    parts = [part.strip() for part in name.split(",")]
    for part in parts:
        if part not in PRESETS:
            raise ConfigError(f"unknown preset {shown(part)}{nearest(part, PRESETS)}; there are: {', '.join(PRESETS)}")
    return parts


def fields(config: Config | None = None) -> dict[str, Any]:
    """Every setting with its value, by dotted name; of options those of the configuration's own backend."""
    return {key: value for key, _, value in members(Config() if config is None else config)}


def resolve_name(name: str, others: Iterable[str] = ()) -> str:
    """The dotted name of a setting given with or without its group; ``env`` alone is the environment's id.

    Raises ConfigError, with the nearest names, for an unknown one; ``others`` are further names to suggest.
    """
    key = re.sub(r"(^|\.)options\.", r"\1", name.strip().replace("-", "_").lstrip("_"))
    known = _settings()  # first, as the options of all backends need every backend's record
    if key in known or _short(known).get(key):
        return _short(known).get(key, key)
    known = types()
    aliases = _short(known)
    if key in known or key in aliases:
        return aliases.get(key, key)
    hint = nearest(key, [*others, *known, *aliases])
    later = "; the options of a program's own backend are known once it is registered" if "options." in name else ""
    raise ConfigError(f"unknown setting {shown(name)}{hint}; `jaxdreamer train --help` lists them all{later}")


def _short(known: Iterable[str]) -> dict[str, str]:
    """The dotted name of each short one."""
    return {key.rpartition(".")[2]: key for key in known} | {"env": "env.id"}


def parse_words(words: Iterable[str]) -> dict[str, Any]:
    """Settings, by dotted name, of ``key=value`` words."""
    settings: dict[str, Any] = {}
    for word in words:
        key, found, text = word.partition("=") if isinstance(word, str) else ("", "", "")
        if not found:
            raise ConfigError(f"expected key=value, found {shown(word)}")
        key = resolve_name(key)
        settings[key] = values.parse(kind_of(key), key, text)
    return settings


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """A validated copy with settings changed, by dotted or bare name, converted to the type each setting has.

    Scalars and arrays of numpy, jax or torch are accepted as values, and so are paths.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        key = resolve_name(name)
        group, _, leaf = key.rpartition(".")
        groups.setdefault(group, {})[leaf] = values.convert(kind_of(key), key, value)
    top = groups.pop("", {})
    if "env" in groups:
        top["env"] = replace_env(config.env, groups.pop("env"))
    parts = {group: dataclasses.replace(getattr(config, group), **leaves) for group, leaves in groups.items()}
    return _validate(dataclasses.replace(config, **top, **parts))


@functools.cache
def _settings() -> dict[str, Any]:
    """The type of every setting that does not depend on the backend, by dotted name."""
    found: dict[str, Any] = {}
    for name, kind in hints(Config).items():
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{leaf}": hint for leaf, hint in hints(kind).items() if hint is not Any}
        else:
            found[name] = kind
    return found


def types() -> dict[str, Any]:
    """The type of every setting, by dotted name; of every backend's options, too."""
    found = dict(_settings())
    for kind in (DrawingOptions, *map(options_of, families.records())):
        found |= {f"env.{leaf}": hint for leaf, hint in hints(kind).items()}
    return found


def kind_of(key: str) -> Any:
    """The type of a setting, by its dotted name."""
    return _settings().get(key) or types()[key]


def _validate(config: Config) -> Config:
    """The same configuration, or a ConfigError that names the first invalid setting."""
    check_limits(config)
    presets_of(config.preset)
    if config.model.classes == 1:
        raise ConfigError("model.classes must be 0 (Gaussian latent) or at least 2, found 1")
    if config.replay.online and not config.replay.cross_episodes:
        raise ConfigError("replay.online gives out sequences that cross episodes: it needs replay.cross_episodes=true")
    if not config.replay.data:
        needing = {"replay.data_fraction": config.replay.data_fraction, "replay.held_out": config.replay.held_out}
        for key, value in (needing | {"run.offline": config.run.offline}).items():
            if value:
                raise ConfigError(f"{key}={value:g} needs experience to learn from: set replay.data (--data PATH)")
        if config.env.id == NO_ENV:
            raise ConfigError(f"env.id={NO_ENV} learns from data alone: set replay.data (--data PATH)")
    per_env = config.replay.capacity // config.env.num_envs
    if per_env < 2 * config.replay.batch_length:
        raise ConfigError(
            f"replay.capacity {config.replay.capacity} leaves {per_env} entries for each of {config.env.num_envs} "
            f"environments; sequences of {config.replay.batch_length} need at least {2 * config.replay.batch_length}"
        )
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values, ready for JSON or YAML; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(data: Any) -> Config:
    """Read what :func:`to_dict` wrote; a missing setting takes its preset's value, an unknown one is an error."""
    settings = settings_of(data)
    base = settings.pop("preset", "dreamer_v1")
    if not isinstance(base, str):
        raise ConfigError(f"preset: expected a name, found {shown(base)}")
    return replace(preset(base), settings)


def settings_of(data: Any, others: Iterable[str] = ()) -> dict[str, Any]:
    """The settings in nested plain values, by dotted name, as they stand; ``preset`` may be among them.

    ConfigError for an unknown one, see :func:`resolve_name`, and for one that is set twice.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"expected settings by their names, found {shown(data)}")
    found: dict[str, Any] = {}
    for key, value in data.items():
        for name, inner in _leaves(key, value):
            name = name if name == "preset" else resolve_name(name, others)
            if name in found:
                raise ConfigError(f"{name} is set twice")
            found[name] = inner
    return found


def _leaves(key: Any, value: Any, depth: int = 2) -> Iterator[tuple[str, Any]]:
    """The settings below ``key``, by dotted name; nothing is deeper than ``env.options.camera``."""
    if not isinstance(value, Mapping) or not depth:
        yield f"{key}", value
        return
    for leaf, inner in value.items():
        yield from _leaves(f"{key}.{leaf}", inner, depth - 1)


def difference(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Settings of both that differ, by dotted name: (old, new)."""
    before, after = fields(old), fields(new)
    return {key: (before[key], after[key]) for key in after if key in before and before[key] != after[key]}
