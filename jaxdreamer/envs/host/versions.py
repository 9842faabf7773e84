"""Which versions of the MuJoCo family are installed, and which are known to work together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from jaxdreamer.config import MissingExtra
from jaxdreamer.envs.base import EnvError

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
