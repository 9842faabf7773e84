"""Functions and modules that settings name by text."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from jaxdreamer.config import ConfigError, nearest


def imported(setting: str, text: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; ConfigError, naming the setting, where there is none."""
    name, found, attribute = text.partition(":")
    if not found or not name or not attribute:
        raise ConfigError(f"{setting}: expected module:function, found {text!r}")
    module = imported_module(setting, name)
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = nearest(attribute, known)
        where = getattr(module, "__file__", None) or "a module without a file"
        raise ConfigError(f"{setting}: {text!r} cannot be imported: {where} has no {attribute!r}{hint}")
    function = getattr(module, attribute)
    if not callable(function):
        raise ConfigError(f"{setting}: {text!r} is not a function but {type(function).__name__}")
    return function


def imported_module(setting: str, name: str) -> ModuleType:
    """The module of that name; ConfigError, naming the setting, where it cannot be imported, whatever it raises."""
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        if name.endswith(".py") or os.sep in name:
            there = os.path.normpath(name).removesuffix(".py")
            as_imported = os.path.basename(there) if os.path.isabs(name) else there.replace(os.sep, ".")
            raise ConfigError(
                f"{setting}: expected the name of a module, found {name!r}, which is a file's: give {as_imported!r}, and "
                "start from the folder that it is imported from"
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            here = {os.getcwd(), ""} & set(sys.path)
            beside = f"; {os.getcwd()} is {'' if here else 'not '}on Python's path: start from the folder that holds it"
            raise ConfigError(f"{setting}: there is no module {name!r}: {error}{beside}") from error
        raised = traceback.extract_tb(error.__traceback__)[-1]
        where = (
            "" if isinstance(error, SyntaxError) else f" ({raised.filename}, line {raised.lineno})"
        )  # it says itself
        text = f"{type(error).__name__}: {error}{where}"
        raise ConfigError(f"{setting}: the module {name!r} cannot be imported: {text}") from error
