"""Third-party libraries: which versions work together, errors that name a missing one, their warnings as log records."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from jaxdreamer.config import ConfigError, MissingExtra
from jaxdreamer.envs.base import EnvError

logger = logging.getLogger(__name__)


# dm-control binds to exactly one mujoco release, and gymnasium-robotics breaks on the newest; found by trying.
WORKS = (
    "mujoco 3.10.* with dm-control 1.0.43 and gymnasium-robotics 1.4.2 (what the extras install), "
    "or mujoco 3.11.* with dm-control 1.0.44, or mujoco 3.8.1 with dm-control 1.0.41"
)
FAMILY = ("mujoco", "dm-control", "gymnasium", "gymnasium-robotics")


def installed(*names: str) -> dict[str, str]:
    """Versions by distribution name; empty where one is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of libraries that do not fit together become EnvError with the versions found and those that work."""
    try:
        yield
    except (AttributeError, AssertionError, ImportError, RuntimeError, TypeError) as error:
        if isinstance(error, MissingExtra | EnvError):
            raise
        found = ", ".join(f"{name} {number or 'missing'}" for name, number in installed(*FAMILY).items())
        raise EnvError(
            f"{what} failed inside its library: {type(error).__name__}: {error}\n"
            f"installed are {found}; known to work together are {WORKS}"
        ) from error


def import_family(module: str, extra: str) -> ModuleType:
    """A module of the MuJoCo family; MissingExtra where it is not installed, EnvError where versions do not fit."""
    with explained(f"importing {module}"):
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("mujoco", "dm_control", "gymnasium_robotics"):
                raise
            why = f"env.backend={extra} needs a library that is not installed: {error}"
            raise MissingExtra(f"jaxdreamer[{extra}]", why) from error


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Warnings that libraries raise while an environment is made become log records."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for item in caught:
        logger.info("%s", item.message)


@contextmanager
def missing_extras(name: str) -> Iterator[None]:
    """A missing dependency becomes MissingExtra with the pip line that helps."""
    try:
        yield
    except MissingExtra:
        raise
    except Exception as error:
        missing = type(error).__name__ == "DependencyNotInstalled" or isinstance(error, ImportError)
        if not missing:
            raise
        text = str(error)
        if "only supported on" in text:  # another version of a library is missing, not the library
            base = name.rpartition("-v")[0]
            newest = f"{base}-v{max(registered_versions(base))}"
            raise ConfigError(f"env.id: {name} is not available: {text}; use {newest}") from error
        if "mujoco" in text.lower():
            requirement = "jaxdreamer[mujoco]"
        elif "pygame" in text.lower():
            requirement = "jaxdreamer[classic]"
        elif "opencv" in text.lower():
            requirement = "jaxdreamer[atari]"
        else:
            named = re.search(r"pip install ['\"]?(gymnasium\[[\w-]+\]|[\w-]+)['\"]?[`.]*$", text)
            if not named:
                raise EnvError(f"{name} needs something that cannot be imported: {text}") from error
            requirement = named.group(1)
        raise MissingExtra(requirement, f"{name} needs a library that is not installed: {text}") from error


def registered_versions(base: str) -> list[int]:
    """The numbers N of the ids ``base-vN`` that gymnasium knows."""
    import gymnasium

    found = (re.fullmatch(re.escape(base) + r"-v(\d+)", name) for name in gymnasium.registry)
    return [int(match.group(1)) for match in found if match]
