"""Libraries of others while an environment is made or first drawn: what is missing is named, what they warn of is logged."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from jaxdreamer.config import ConfigError, MissingExtra
from jaxdreamer.envs.base import EnvError

logger = logging.getLogger(__name__)


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
