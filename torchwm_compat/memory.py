"""torchwm's replay buffer over jaxdreamer's: what was seen, done and received, in a ring of fixed size."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from jaxdreamer import ActionPart, ActionSpec, ArraySpec, Batch, EnvSpec, HostReplay, Timestep, available_memory

_log = logging.getLogger("torchwm_compat")


class ReplayBuffer:
    """Newest ``size`` entries; samples windows of ``seq_len``, ``batch_size`` at a time.

    ``add(obs, ac, rew, done)`` is torchwm's: what was seen, the action then taken and what came of it. What was seen last of
    all is not told by it; agents use :meth:`begin` and :meth:`step`, which keep every episode's final observation.
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
        self._replay = HostReplay(
            self.spec,
            capacity=max(self.size, self.seq_len + 1),
            lanes=1,
            length=self.seq_len,
            cross_episodes=True,
            memory_fraction=1.0,
        )
        self._rng = np.random.default_rng(seed)
        self.steps = self.episodes = 0
        self._open = False  # an episode is under way
        self._last: dict[str, Any] = {}
        self._pending: tuple[np.ndarray, float] | None = None  # of add(): led to an observation not told yet

    # ---- writing ---------------------------------------------------------------------------------------------------

    def begin(self, obs: dict[str, Any]) -> None:
        """An episode's first observation. One that is under way is closed where it is, without being terminal."""
        if self._open:
            self._replay.close_episode(0)
        self._put(obs, np.zeros(self.spec.action.size, np.float32), 0.0, first=True)
        self._open = True

    def step(self, obs: dict[str, Any], action: Any, reward: float, done: bool, terminal: bool) -> None:
        """The observation that ``action`` led to; ``terminal`` where the task itself ended, not just its time."""
        self._put(obs, np.asarray(action, np.float32), float(reward), last=done, terminal=done and terminal)
        self._open = not done
        self.steps += 1
        self.episodes += bool(done)

    def add(self, obs: dict[str, Any], ac: Any, rew: float, done: bool) -> None:
        """torchwm's way in: seen, done, received, and whether it ended there."""
        if self._pending is None:
            self.begin(obs)
        else:
            self.step(obs, *self._pending, done=False, terminal=False)
        self._pending = (np.asarray(ac, np.float32), float(rew))
        if done:  # the final observation is not told: what was seen before stands in for it
            self.step(obs, *self._pending, done=True, terminal=True)
            self._pending = None

    def _put(
        self,
        obs: dict[str, Any],
        action: np.ndarray,
        reward: float,
        *,
        first: bool = False,
        last: bool = False,
        terminal: bool = False,
    ) -> None:
        timestep = Timestep(
            {key: _lane(obs[key], channels_last=spec.kind == "image") for key, spec in self.spec.obs.items()},
            np.array([reward], np.float32),
            np.array([first]),
            np.array([last]),
            np.array([terminal]),
        )
        self._replay.add(timestep, action[None])

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def can_sample(self) -> bool:
        """Whether a whole window is there."""
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
        return {
            key: rows[:, 0] for key, rows in self._replay.read_rows(self._replay.oldest, self._replay.total).items()
        }

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
    """Images [C, H, W] and numbers in [-1, 1]: what torchwm's shapes say of an environment."""
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


def _lane(value: Any, channels_last: bool) -> np.ndarray:
    array = np.asarray(value)
    return (np.moveaxis(array, 0, -1) if channels_last else array)[None]
