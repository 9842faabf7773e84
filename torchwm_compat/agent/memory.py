"""torchwm's replay buffer over jaxdreamer's: observations, actions and rewards in a ring of fixed size."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from jaxdreamer import ActionPart, ActionSpec, ArraySpec, Batch, EnvSpec, HostReplay, Timestep, available_memory

_log = logging.getLogger("torchwm_compat")


class ReplayBuffer:
    """Newest ``size`` entries; samples windows of ``seq_len``, ``batch_size`` at a time.

    ``add(obs, ac, rew, done)`` is torchwm's: an observation, the action then taken and its outcome. It lacks an episode's
    final observation; agents use :meth:`begin` and :meth:`step`, which keep it.
    """

    def __init__(
        self,
        size: int,
        obs_shape: Any,
        action_size: int,
        seq_len: int,
        batch_size: int,
        *,
        spec: EnvSpec | None = None,
        seed: int = 0,
    ) -> None:
        self.obs_shape, self.action_size = tuple(obs_shape), int(action_size)
        self.seq_len, self.batch_size = int(seq_len), int(batch_size)
        self.spec = spec or image_spec(self.obs_shape, self.action_size)
        self.size = fitting_size(int(size), self.spec)
        capacity = max(self.size, self.seq_len + 1)
        settings: dict[str, Any] = {"lanes": 1, "length": self.seq_len, "cross_episodes": True, "memory_fraction": 1.0}
        self._replay = HostReplay(self.spec, capacity=capacity, **settings)
        self._rng = np.random.default_rng(seed)
        self.steps = self.episodes = 0
        self._open = False  # an episode is under way
        self._pending: tuple[np.ndarray, float] | None = None  # of add(): led to an observation not given yet

    # ---- writing ---------------------------------------------------------------------------------------------------

    def begin(self, obs: dict[str, Any]) -> None:
        """An episode's first observation. An episode that is under way ends where it is, without being terminal."""
        if self._open:
            self._replay.close_episode(0)
        self._put(obs, np.zeros(self.spec.action.size, np.float32), 0.0, first=True)
        self._open = True

    def step(self, obs: dict[str, Any], action: Any, reward: float, done: bool, terminal: bool) -> None:
        """The observation that ``action`` led to; ``terminal`` where the task itself ended, not only its time."""
        self._put(obs, np.asarray(action, np.float32), float(reward), last=done, terminal=done and terminal)
        self._open = not done
        self.steps += 1
        self.episodes += bool(done)

    def add(self, obs: dict[str, Any], ac: Any, rew: float, done: bool) -> None:
        """torchwm's entry: an observation, the action taken there, its reward, and whether the episode ended."""
        if self._pending is None:
            self.begin(obs)
        else:
            self.step(obs, *self._pending, done=False, terminal=False)
        self._pending = (np.asarray(ac, np.float32), float(rew))
        if done:  # the final observation is not given: the one before stands in for it
            self.step(obs, *self._pending, done=True, terminal=True)
            self._pending = None

    def _put(self, obs: dict[str, Any], action: np.ndarray, reward: float, **flags: bool) -> None:
        arrays = {key: np.asarray(obs[key]) for key in self.spec.obs}
        arrays |= {key: np.moveaxis(arrays[key], 0, -1) for key in self.spec.keys(image=True)}
        lane = {key: array[None] for key, array in arrays.items()}
        first, last, terminal = (np.array([flags.get(name, False)]) for name in ("first", "last", "terminal"))
        self._replay.add(Timestep(lane, np.array([reward], np.float32), first, last, terminal), action[None])

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def can_sample(self) -> bool:
        """Whether there is a whole window."""
        return self._replay.can_sample

    def sample_batch(self) -> Batch:
        """A batch [T, B, ...] as jaxdreamer learns from it. Raises LookupError where there is no whole window yet."""
        return self._replay.gather(self._replay.sample_indices(self._rng, self.batch_size))

    def sample(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """torchwm's batch: images [L, n, C, H, W] uint8, actions [L, n, A] taken there, rewards, ends [L, n] after.

        The last action, reward and end of each window are those of an entry beyond it, and zero.
        """
        batch = self.sample_batch()
        onward = lambda x: np.concatenate([x[1:], np.zeros_like(x[:1])]).astype(np.float32)  # noqa: E731
        images = np.moveaxis(batch.obs["image"], -1, -3)
        return images, onward(batch.action), onward(batch.reward), onward(batch.is_last)

    def _rows(self) -> dict[str, np.ndarray]:
        rows = self._replay.read_rows(self._replay.oldest, self._replay.total)
        return {key: array[:, 0] for key, array in rows.items()}

    @property
    def idx(self) -> int:
        """Where the next entry goes."""
        return int(self._replay.total % self.size)

    @property
    def full(self) -> bool:
        """Whether old entries are being overwritten."""
        return self._replay.total >= self.size

    @property
    def observations(self) -> np.ndarray:
        """The images there are, oldest first: uint8 [n, C, H, W], copies."""
        return np.moveaxis(self._rows()["obs/image"], -1, -3)

    @property
    def actions(self) -> np.ndarray:
        """The action that led to each entry, float32 [n, A]."""
        return self._rows()["action"]

    @property
    def rewards(self) -> np.ndarray:
        """The reward received on arriving at each entry, float32 [n]."""
        return self._rows()["reward"]

    @property
    def terminals(self) -> np.ndarray:
        """Whether an episode ended at each entry, float32 [n]."""
        return self._rows()["is_last"].astype(np.float32)


def image_spec(obs_shape: Any, action_size: int) -> EnvSpec:
    """Images [C, H, W] and continuous actions: all that torchwm's shapes say of an environment."""
    channels, height, width = (int(size) for size in obs_shape)
    image = ArraySpec((height, width, channels), "uint8", "image")
    return EnvSpec({"image": image}, ActionSpec((ActionPart("continuous", int(action_size)),)))


def fitting_size(size: int, spec: EnvSpec) -> int:
    """``size`` entries, or as many as 80 % of the free memory hold, with a warning."""
    entry = sum(item.nbytes for item in spec.obs.values()) + 4 * spec.action.size + 32
    most = max(1, int(0.8 * available_memory()) // entry)
    if size > most:
        _log.warning("buffer_size %d would not fit into the free memory: the replay keeps %d entries", size, most)
    return min(size, most)
