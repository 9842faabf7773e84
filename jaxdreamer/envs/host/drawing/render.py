"""Drawing MuJoCo models: one renderer an environment, made in the process that draws and closed with the environment.

On a software renderer shadows, reflections and multisampling cost 16 to 70 times what the picture itself does, and its size
hardly matters. So ``render_quality`` is ``full`` or ``fast`` (without these three), and ``auto`` is fast where the CPU draws
and full where a GPU does.
"""

from __future__ import annotations

import abc
import atexit
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxdreamer.config import ConfigError, nearest
from jaxdreamer.envs.base import EnvError
from jaxdreamer.envs.host.drawing import gl

logger = logging.getLogger(__name__)

FILM_SIZE = (240, 320)
"""Height and width of frames for films, where the task has no size of its own."""


class Renderer:
    """Draws one model at any size up to ``largest``. The GL context is this process's; close it in the same one."""

    def __init__(self, model: Any, quality: str = "auto", largest: tuple[int, int] = FILM_SIZE) -> None:
        """``model`` is a mujoco.MjModel, which is left as it is; EnvError where nothing draws here."""
        import mujoco

        self._mujoco, self._model = mujoco, model
        self._context: Any = gl.make_context(largest[1], largest[0])
        close_at_exit(self)
        try:
            self.name = gl.renderer_name()
            self.fast = is_fast(quality, self.name)
            self._largest = largest
            with _offscreen(model, self.fast, largest):
                self._drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawing)
            self._scene = mujoco.MjvScene(model, maxgeom=10_000)
            if self.fast:
                _without_effects(self._scene)
            self._option, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        except BaseException:
            self.close()
            raise

    def draw(self, data: Any, size: tuple[int, int], camera: int = -1) -> np.ndarray:
        """The scene of a mujoco.MjData as uint8 [H, W, 3], by the model's camera of that number; -1: a free one."""
        if self._context is None:
            raise EnvError("this renderer is closed")
        if size[0] > self._largest[0] or size[1] > self._largest[1]:
            raise EnvError(f"this renderer draws up to {self._largest}, asked for {size}")
        mujoco = self._mujoco
        if camera < 0:
            mujoco.mjv_defaultFreeCamera(self._model, self._camera)
        else:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        self._context.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        viewport = mujoco.MjrRect(0, 0, size[1], size[0])
        mujoco.mjr_render(viewport, self._scene, self._drawing)
        frame = np.empty((*size, 3), np.uint8)
        mujoco.mjr_readPixels(frame, None, viewport, self._drawing)
        return np.ascontiguousarray(frame[::-1])  # GL counts rows from below

    def reload(self) -> None:
        """Take over height fields of the model that were changed since it was loaded."""
        self._context.make_current()
        for index in range(self._model.nhfield):
            self._mujoco.mjr_uploadHField(self._model, self._drawing, index)

    def close(self) -> None:
        """Free the context; calling it twice is fine."""
        if self._context is None:
            return
        context, self._context = self._context, None
        _alive.discard(self)
        context.make_current()
        if hasattr(self, "_drawing"):
            self._drawing.free()
        context.free()


class Drawn(abc.ABC):
    """What environments have in common that draw a model of their own with one :class:`Renderer`, made when it is needed."""

    _renderer: Renderer | None = None
    _camera: int
    _quality: str
    _largest: tuple[int, int]

    @abc.abstractmethod
    def _scene(self) -> tuple[Any, Any]:
        """The mujoco.MjModel and mujoco.MjData to draw."""

    def draw(self, size: tuple[int, int] | None) -> np.ndarray:
        """The present moment at a size, or at that of films, as uint8 [H, W, 3]."""
        model, data = self._scene()
        if self._renderer is None:
            self._renderer = Renderer(model, self._quality, self._largest)
        return self._renderer.draw(data, size or FILM_SIZE, self._camera)

    def render(self) -> np.ndarray:
        """The present moment at the size of films."""
        return self.draw(None)

    @property
    def drawing_note(self) -> str | None:
        """How it draws, once it has drawn."""
        return None if self._renderer is None else describe(self._renderer.name, self._renderer.fast)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()


_alive: weakref.WeakSet[Any] = weakref.WeakSet()


def close_at_exit(item: Any) -> None:
    """Close what is still open when the interpreter ends, before what it draws with goes: that would complain.

    Handlers run last in, first out, so this comes after whatever registered one of its own with the first context.
    """
    atexit.unregister(_close_all)
    atexit.register(_close_all)
    _alive.add(item)


def _close_all() -> None:
    for renderer in list(_alive):
        renderer.close()


def is_fast(quality: str, name: str) -> bool:
    """Whether a renderer of this name draws without effects under ``render_quality``."""
    return quality == "fast" or (quality == "auto" and gl.is_software(name))


def describe(name: str, fast: bool) -> str:
    """What draws and how, in one line."""
    where = "in software" if gl.is_software(name) else "on a GPU"
    effects = "without" if fast else "with"
    return (
        f"drawing {where} by {name}, render_quality {'fast' if fast else 'full'}: "
        f"{effects} shadows, reflections and multisampling"
    )


def camera_number(model: Any, camera: str, default: int = -1) -> int:
    """The number of a model's camera given by name or number; ``""`` is ``default``, -1 the free one.

    ConfigError for one that the model does not have.
    """
    import mujoco

    if camera == "":
        return default if default < model.ncam else -1
    names = [model.camera(index).name for index in range(model.ncam)]
    if camera in names:
        return names.index(camera)
    try:
        number = int(camera)
    except ValueError:
        number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        number = number if number >= 0 else -2
    if not -1 <= number < model.ncam:
        listed = ", ".join(f"{index} {name!r}" for index, name in enumerate(names)) or "none"
        raise ConfigError(
            f"env.camera: the model has no camera {camera!r}{nearest(camera, names)}; it has {listed}, and -1 is free"
        )
    return number


def drawer_of(env: Any, quality: str, camera: str = "") -> Drawn | _Viewer | None:
    """What draws a gymnasium instance at any size: ``draw(size)``, and ``drawing_note`` once it has drawn.

    None where only the instance's own ``render`` will do: it draws by other means than MuJoCo's, or a wrapper changes how it
    looks.
    """
    inner = getattr(env, "unwrapped", env)
    if _wrappers_draw(env):
        return None
    if isinstance(inner, Drawn):
        return inner
    # Robotics tasks keep the environment that draws in an attribute.
    owners = [inner, *(getattr(inner, "__dict__", None) or {}).values()]
    found = next((item for item in owners if hasattr(item, "mujoco_renderer") and hasattr(item, "model")), None)
    as_arrays = getattr(env, "render_mode", None) == "rgb_array"
    return _Viewer(inner, found, quality, camera) if found is not None and as_arrays else None


def _wrappers_draw(env: Any) -> bool:
    passing = ("Wrapper", "OrderEnforcing", "PassiveEnvChecker")
    while hasattr(env, "env") and hasattr(env, "unwrapped") and env.unwrapped is not env:
        definer = next((cls.__name__ for cls in type(env).__mro__ if "render" in vars(cls)), "Wrapper")
        if definer not in passing:
            return True
        env = env.env
    return False


class _Viewer:
    """Gymnasium's own off-screen viewer: at a wanted size, in its own context, without effects where fast."""

    def __init__(self, env: Any, owner: Any, quality: str, camera: str) -> None:
        self._env, self._owner, self._quality, self._camera = env, owner, quality, camera
        self._viewer: Any = None
        self.drawing_note: str | None = None

    def draw(self, size: tuple[int, int] | None) -> np.ndarray:
        """The present moment as uint8 [H, W, 3]; None is the viewer's own size."""
        viewer = self._viewer or self._make(size or (0, 0))
        size = size or self._own_size
        if size[0] > self._largest[0] or size[1] > self._largest[1]:
            raise EnvError(f"this renderer draws up to {self._largest}, asked for {size}")
        # Gymnasium leaves current whichever viewer was made last: two environments would draw into one context.
        viewer.make_context_current()
        viewer.viewport.height, viewer.viewport.width = size
        return np.array(self._env.render())

    def _make(self, size: tuple[int, int]) -> Any:
        gl.prepare()
        owner, renderer = self._owner, self._owner.mujoco_renderer
        if self._camera:
            renderer.camera_id = camera_number(owner.model, self._camera)
        name = gl.driver_name()
        fast = is_fast(self._quality, name)
        self._own_size = (int(renderer.height or 480), int(renderer.width or 480))
        self._largest = (max(size[0], self._own_size[0]), max(size[1], self._own_size[1]))
        with _offscreen(owner.model, fast, self._largest):
            # Through gymnasium, which also aims the task's camera. Its viewer makes a buffer of the size given here.
            renderer.height, renderer.width = self._largest
            viewer = renderer._get_viewer("rgb_array")
        if fast:
            _without_effects(viewer.scn)
        close_at_exit(self)
        renderer.close = self.close
        self._viewer, self.drawing_note = viewer, describe(name, fast)
        return viewer

    def close(self) -> None:
        """Free context and buffers; gymnasium would leave the buffers to whichever context is current later."""
        if self._viewer is None:
            return
        viewer, self._viewer = self._viewer, None
        _alive.discard(self)
        viewer.make_context_current()
        viewer.con.free()
        viewer.free()
        renderer = self._owner.mujoco_renderer
        renderer._viewers.clear()
        del renderer.close  # what gymnasium draws by itself from here on is its own to close
        renderer.close()


@contextmanager
def _offscreen(model: Any, fast: bool, largest: tuple[int, int]) -> Iterator[None]:
    """The model's drawing settings while a context is made from it; they are read only then."""
    quality, buffer = model.vis.quality, model.vis.global_
    before = quality.shadowsize, quality.offsamples, buffer.offheight, buffer.offwidth
    buffer.offheight, buffer.offwidth = largest
    if fast:
        quality.shadowsize = quality.offsamples = 0
    try:
        yield
    finally:
        quality.shadowsize, quality.offsamples, buffer.offheight, buffer.offwidth = before


def _without_effects(scene: Any) -> None:
    import mujoco

    scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
