"""Datasets in LeRobot's format v3.0 are read as an environment is seen, frame for frame."""

from __future__ import annotations

import io
import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium import spaces
from PIL import Image

from jaxdreamer.config import EnvConfig, MissingExtra
from jaxdreamer.data.episodes import DataError
from jaxdreamer.data.source import open_source
from jaxdreamer.deploy.agent import load_agent
from tests.train import toy
from tests.train.test_contract import World

EPISODE = ("episode_index", "length", "data/chunk_index", "data/file_index")
LENGTHS = (5, 7, 4)
FPS = 10


def feature(dtype, *shape):
    return {"dtype": dtype, "shape": list(shape), "names": None}


FEATURES = {
    "observation.state": feature("float32", 2),
    "observation.images.front": feature("video", 3, 48, 64),  # channels first, as its authors often list them
    "observation.images.wrist": feature("image", 32, 32, 3),
    "observation.task": feature("string", 1),
    "action": feature("float32", 2),
    "next.reward": feature("float32", 1),
    "next.done": feature("bool", 1),
    "next.success": feature("bool", 1),
    **{name: feature("int64", 1) for name in ("frame_index", "episode_index", "index")},
}


def gray(frame):
    """How bright the picture of a frame is: it says which one it is, and survives the film's compression."""
    return 12 * frame + 20


def png(value):
    data = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def film(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"g": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            picture = np.full((48, 64, 3), gray(frame), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


def table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def recorded(tmp_path):
    """Three episodes: two in the first files, one in the second; frames are numbered through."""
    starts = np.cumsum([0, *LENGTHS])
    about = []
    for number, (start, length) in enumerate(zip(starts, LENGTHS)):
        file = int(number == 2)
        within = 0 if file else start
        row = {"episode_index": number, "length": length, "data/chunk_index": 0, "data/file_index": file}
        for name in ("chunk_index", "file_index"):
            row[f"videos/observation.images.front/{name}"] = row[f"data/{name}"]
        row["videos/observation.images.front/from_timestamp"] = within / FPS
        about.append(row)
    table(tmp_path / "meta/episodes/chunk-000/file-000.parquet", {key: [row[key] for row in about] for key in about[0]})
    for file, numbers in enumerate(((0, 1), (2,))):
        frames = [frame for number in numbers for frame in range(starts[number], starts[number + 1])]
        film(tmp_path / f"videos/observation.images.front/chunk-000/file-{file:03d}.mp4", frames)
        owner = [number for number in numbers for _ in range(LENGTHS[number])]
        last = [frame + 1 in starts for frame in frames]
        table(
            tmp_path / f"data/chunk-000/file-{file:03d}.parquet",
            {
                "observation.state": pa.array([[float(f), -float(f)] for f in frames], pa.list_(pa.float32(), 2)),
                "observation.images.wrist": [png(gray(frame)) for frame in frames],
                "observation.task": ["fold"] * len(frames),
                "action": pa.array([[float(f), 10.0 * f] for f in frames], pa.list_(pa.float32())),
                "next.reward": pa.array([float(f) for f in frames], pa.float32()),
                "next.done": last,
                "next.success": [end and number == 1 for end, number in zip(last, owner)],
                "episode_index": owner,
                "frame_index": [frame - starts[number] for frame, number in zip(frames, owner)],
                "index": frames,
            },
        )
    most = sum(LENGTHS) - 1
    (tmp_path / "meta/stats.json").write_text(json.dumps({"action": {"min": [0.0, 0.0], "max": [most, 10.0 * most]}}))
    describe(tmp_path)
    return tmp_path


def describe(folder, version="v3.0", **changed):
    info = {
        "codebase_version": version,
        "fps": FPS,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {key: value for key, value in (FEATURES | changed).items() if value},
    }
    (folder / "meta/info.json").write_text(json.dumps(info))


def test_frames_become_entries(recorded):
    """The action of frame t leads to entry t + 1, with its reward; films are read from where an episode begins."""
    source = open_source(str(recorded), EnvConfig(image_size=(16, 16)))
    assert source.lengths == [length + 1 for length in LENGTHS] and source.remark == ""
    assert set(source.spec.obs) == {"state", "images.front", "images.wrist"}
    assert source.spec.obs["images.front"].shape == (16, 16, 3)
    most, start = sum(LENGTHS) - 1, 0
    for number, episode in enumerate(source):
        frames = np.arange(start, start + LENGTHS[number])
        start += LENGTHS[number]
        seen = np.append(frames, frames[-1])
        np.testing.assert_array_equal(episode["obs/state"], np.stack([seen, -seen], 1))
        bright = np.broadcast_to(gray(seen)[:, None, None, None], (len(seen), 16, 16, 3))
        np.testing.assert_array_equal(episode["obs/images.wrist"], bright)
        assert np.abs(episode["obs/images.front"].astype(int) - bright).max() <= 3
        np.testing.assert_allclose(episode["action"][1:], np.repeat(2 * frames[:, None] / most - 1, 2, 1), atol=1e-6)
        np.testing.assert_array_equal(episode["reward"], [0, *frames])
        assert episode["is_terminal"].tolist() == [False] * (len(seen) - 1) + [number == 1]


def test_actions_lie_in_the_environments_bounds(recorded):
    """Those of its space where there is one, else ``action_bound``."""
    wide = spaces.Box(np.float32([-100, -1000]), np.float32([100, 1000]))
    acted = open_source(str(recorded), EnvConfig(), wide).read(1)["action"][1:]
    np.testing.assert_allclose(acted[:, 0], np.arange(5, 12) / 100, atol=1e-6)
    np.testing.assert_allclose(acted[:, 1], np.arange(5, 12) / 100, atol=1e-6)
    acted = open_source(str(recorded), EnvConfig(action_bound=200)).read(1)["action"][1:]
    np.testing.assert_allclose(acted[:, 0], np.arange(5, 12) / 200, atol=1e-6)
    with pytest.raises(DataError, match=r"episode 0: action: expected finite numbers of shape \(3,\)"):
        open_source(str(recorded), EnvConfig(), spaces.Box(-1, 1, (3,))).read(0)


def test_a_recording_without_rewards_says_so(recorded):
    describe(recorded, **{"next.reward": None, "next.success": None, "observation.images.front": None})
    source = open_source(str(recorded), EnvConfig())
    assert source.remark == "; it has no next.reward: every reward is 0"
    assert not source.read(1)["reward"].any() and not source.read(1)["is_terminal"].any()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: describe(folder, "v2.1"), "is a LeRobot dataset of the format v2.1, expected v3.0"),
        (lambda folder: describe(folder, action=None), "holds no actions: meta/info.json lists episode_index, "),
        (lambda folder: describe(folder, **{"observation.state": feature("float32", 3)}), "episode 0: cannot reshape"),
        (lambda folder: describe(folder, action=feature("float32", 3)), "cannot reshape"),
        (
            lambda folder: describe(folder, **{"observation.eye": FEATURES["observation.images.front"]}),
            "has no column 'videos/observation.eye/chunk_index'",
        ),
        (
            lambda folder: describe(folder, **{"observation.arm": feature("float32", 3)}),
            "has no column 'observation.arm'",
        ),
        (
            lambda folder: (folder / "data/chunk-000/file-000.parquet").write_bytes(b"no"),
            "is no table that can be read",
        ),
        (lambda folder: next(folder.glob("videos/*/*/file-000.mp4")).write_bytes(b"no"), "is no film that can be read"),
        (
            lambda folder: table(folder / "meta/episodes/chunk-000/file-000.parquet", {name: [] for name in EPISODE}),
            "holds no episode",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(recorded, spoil, message):
    spoil(recorded)
    with pytest.raises(DataError, match=message):
        open_source(str(recorded), EnvConfig()).read(0)


def test_a_film_that_ends_early_is_refused(recorded):
    film(next(recorded.glob("videos/*/*/file-001.mp4")), range(2))
    with pytest.raises(DataError, match=r"file-001.mp4 ends 2 pictures after 0 s, expected 4"):
        open_source(str(recorded), EnvConfig()).read(2)


def test_without_pyarrow_its_extra_is_named(recorded, without):
    without("pyarrow")
    with pytest.raises(MissingExtra, match=r"reading a LeRobot dataset needs(.|\n)*jaxdreamer\[data\]"):
        open_source(str(recorded), EnvConfig())


def test_an_agent_of_a_recording_alone_acts_in_its_units(recorded, tmp_path):
    run = tmp_path / "run"
    words = (
        "env=none",
        "backend=gym",
        "loop=auto",
        "action_repeat=1",
        "batch_length=3",
        "exclude=images.*",
        "frames=50",
    )
    World("host").toy(run, f"data={recorded}", *words)
    agent = load_agent(run, algorithm=toy.make)
    assert agent.action_space.high.tolist() == [15, 150]
    assert agent.action_space.contains(agent.act({"state": np.float32([1, 2])}, first=True))
