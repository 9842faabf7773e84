"""Rows with recognisable content: an entry's observation says which row and lane it is."""

import hashlib

import numpy as np

from jaxdreamer.replay.host import HostReplay
from jaxdreamer.types import ActionPart, ActionSpec, ArraySpec, EnvSpec, Timestep

SPEC = EnvSpec(
    {
        "image": ArraySpec((2, 2, 1), "uint8", "image"),
        "tag": ArraySpec((2,), "float32", "vector"),
        "choice": ArraySpec((), "int32", "discrete", classes=300),
    },
    ActionSpec((ActionPart("continuous", 2), ActionPart("discrete", 3))),
)


def make(capacity=24, lanes=2, length=3, cross_episodes=True, guard=0, spec=SPEC, **more):
    return HostReplay(
        spec, capacity=capacity, lanes=lanes, length=length, cross_episodes=cross_episodes, guard=guard, **more
    )


def content_hash(replay):
    """Of all rows in order, with their numbers: equal for equal content, wherever the ring is cut."""
    digest = hashlib.sha256(f"{replay.oldest} {replay.total}".encode())
    for key, value in replay.read_rows(replay.oldest, replay.total).items():
        digest.update(key.encode() + value.tobytes())
    return digest.hexdigest()


class Feed:
    """Adds rows to a replay and keeps every entry in plain lists."""

    def __init__(self, replay):
        self.replay = replay
        self.lanes = [[] for _ in range(replay.lanes)]  # one dict an entry
        self.ended = [True] * replay.lanes
        self.episode = [-1] * replay.lanes

    def add(self, ends=(), terminal=True):
        replay, lanes = self.replay, self.replay.lanes
        row = len(self.lanes[0])
        first, last = np.array(self.ended), np.isin(np.arange(lanes), list(ends))
        tag = np.array([[row, lane] for lane in range(lanes)], np.float32)
        image = np.broadcast_to(
            (row * 7 + np.arange(lanes) % 256).astype(np.uint8)[:, None, None, None], (lanes, 2, 2, 1)
        )
        choice = (row + np.arange(lanes)).astype(np.int32) % 300
        action = np.array([[row + 0.5, lane, 1, 0, 0] for lane in range(lanes)], np.float32)
        reward = np.arange(lanes, dtype=np.float32) + row + 1
        obs = {"image": image, "tag": tag, "choice": choice}
        replay.add(Timestep(obs, reward, first, last, last & terminal), action)
        for lane in range(lanes):
            self.episode[lane] += int(first[lane])
            self.lanes[lane].append(
                {
                    "row": row,
                    "obs": {key: value[lane].copy() for key, value in obs.items()},
                    "action": np.zeros(5) if first[lane] else action[lane],
                    "reward": 0.0 if first[lane] else reward[lane],
                    "is_first": first[lane],
                    "is_last": last[lane],
                    "is_terminal": last[lane] and terminal,
                    "episode": self.episode[lane],
                }
            )
        self.ended = list(last)

    def add_many(self, count, every=5):
        for _ in range(count):
            row = len(self.lanes[0])
            self.add([lane for lane in range(self.replay.lanes) if (row + 2 * lane) % every == every - 1])

    def valid(self):
        """All windows that may be sampled, by definition."""
        replay, total = self.replay, len(self.lanes[0])
        oldest = max(0, total + replay.guard - replay.rows_max)
        found = set()
        for lane, entries in enumerate(self.lanes):
            for start in range(oldest, total - replay.length + 1):
                window = entries[start : start + replay.length]
                one_episode = len({entry["episode"] for entry in window}) == 1
                if replay.cross_episodes or one_episode or window[0]["is_first"]:
                    found.add((start, lane))
        return found

    def check(self, batch, indices):
        """The batch holds exactly the model's windows."""
        for column, (start, lane) in enumerate(zip(*indices)):
            for t in range(self.replay.length):
                entry = self.lanes[lane][start + t]
                for key in self.replay.spec.obs:
                    np.testing.assert_array_equal(batch.obs[key][t, column], entry["obs"][key])
                for key in ("action", "reward", "is_first", "is_last", "is_terminal"):
                    np.testing.assert_array_equal(getattr(batch, key)[t, column], entry[key])
