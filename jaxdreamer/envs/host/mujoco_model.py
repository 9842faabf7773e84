"""MuJoCo models of the user: recognising them, loading them, and errors that explain why one cannot be loaded."""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxdreamer.config import ConfigError, nearest
from jaxdreamer.envs.host import libraries
from jaxdreamer.envs.host.gymnasium_env import is_model
from jaxdreamer.files import at_home

_MJB_ID = 54321


def model_source(text: str) -> dict[str, Any] | None:
    """``{"xml_string" | "xml_path" | "binary_path": ...}`` of a model; None for the id of a Gymnasium task."""
    if not is_model(text):
        return None
    if text.lstrip().startswith("<"):
        return {"xml_string": text}
    return {"binary_path" if text.lower().endswith(".mjb") else "xml_path": Path(text)}


def load_model(
    *,
    xml_path: str | os.PathLike[str] | None = None,
    xml_string: str | None = None,
    binary_path: str | os.PathLike[str] | None = None,
    assets: Mapping[str, bytes] | None = None,
) -> Any:
    """A mujoco.MjModel from exactly one source; XML is MJCF or URDF.

    Files that a file names are looked up beside it, those that a string names in ``assets`` and then in the working
    directory. ConfigError for what cannot be loaded; for an MJB with the versions that wrote and that read it.
    """
    if (xml_path is not None) + (xml_string is not None) + (binary_path is not None) != 1:
        raise ConfigError("give exactly one of xml_path, xml_string and binary_path")
    mujoco = libraries.import_family("mujoco", "mujoco")
    source = xml_path if binary_path is None else binary_path
    path = Path() if source is None else at_home(source)
    if source is not None:
        _check_file(path)
    with warnings_caught() as warned:
        try:
            if binary_path is not None:
                _check_mjb(path, mujoco.__version__)
                return mujoco.MjModel.from_binary_path(str(path))
            if xml_string is not None:
                return mujoco.MjModel.from_xml_string(xml_string, dict(assets or {}))
            return mujoco.MjModel.from_xml_path(str(path), dict(assets or {}))
        except ConfigError:
            raise
        except Exception as error:
            said = "; ".join(" ".join(text.split()) for text in [str(error), *warned])
            if binary_path is not None:
                raise _bad_mjb(path, mujoco.__version__, said) from error
            root = root_of(path, xml_string)
            text = "the URDF string" if root == "robot" else "the MJCF string"
            name = text if xml_string is not None else str(path)
            raise ConfigError(
                f"env.id: MuJoCo {mujoco.__version__} cannot load {name}: {said}{_hint(root, said)}"
            ) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ConfigError(f"env.id: {str(path)!r} is a folder, no model's file")
    if not path.is_file():
        raise ConfigError(
            f"env.id: there is no model file {str(path)!r} (from {Path.cwd()}); where the model of a run has moved, set "
            "env.id in the run's config.json"
        )


def root_of(path: Path, xml_string: str | None) -> str | None:
    """The name of the first element of a model's XML: ``mujoco``, ``robot``, or whatever else; None where there is none."""
    text = path.read_text(encoding="utf-8", errors="replace") if xml_string is None else xml_string
    bare = re.sub(r"<!--.*?-->|<\?.*?\?>|<![^>]*>", "", text, flags=re.DOTALL)
    found = re.search(r"<\s*([^\s/>]+)", bare)
    return found[1] if found else None


def _hint(root: str | None, said: str) -> str:
    if "package://" in said:
        return (
            ". MuJoCo knows no ROS packages: write mesh paths relative to the URDF, or put the meshes into a folder meshes "
            'beside it and <mujoco><compiler strippath="true" meshdir="meshes"/></mujoco> inside its <robot>'
        )
    if root not in ("mujoco", "robot"):
        found = "it holds no XML element" if root is None else f"its first element is <{root}>"
        return f". A model's XML begins with <mujoco> (MJCF) or <robot> (URDF); {found}"
    return ""


def check_actuators(model: Any, source: Mapping[str, Any]) -> None:
    """ConfigError for a URDF, which can have none, with an MJCF that gives it some."""
    path = at_home(source.get("xml_path", "robot.urdf"))
    if model.nu or "binary_path" in source or root_of(path, source.get("xml_string")) != "robot":
        return
    bodies = [model.body(index).name for index in range(1, model.nbody) if model.body_parentid[index] == 0]
    joints = [model.joint(index).name for index in range(model.njnt) if model.jnt_type[index] >= 2]  # slides and hinges
    attached = "".join(f'<attach model="robot" body="{body}" prefix=""/>' for body in bodies)
    motors = "".join(f'<motor joint="{joint}" ctrlrange="-1 1"/>' for joint in joints)
    raise ConfigError(
        "env.id: a URDF has no actuators, so there is nothing to decide. Write an MJCF file beside it that adds them, and "
        f'give that instead: <mujoco><asset><model name="robot" file="{path.name}"/></asset>'
        f"<worldbody>{attached}</worldbody><actuator>{motors}</actuator></mujoco>"
    )


def keyframe_names(model: Any) -> list[str]:
    """A model's keyframes, each by its name in quotes, or by its number where it has none."""
    return [repr(name) if (name := model.key(index).name) else str(index) for index in range(model.nkey)]


def keyframe_number(model: Any, keyframe: str) -> int | None:
    """The number of a model's keyframe given by name or number; None for ``""``. ConfigError for one that is not there."""
    if keyframe == "":
        return None
    names = [model.key(index).name for index in range(model.nkey)]
    if keyframe in names:
        return names.index(keyframe)
    if keyframe.strip().isdecimal() and int(keyframe) < model.nkey:
        return int(keyframe)
    listed = ", ".join(keyframe_names(model))
    there = f"it has {listed}" + (f" (or 0 to {model.nkey - 1})" if any(names) else "") if listed else "it has none"
    raise ConfigError(f"env.keyframe: the model has no keyframe {keyframe!r}{nearest(keyframe, names)}; {there}")


def _check_mjb(path: Path, running: str) -> None:
    """ConfigError for a file that MuJoCo's reader should not be given: it prints, and writes a log file where it stands."""
    head = path.read_bytes()[:20]
    if len(head) < 20 or struct.unpack("<i", head[:4])[0] != _MJB_ID:
        raise _bad_mjb(path, running, "it does not begin as an MJB of this format does")
    wrote = _version(struct.unpack("<i", head[12:16])[0])
    if wrote and wrote != running:
        raise _bad_mjb(path, running, f"it was written by MuJoCo {wrote}")


def _version(number: int) -> str:
    """``3.10.0`` of 3010000; nothing where a header holds something else there."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}" if number >= 1_000_000 else ""


def _bad_mjb(path: Path, running: str, why: str) -> ConfigError:
    return ConfigError(
        f"env.id: MuJoCo {running} cannot load {path}: {why}. An MJB loads only in the MuJoCo that wrote it, and whole: "
        f"write it again from its MJCF with mujoco.mj_saveModel in MuJoCo {running}, or give the MJCF itself"
    )


@contextlib.contextmanager
def warnings_caught() -> Iterator[list[str]]:
    """MuJoCo's warnings as a list; by itself it prints them and appends to a file in the working directory."""
    import mujoco

    caught: list[str] = []
    mujoco.set_mju_user_warning(caught.append)
    try:
        yield caught
    finally:
        mujoco.set_mju_user_warning(None)
