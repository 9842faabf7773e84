"""How the agents of a Unity behaviour see and act: sensors as observations, actions in Unity's terms, masks."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from jaxdreamer.config import EnvConfig
from jaxdreamer.envs.base import EnvError, SpaceError
from jaxdreamer.envs.host.actions import ActionMap
from jaxdreamer.envs.host.images import resize
from jaxdreamer.envs.host.observations import ObservationMap
from jaxdreamer.envs.unity.process import Layout
from jaxdreamer.types import ArraySpec, EnvSpec, Observation


class View:
    """How a behaviour is seen: its spec, and its sensors' values as observations.

    ``spaces`` are those of what mlagents_envs itself returns and takes, by key; images with their channels last.
    """

    def __init__(self, layout: Layout, config: EnvConfig) -> None:
        """SpaceError where nothing is left to see or to do, or where images are asked for without graphics."""
        self.layout = layout
        self._size = config.image_size
        self._sensors: list[tuple[str, int, bool]] = []
        obs: dict[str, ArraySpec] = {}
        names = _keys(layout)
        wanted = {"pixels": (True,), "state": (False,)}.get(config.obs, (True, False))
        for number, (key, (name, shape, image)) in enumerate(zip(names, layout.sensors)):
            if image not in wanted or any(fnmatchcase(key, glob) for glob in config.exclude):
                continue
            if (
                image
                and config.options.unity_no_graphics
                and config.options.unity_file_name
                and "grid" not in name.lower()
            ):
                raise SpaceError(
                    f"sensor {name!r} is an image {shape}, which players draw black without graphics: set "
                    "env.unity_no_graphics=false (without a display: run under xvfb-run), or leave it out with "
                    f"env.exclude={key}"
                )
            self._sensors.append((key, number, image))
            dtype, kind = ("uint8", "image") if image else ("float32", "vector")
            obs[key] = ArraySpec((*self._size, shape[2]) if image else shape, dtype, kind)  # type: ignore[arg-type]
        self.images = [key for key, spec in obs.items() if spec.kind == "image"]
        if (
            not obs
            or (config.obs == "both" and not self.images)
            or (config.obs == "both" and len(self.images) == len(obs))
        ):
            raise SpaceError(f"env.obs={config.obs} with env.exclude={config.exclude} does not fit the sensors {names}")
        self.masks = bool(layout.branches) and not any(fnmatchcase("action_mask", glob) for glob in config.exclude)
        if self.masks:
            obs["action_mask"] = ArraySpec((sum(layout.branches),), "float32", "vector")
        if not layout.continuous and not layout.branches:
            raise SpaceError("the behaviour has no actions; there is nothing to decide")
        self.spaces = self._spaces()
        self._actions = ActionMap(self.spaces["action"])
        self.spec = EnvSpec(obs, self._actions.spec)

    def observe(self, arrays: dict[str, np.ndarray], row: int, ended: bool) -> Observation:
        """One agent's observation, in fresh arrays."""
        prefix = "ended_obs." if ended else "obs."
        obs: Observation = {}
        for key, number, image in self._sensors:
            value = arrays[f"{prefix}{number}"][row]
            obs[key] = np.array(resize(np.ascontiguousarray(value), self._size) if image else value)
        if self.masks:
            size = sum(self.layout.branches)
            obs["action_mask"] = np.ones(size, np.float32) if ended else arrays["allowed"][row].astype(np.float32)
        return obs

    def to_unity(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The agent's action [A] as float32 [c] and int32 [b]."""
        value = self._actions.to_env(action)
        parts = value if isinstance(value, dict) else {}
        if not parts:
            parts = {"continuous" if self.layout.continuous else "discrete": value}
        continuous = np.asarray(parts.get("continuous", ()), np.float32)
        return continuous, np.asarray(parts.get("discrete", ()), np.int32)

    @property
    def describable_spaces(self) -> dict[str, Any] | None:
        """``spaces`` where the agent's units follow from them; where a sensor's image would not be one there: None."""
        return self.spaces if ObservationMap(self.spaces["observation"], self._size).spec == self.spec.obs else None

    def _spaces(self) -> dict[str, Any]:
        from gymnasium import spaces

        own: dict[str, Any] = {}
        for key, number, image in self._sensors:
            shape = self.layout.sensors[number][1]
            own[key] = spaces.Box(0.0, 1.0, shape) if image else spaces.Box(-np.inf, np.inf, shape)
        if self.masks:
            own["action_mask"] = spaces.Box(0.0, 1.0, (sum(self.layout.branches),))
        parts: dict[str, Any] = {}
        if self.layout.continuous:
            parts["continuous"] = spaces.Box(-1.0, 1.0, (self.layout.continuous,))
        if self.layout.branches:
            parts["discrete"] = spaces.MultiDiscrete(list(self.layout.branches), dtype=np.int32)
        action = spaces.Dict(parts) if len(parts) > 1 else next(iter(parts.values()))
        return {"observation": spaces.Dict(own), "action": action}


def _keys(layout: Layout) -> list[str]:
    """One observation key for each sensor, from its name; what repeats is numbered. A single camera's is ``image``."""
    keys: list[str] = []
    cameras = sum(image for _, _, image in layout.sensors)
    for name, _, image in layout.sensors:
        key = base = re.sub(r"[^\w.-]+", "_", "" if image and cameras == 1 else name) or ("image" if image else "state")
        number = 1
        while key in keys:
            number += 1
            key = f"{base}.{number}"
        keys.append(key)
    return keys


def allow(choices: np.ndarray, allowed: np.ndarray, branches: tuple[int, ...]) -> np.ndarray:
    """``choices`` int32 [b] with each that ``allowed`` bool [sum of branches] forbids replaced by the next allowed one."""
    result, start = choices.copy(), 0
    for branch, size in enumerate(branches):
        mask = allowed[start : start + size]
        if not mask.any():
            raise EnvError(f"the player forbids every choice of branch {branch}; one must be left")
        turned = np.roll(mask, -int(choices[branch]))
        result[branch] = (choices[branch] + int(np.argmax(turned))) % size
        start += size
    return result
