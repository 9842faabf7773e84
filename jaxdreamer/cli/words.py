"""The words of a command line: options of the command and settings of the configuration, in any order and spelling.

A command's options are a frozen dataclass, as the settings are: a field is an option, its text below is the help, its type
says what it takes (its metadata may hold ``takes``, the word that stands for the value in the help, and ``short``, a
letter). ``--flag value``, ``--flag=value``, ``key=value`` and ``group.key=value`` mean the same, with dashes or
underscores. A flag takes the next word, even one that begins with a dash, unless that is a flag of this command.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from jaxdreamer import config as configs
from jaxdreamer import families, values
from jaxdreamer.config import Config
from jaxdreamer.errors import ConfigError, nearest, shown

__all__ = ["BARE", "Read", "help_text", "read"]

_ASSIGNED = re.compile(r"\s*([A-Za-z][\w.-]*)\s*=(.*)", re.S)


BARE = {"bare": True}
"""Metadata of the field that takes the words without a flag."""


class Read(NamedTuple):
    """What a command line says."""

    options: dict[str, Any]  # those that were given, by the name of the field
    settings: dict[str, Any]  # by dotted name, converted one by one; configs.replace checks whether they fit together
    help: bool

    def fill(self, command: str, options: type) -> Any:
        """The command's options, with defaults for those not given; ConfigError for a missing one that has none."""
        for item in dataclasses.fields(options):
            if item.default is dataclasses.MISSING and item.name not in self.options:
                text = documentation(options)[item.name]
                raise ConfigError(
                    f"{command} needs {item.name.upper()}: {text[0].lower()}{text[1:]} See `jaxdreamer {command} --help`."
                )
        return options(**self.options)


def read(words: Sequence[str], command: str, options: type, settings: bool = False) -> Read:
    """The words after ``jaxdreamer COMMAND``. With ``settings`` those of the configuration are taken, too.

    Raises ConfigError, with the nearest names, for a word that means nothing.
    """
    return _Reader(words, command, options, settings).read()


class _Target(NamedTuple):
    """What a word sets: an option of the command, or a setting of the configuration."""

    name: str
    is_setting: bool
    kind: Any


class _Reader:
    def __init__(self, words: Sequence[str], command: str, options: type, settings: bool) -> None:
        self.pending, self.command, self.settings = list(words), command, settings
        self.kinds = get_type_hints(options)
        fields = dataclasses.fields(options)
        self.bare = next((item.name for item in fields if item.metadata.get("bare")), "")
        self.flags = [item.name for item in fields]
        self.short = {f"-{item.metadata['short']}": item.name for item in fields if "short" in item.metadata}
        self.see = f"see `jaxdreamer {command} --help`"

    def read(self) -> Read:
        said = Read({}, {}, help=False)
        loose: list[str] = []
        while self.pending:
            word = self.pending.pop(0)
            if word in ("-h", "--help"):
                return said._replace(help=True)
            if word == "--":  # no flags follow; settings may still be written as words
                loose, self.pending = ([*loose, *self.pending], []) if self.bare else (loose, self.pending)
                continue
            if word.startswith("-") and len(word) > 1:
                flag, has_value, text = word.partition("=")
                target = self._named(flag)
                value = self._parse(target, text) if has_value else self._value(target, flag)
            elif found := self._assigned(word):
                target, text = found
                value = self._parse(target, text)
            else:
                loose.append(word)
                continue
            if not target.is_setting and get_origin(target.kind) is tuple:  # once more adds to it
                value = (*said.options.get(target.name, ()), *value)
            (said.settings if target.is_setting else said.options)[target.name] = value
        if loose and self.bare in said.options:
            raise ConfigError(
                f"{self.command}: --{self.bare} is given, and so is {', '.join(map(shown, loose))} without a flag"
            )
        if loose:
            said.options[self.bare] = self._bare(loose)
        return said

    def _target(self, name: str) -> _Target:
        """What a name, with underscores, means. ConfigError for a setting that there is not."""
        if name in self.flags:
            return _Target(name, False, self.kinds[name])
        key = configs.resolve_name(name, self.flags)
        return _Target(key, True, configs.kind_of(key))

    def _named(self, flag: str) -> _Target:
        if flag in self.short:
            return self._target(self.short[flag])
        name = flag.lstrip("-").replace("-", "_")
        if flag.startswith("--") and (self.settings or name in self.flags):
            return self._target(name)
        if not self.settings and _is_setting(flag):
            raise ConfigError(f"{self.command} takes no settings, found {flag}; {self.see}")
        known = [f"--{key.replace('_', '-')}" for key in (*self.flags, *(configs.types() if self.settings else ()))]
        raise ConfigError(f"unknown flag {shown(flag)}{nearest(f'--{name}'.replace('_', '-'), known)}; {self.see}")

    def _assigned(self, word: str) -> tuple[_Target, str] | None:
        """Target and text of a word ``key=value``; None for another word."""
        match = _ASSIGNED.fullmatch(word)
        name = match[1].replace("-", "_") if match else ""
        return (self._target(name), match[2]) if match and (self.settings or name in self.flags) else None

    def _parse(self, target: _Target, text: str, spelled: str = "") -> Any:
        """The value that a text writes. That of a setting may be empty, that of an option may not."""
        spelled = target.name if target.is_setting else spelled or f"--{target.name.replace('_', '-')}"
        if not target.is_setting and not text.strip():
            raise ConfigError(f"{spelled} needs a value: {values.describe(target.kind)}")
        return values.parse(target.kind, spelled, text)

    def _value(self, target: _Target, flag: str) -> Any:
        """The value of a flag without ``=``: the next word, or for several values the words up to the next flag."""
        kind, spelled = target.kind, target.name if target.is_setting else flag
        if kind is bool:
            following = self.pending[0].lower() if self.pending and not self.bare else ""
            return values.parse(bool, spelled, self.pending.pop(0)) if following in values.TRUTH else True
        if not self.pending:
            raise ConfigError(f"{flag} needs a value: {values.describe(kind)}")
        first = self.pending.pop(0)
        several = get_origin(kind) is tuple
        if self._is_flag(first if several else first.partition("=")[0]):
            raise ConfigError(
                f"{flag} needs a value, found the flag {first}; write {flag}={first} if that is what you mean"
            )
        if not several:
            return self._parse(target, first)
        words = [first]
        while self.pending and not self._begins_anew(self.pending[0]):
            words.append(self.pending.pop(0))
        if get_args(kind)[0] in (int, float):
            return values.parse(kind, spelled, " ".join(words))
        if len(words) == 1 and get_args(kind)[0] is str:
            return values.parse(kind, spelled, first)
        return values.convert(kind, spelled, words)  # each is an item as it stands, commas and all

    def _is_flag(self, word: str) -> bool:
        if word in ("-h", "--help", *self.short):
            return True
        try:
            return word.startswith("--") and bool(self._named(word))
        except ConfigError:
            return False

    def _begins_anew(self, word: str) -> bool:
        return word.startswith("--") or word == "-h" or _ASSIGNED.fullmatch(word) is not None

    def _bare(self, loose: list[str]) -> Any:
        if not self.bare:
            written = "settings are written key=value or --key value, as in --env Pendulum-v1"
            hint = written if self.settings else "it takes flags only"
            raise ConfigError(f"{self.command}: unexpected word {shown(loose[0])}; {hint}, {self.see}")
        target, name = self._target(self.bare), self.bare.upper()
        if get_origin(target.kind) is tuple:
            return tuple(values.parse(get_args(target.kind)[0], name, word) for word in loose)
        if len(loose) > 1:
            settings = [word for word in loose if _ASSIGNED.fullmatch(word) and _is_setting(word)]
            hint = f"; it takes no settings such as {settings[0]}" if settings else ""
            raise ConfigError(
                f"{self.command} takes one {name}, found {len(loose)}: {', '.join(map(shown, loose))}{hint}"
            )
        return self._parse(target, loose[0], name)


def _is_setting(word: str) -> bool:
    """Whether a flag, or a word ``key=value``, names a setting."""
    try:
        return bool(configs.resolve_name(word.partition("=")[0].lstrip("-")))
    except ConfigError:
        return False


@functools.cache
def documentation(kind: type) -> dict[str, str]:
    """What the texts below a dataclass's fields say, by field; those of the classes that it extends, too."""
    found: dict[str, str] = {}
    for base in kind.__mro__[1:]:
        found |= documentation(base) if dataclasses.is_dataclass(base) else {}
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    for item, text in itertools.pairwise(body):
        if isinstance(item, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(item.target)] = " ".join(str(text.value.value).split())
    return found


def help_text(command: str, options: type, base: Config | None = None) -> str:
    """What a command takes: its options and, with ``base``, every setting with its default there."""
    width = min(shutil.get_terminal_size().columns, 120)
    fields = dataclasses.fields(options)
    loose = next((item for item in fields if item.metadata.get("bare")), None)
    words = ""
    if loose is not None:
        words = loose.name.upper() + (" ..." if get_origin(get_type_hints(options)[loose.name]) is tuple else "")
        words = f" {words}" if loose.default is dataclasses.MISSING else f" [{words}]"
    lines = [f"usage: jaxdreamer {command}{words} [options]" + (" [settings]" if base else ""), ""]
    lines += [textwrap.fill(part, width) for part in inspect.cleandoc(options.__doc__ or "").split("\n\n")] + [""]
    lines += _listed(options, {item.name: item.default for item in fields}, "", width)
    if base is not None:
        lines += ["", *_settings(base, width)]
    return "\n".join(lines)


def _settings(base: Config, width: int) -> list[str]:
    said = (
        "Settings, with the preset's defaults. Each is a flag (--env.image-size 64 64) or a word (image_size=64x64), "
        f"with or without its group; --env and --obs are short for --env.id and --env.obs. Preset: {base.preset}."
    )
    lines = [textwrap.fill(said, width)]
    groups = {item.name: getattr(base, item.name) for item in dataclasses.fields(base)}
    alone = {name: value for name, value in groups.items() if not dataclasses.is_dataclass(value) and name != "preset"}
    lines += ["", *_listed(Config, alone, "", width)]
    for name, group in groups.items():
        if dataclasses.is_dataclass(group):
            defaults = {
                item.name: getattr(group, item.name) for item in dataclasses.fields(group) if item.name != "options"
            }
            lines += ["", f"{name}: {type(group).__doc__}", *_listed(type(group), defaults, f"{name}.", width)]
        if name == "env":
            lines += _options(width)
    return lines


def _options(width: int) -> list[str]:
    """The options of environments, each where the class that defines it names the backends that have it."""
    backends: dict[type, list[str]] = {}
    for name in families.records():
        for kind in configs.options_of(name).__mro__:
            backends.setdefault(kind, []).append(name)
    lines = []
    for kind, names in backends.items():
        defined = vars(kind).get("__annotations__", {})
        if issubclass(kind, configs.Options) and defined:
            own = {item.name: item.default for item in dataclasses.fields(kind) if item.name in defined}
            lines += ["", f"env, of {', '.join(names)}: {kind.__doc__}", *_listed(kind, own, "env.", width)]
    return lines


def _listed(kind: type, defaults: Mapping[str, Any], prefix: str, width: int) -> list[str]:
    """A line or two for each field."""
    hints, texts, lines = get_type_hints(kind), documentation(kind), []
    about = {item.name: item.metadata for item in dataclasses.fields(kind)}
    for name, default in defaults.items():
        bare = about[name].get("bare")
        short = f"-{about[name]['short']}, " if "short" in about[name] else ""
        flag = name.upper() if bare else f"{short}--{prefix}{name.replace('_', '-')}"
        text = texts[name]
        if prefix or (default not in (dataclasses.MISSING, None, ()) and default is not False):
            text += f" (default: {_written(default)})"
        takes = "" if bare or (hints[name] is bool and not prefix) else about[name].get("takes", _takes(hints[name]))
        lines.append(f"  {flag} {takes}".rstrip())
        lines.append(textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return lines


def _takes(kind: Any) -> str:
    """What stands behind a flag."""
    inner, _ = values.optional(kind)
    if get_origin(inner) is Literal:
        return "{" + ",".join(get_args(inner)) + "}"
    if get_origin(inner) is tuple:
        items = get_args(inner)
        return f"{_takes(items[0])} ..." if items[-1] is Ellipsis else " ".join(_takes(item) for item in items)
    return {str: "TEXT", bool: "{true,false}", Path: "PATH"}.get(inner, inner.__name__.upper())


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "none"
    return "none" if value is None else str(value) or "''"
