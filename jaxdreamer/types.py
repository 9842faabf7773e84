"""The vocabulary every room shares: array letters, the meaning of index t, and the containers passed around.

Axis letters
    T  time (the first axis inside the library: everything is time-major)
    B  batch: independent sequences, or lanes of a vector environment
    H  imagination horizon; imagined sequences have H + 1 entries, the start state included
    N  number of imagination starts, T * B after flattening
    A  action size: the widths of all action parts added up
    D  deterministic latent size (``deter``); S  flattened stochastic latent size (``stoch``)
    G, C  groups and classes of a categorical latent, S = G * C
    E  embedding size (``embed``); F = D + S  feature size (``feat``)

What index t means
    Entry t of a sequence holds ``obs[t]``, the action that **led to** ``obs[t]``, and the reward received **on arriving** at
    ``obs[t]``. A reset entry (``is_first[t]``) has zero action and zero reward. The last observation of an episode is
    always an entry of its own (``is_last[t]``). ``is_terminal[t]`` is true only where the task itself ended; a time limit
    is ``is_last`` without it.

Actions
    Inside the library an action is one flat float32 vector of A numbers, the parts of an :class:`ActionSpec` side by side:
    a continuous part lies in [-1, 1], a discrete part is one-hot. Environments see their own units only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from jaxdreamer.errors import JaxdreamerError, shown
from jaxdreamer.files import one_of, require, whole

if TYPE_CHECKING:
    from jax import Array  # mypy alone imports jax here: environment workers import this module, and never jax
else:
    Array = Any
AnyArray = Any  # numpy's on the host, jax's on the device and while tracing: the containers below are used for both
PyTree = Any
Observation = dict[str, AnyArray]
_GROUPS = ("obs/", "kept/")
_DTYPES = {"image": "uint8", "vector": "float32", "discrete": "int32"}
_MOST_KEYS = 4096
_FORM = {
    "obs": {...: {"shape": [whole(0)], "dtype": str, "kind": one_of(*_DTYPES), "classes": whole(0)}},
    "action": [{"kind": one_of("continuous", "discrete"), "size": whole(0)}],
}


class SpecError(JaxdreamerError, ValueError):
    """An invalid description of observations, actions or spaces; the message says where, and what was found."""


@dataclass(frozen=True)
class ArraySpec:
    """Shape, dtype and meaning of one observation key, without a batch axis.

    ``kind`` is ``"image"`` (uint8, H x W x C, 0 to 255), ``"vector"`` (float32, any shape) or ``"discrete"`` (int32,
    any shape, values 0 to ``classes - 1``, one-hot encoded by the networks).
    """

    shape: tuple[int, ...]
    dtype: str
    kind: Literal["image", "vector", "discrete"]
    classes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of one entry."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class ActionPart:
    """One block of the flat action vector: ``size`` numbers in [-1, 1], or one choice of ``size`` as one-hot."""

    kind: Literal["continuous", "discrete"]
    size: int


@dataclass(frozen=True)
class ActionSpec:
    """The flat action vector: its parts, side by side, in order."""

    parts: tuple[ActionPart, ...]

    @property
    def size(self) -> int:
        """A, the width of the flat vector."""
        return sum(part.size for part in self.parts)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each part lies in the flat vector."""
        ends = np.cumsum([part.size for part in self.parts])
        return tuple(slice(int(end) - part.size, int(end)) for part, end in zip(self.parts, ends))

    @property
    def is_discrete(self) -> bool:
        """Whether every part is a choice."""
        return all(part.kind == "discrete" for part in self.parts)

    @property
    def is_continuous(self) -> bool:
        """Whether no part is a choice."""
        return all(part.kind == "continuous" for part in self.parts)


@dataclass(frozen=True)
class EnvSpec:
    """What an agent must know of an environment: its observation keys and its action vector."""

    obs: dict[str, ArraySpec] = field(hash=False)
    action: ActionSpec = field()
    # Of the task's own time, from one simulator step to the next; None where the task does not say it. It tells who carries
    # an agent elsewhere how often to act; specs that differ in nothing else are equal.
    step_seconds: float | None = field(default=None, compare=False)

    def keys(self, *, image: bool) -> list[str]:
        """The keys of the observations that are images, or those of all others."""
        return [key for key, item in self.obs.items() if (item.kind == "image") == image]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary of what must stay the same in a run; :meth:`from_dict` reads it back."""
        return {
            "obs": {
                key: {"shape": list(s.shape), "dtype": s.dtype, "kind": s.kind, "classes": s.classes}
                for key, s in self.obs.items()
            },
            "action": [{"kind": part.kind, "size": part.size} for part in self.action.parts],
        }

    @staticmethod
    def from_dict(data: Any) -> EnvSpec:
        """Read what :meth:`to_dict` wrote, and ``step_seconds`` beside it; SpecError for anything else."""
        require(data, _FORM, "the spec", SpecError)
        if len(data["obs"]) > _MOST_KEYS:
            raise SpecError(f"the spec has at most {_MOST_KEYS:,} observations, found {len(data['obs']):,}")
        obs = {key: _read_array(f"observation {shown(key)}", item) for key, item in data["obs"].items()}
        action = ActionSpec(tuple(ActionPart(item["kind"], item["size"]) for item in data["action"]))
        if not obs or not action.size:
            raise SpecError(
                f"the spec has {len(obs)} observations and {action.size} numbers in an action; both need some"
            )
        seconds = data.get("step_seconds")
        if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
            raise SpecError(f"the spec: 'step_seconds' is a number above 0, found {shown(seconds)}")
        return EnvSpec(obs, action, seconds)

    @property
    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each array of one entry, by the names of :func:`flatten`; without a lane axis."""
        single, flag = np.dtype(np.float32), np.dtype(bool)
        return {
            **{f"obs/{key}": (item.shape, np.dtype(item.dtype)) for key, item in self.obs.items()},
            "action": ((self.action.size,), single),
            "reward": ((), single),
            **dict.fromkeys(("is_first", "is_last", "is_terminal"), ((), flag)),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of one entry as the networks read it: choices are one-hot, and everything is float32 there."""
        numbers = sum(math.prod(item.shape) * max(1, item.classes) for item in self.obs.values())
        return 4 * (numbers + self.action.size)


def _read_array(where: str, data: dict[str, Any]) -> ArraySpec:
    """One observation of a form that is checked already."""
    kind, shape, classes = data["kind"], tuple(data["shape"]), data["classes"]
    if data["dtype"] != _DTYPES[kind]:
        raise SpecError(f"{where}: 'dtype' of kind {kind} is {_DTYPES[kind]}, found {shown(data['dtype'])}")
    if kind == "image" and (len(shape) != 3 or min(shape[:2]) < 8 or not shape[2]):
        raise SpecError(
            f"{where}: the 'shape' of an image is height and width from 8, and channels, found {shown(shape)}"
        )
    if len(shape) > 32:
        raise SpecError(f"{where}: 'shape' has {len(shape)} axes, arrays have at most 32")
    if (kind == "discrete") != (classes > 0):
        raise SpecError(f"{where}: 'classes' is above 0 for kind discrete and 0 for others, found {classes} for {kind}")
    return ArraySpec(shape, _DTYPES[kind], kind, classes)


class Timestep(NamedTuple):
    """What an environment hands over at one moment; with a leading lane axis [B] from a vector environment."""

    obs: Observation  # per key: [B, *shape], the key's own dtype
    reward: AnyArray  # float32 [B], received on arriving at obs
    is_first: AnyArray  # bool [B], obs comes from a reset
    is_last: AnyArray  # bool [B], the episode ends here, for whatever reason
    is_terminal: AnyArray  # bool [B], the task itself ended here


class Latent(NamedTuple):
    """The RSSM's compact state.

    Mind the order: the fields are (deter, stoch), while features are ``concat(stoch, deter)``, as in the released code;
    :func:`jaxdreamer.features` is the one place that joins them.
    """

    deter: Array  # float32 [..., D]
    stoch: Array  # float32 [..., S], a sample


class Batch(NamedTuple):
    """Sequences for learning, time-major. See the module docstring for what entry t holds."""

    obs: Observation  # per key: [T, B, *shape], the key's own dtype
    action: AnyArray  # float32 [T, B, A], led to obs[t]
    reward: AnyArray  # float32 [T, B], received on arriving at obs[t]
    is_first: AnyArray  # bool [T, B]
    is_last: AnyArray  # bool [T, B]
    is_terminal: AnyArray  # bool [T, B]
    # per name: [T, B, ...], what the algorithm remembered when entry t was collected, where it asks for that
    kept: dict[str, AnyArray] = {}  # noqa: RUF012  (nobody writes into it)


Entries = TypeVar("Entries", Timestep, Batch)


def flatten(entries: Timestep | Batch) -> dict[str, AnyArray]:
    """The arrays by name: ``obs/<key>`` and ``kept/<key>``, and the other fields under their own names."""
    named = entries._asdict()
    groups = {prefix: named.pop(prefix[:-1], {}) for prefix in _GROUPS}
    return {prefix + key: value for prefix, group in groups.items() for key, value in group.items()} | named


def unflatten(kind: type[Entries], named: Mapping[str, AnyArray]) -> Entries:
    """What :func:`flatten` took apart; arrays that are no field of ``kind`` are ignored."""
    groups = {
        prefix[:-1]: {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
        for prefix in _GROUPS
    }
    return kind(**{name: groups[name] if name in groups else named[name] for name in kind._fields})


class PolicyState(NamedTuple):
    """What a policy carries from one observation to the next."""

    latent: Latent  # [B, ...]
    action: Array  # float32 [B, A], the action just taken, exploration noise included


class Imagined(NamedTuple):
    """Sequences dreamed by the world model under the policy."""

    latent: Latent  # [H + 1, N, ...]; entry 0 is the start
    action: Array  # float32 [H, N, A]; action[k] leads from latent[k] to latent[k + 1]


class TrainState(NamedTuple):
    """Everything an update reads and writes. What the three trees hold is the algorithm's affair."""

    params: PyTree  # what gradients reach, float32; Dreamer's: {"model", "actor", "critic"}
    optimizers: PyTree  # states of the optimizers; Dreamer's: optax's, {"model", "actor", "critic"}
    aux: PyTree  # whatever else it keeps; Dreamer's: {"target_critic": as params["critic"], "statistics": of observations}
    updates: Array  # int32 [], updates done, skipped ones included
    skipped: Array  # int32 [], updates skipped because a loss or gradient was not finite
    skipped_in_a_row: Array  # int32 [], of those, how many since the last good update
    key: Array  # typed PRNG key []


Metrics = dict[str, Array]  # scalar float32 arrays, by name
