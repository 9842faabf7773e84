"""Which OpenGL draws: chosen once, before any library that draws is used, and never one that wants a window.

The choice is ``$MUJOCO_GL`` where that is set, else EGL (a GPU's, or Mesa's in software), else OSMesa. Whether one works is
found out in a child process: a broken driver may crash or hang whoever asks it. The choice is then put into the environment,
where mujoco, dm_control and gymnasium look, and which worker processes inherit.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from jaxdreamer.config import MissingExtra
from jaxdreamer.envs.base import EnvError

logger = logging.getLogger(__name__)

CANDIDATES = ("egl", "osmesa")
OFF = ("disable", "disabled", "off", "false", "0")
SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swiftshader", "software")
INSTALL = (
    "install Mesa's EGL (Debian, Ubuntu: apt-get install libegl1 libgl1-mesa-dri) or OSMesa (apt-get install libosmesa6), "
    "or a GPU driver with EGL; MUJOCO_GL=egl or osmesa chooses one, and `jaxdreamer doctor` shows what each says"
)
_SECONDS = 60.0
_PROBE = """
import sys, importlib
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(64, 64)
context.make_current()
from OpenGL import GL
print("renderer: " + GL.glGetString(GL.GL_RENDERER).decode())
context.free()
"""


@dataclass(frozen=True)
class Probe:
    """What a child process found of one way to draw."""

    backend: str
    renderer: str
    """The driver's name for what draws; empty where it does not work."""
    error: str
    """Why it does not work; empty where it does."""

    @property
    def works(self) -> bool:
        """Whether it draws."""
        return bool(self.renderer)


def missing() -> MissingExtra | None:
    """The error where MuJoCo, through which everything here draws, is not installed: then no driver is to blame."""
    why = "drawing by OpenGL needs the Python package mujoco, which is not installed"
    return MissingExtra("jaxdreamer[mujoco]", why) if find_spec("mujoco") is None else None


def probe(backend: str, seconds: float = _SECONDS) -> Probe:
    """Try a backend, ``"egl"`` or ``"osmesa"``, in a child process."""
    if backend == "osmesa" and not find_library("OSMesa"):
        return Probe(backend, "", "its library is not installed (Debian, Ubuntu: apt-get install libosmesa6)")
    env = {name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"}
    env |= {"MUJOCO_GL": backend, "LP_NUM_THREADS": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE, backend], env=env, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return Probe(backend, "", f"it did not answer within {seconds:g} s")
    found = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("renderer: ")]
    if done.returncode == 0 and found:
        return Probe(backend, found[0], "")
    last = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
    return Probe(backend, "", f"{last[-1]} (exit status {done.returncode})")


def prepare() -> str:
    """Choose what draws in this process and in those it starts; returns the value of ``MUJOCO_GL``.

    EnvError where nothing works, with what each candidate said; and where drawing was switched off.
    """
    # Small pictures are drawn fastest by the thread that asks: llvmpipe's own ones, one a core, only wait for each other.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen in OFF:
        raise EnvError(f"drawing was switched off by MUJOCO_GL={chosen}; unset it to get pixels")
    if chosen:
        return chosen
    if error := missing():
        raise error
    failed = []
    for backend in CANDIDATES:
        found = probe(backend)
        if found.works:
            logger.info("drawing by %s, found to work in a child process: %s", backend, found.renderer)
            os.environ["MUJOCO_GL"] = backend
            return backend
        failed.append(f"{backend}: {found.error}")
    raise EnvError(f"no OpenGL works here without a window ({'; '.join(failed)}): {INSTALL}")


@contextmanager
def settled() -> Iterator[None]:
    """Around imports that look for what draws: there is a choice, or nothing draws, and no window is looked for."""
    try:
        prepare()
    except (EnvError, MissingExtra) as error:
        logger.info("%s", error)
    undecided = "MUJOCO_GL" not in os.environ
    if undecided:
        os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        if undecided:
            del os.environ["MUJOCO_GL"]  # so that drawing later raises the error with its reason


def make_context(width: int, height: int) -> Any:
    """A GL context of the chosen backend, made current; EnvError where it cannot be had."""
    backend = prepare()
    try:
        if backend == "glfw":
            from mujoco.glfw import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        elif backend == "egl":
            from mujoco.egl import GLContext
        else:
            raise EnvError(f"MUJOCO_GL={backend} is none of {', '.join(CANDIDATES)} (glfw opens a window); unset it")
        context = GLContext(width, height)
        context.make_current()
    except EnvError:
        raise
    except Exception as error:
        raise EnvError(f"MUJOCO_GL={backend} cannot draw here: {type(error).__name__}: {error}; {INSTALL}") from error
    return context


def renderer_name() -> str:
    """The driver's name for what draws in the current context."""
    from OpenGL import GL

    return bytes(GL.glGetString(GL.GL_RENDERER) or b"unknown").decode(errors="replace")


def driver_name() -> str:
    """The driver's name for what draws here, found with a context made for the purpose."""
    context = make_context(8, 8)
    name = renderer_name()
    context.free()
    return name


def is_software(name: str) -> bool:
    """Whether a renderer of this name computes pictures on the CPU."""
    return any(word in name.lower() for word in SOFTWARE)
