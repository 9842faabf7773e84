import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxdreamer.config import ConfigError, MissingExtra
from jaxdreamer.record.bands import band
from jaxdreamer.record.metrics import MetricsLog
from jaxdreamer.record.plot import draw, grouped, read_curves, unit_of
from jaxdreamer.record.video import open_loop_image, open_loop_video, save_image, save_video
from jaxdreamer.saving import StorageError


def film(steps=7, height=10, width=13):
    return np.random.default_rng(0).integers(0, 255, (steps, height, width, 3), dtype=np.uint8)


def test_gif_needs_no_extra(tmp_path, monkeypatch):
    for name in ("imageio", "imageio.v2", "imageio_ffmpeg"):
        monkeypatch.setitem(sys.modules, name, None)
    path = save_video(tmp_path / "eval" / "a.gif", film(), fps=10)
    with Image.open(path) as image:
        assert (image.n_frames, image.size, image.info["duration"]) == (7, (13, 10), 100)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.gif"]
    save_video(tmp_path / "gray.gif", film()[..., :1])
    with pytest.raises(MissingExtra, match=r"pip install 'jaxdreamer\[video\]'"):
        save_video(tmp_path / "a.mp4", film())


def test_mp4_of_odd_size(tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    forks = []
    os.register_at_fork(before=lambda: forks.append(1))
    frames = np.zeros((9, 17, 33, 3), np.uint8)
    frames[5:, :, :, 1] = 200
    path = save_video(tmp_path / "a.mp4", frames, fps=10)
    raw = subprocess.run([ffmpeg, "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
    shown = np.frombuffer(raw.stdout, np.uint8).reshape(-1, 18, 34, 3)
    assert len(shown) == 9
    assert abs(shown[:5].astype(int)).max() < 20 and abs(shown[5:, ..., 1].astype(int) - 200).max() < 20
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]
    assert not forks  # forking a process with jax in it can deadlock
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nothing"))
    with pytest.raises(MissingExtra, match="needs ffmpeg"):
        save_video(tmp_path / "b.mp4", frames)


def test_wrong_films_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        save_video(tmp_path / "a.avi", film())
    with pytest.raises(ValueError, match="uint8, found float64"):
        save_video(tmp_path / "a.gif", film() / 255)
    with pytest.raises(ValueError, match="no frames"):
        save_video(tmp_path / "a.gif", film()[:0])


def test_image_round_trip(tmp_path):
    picture = film()[0]
    with Image.open(save_image(tmp_path / "deep" / "a.png", picture)) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_open_loop_picture_and_film():
    truth = film(5, 4, 6)
    model = truth.copy()
    model[3] = np.where(truth[3] > 127, truth[3] - 100, truth[3] + 100)
    picture = open_loop_image(truth, model[:2], model[2:])
    assert picture.shape == (3 * 4 + 2, 5 * 6 + 2, 3) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:4, :6], truth[0])
    np.testing.assert_array_equal(picture[:4, 12:14], 255)  # the context ends after two
    np.testing.assert_array_equal(picture[5:9, 20:26], model[3])
    error = picture[10:, :]
    assert (error[:, :12] == 127).all() and (error[:, 14:20] == 127).all()
    assert (abs(error[:, 20:26].astype(int) - 127) >= 49).all()
    frames = open_loop_video(truth / 255.0, model[:2] / 255.0, model[2:] / 255.0)
    assert frames.shape == (5, 14, 6, 3)
    np.testing.assert_array_equal(frames[3, 5:9], model[3])
    assert frames[1, 4, 0].tolist() == [0, 255, 0] and frames[2, 4, 0].tolist() == [255, 0, 0]
    assert open_loop_image(truth[..., :1], model[:2, ..., :1], model[2:, ..., :1]).shape == picture.shape
    with pytest.raises(ValueError, match="must be equal"):
        open_loop_image(truth, model[:2], model[3:])


def banded(curves):
    return {name: band([points]) for name, points in curves.items()}


def test_curves(tmp_path):
    pytest.importorskip("matplotlib")
    for name in "ab":
        with MetricsLog(tmp_path / name / "metrics.jsonl") as log:
            for step in range(5):
                scalars = {"eval/return": step**2} if step % 2 else {"loss": step}
                log.write(scalars, agent_steps=step, env_frames=step, updates=step)
    curves = read_curves([tmp_path / "a", tmp_path / "b" / "metrics.jsonl"])
    path = draw(banded(curves), tmp_path / "plots" / "a.png", title="$a_{b$")
    with Image.open(path) as image:
        assert image.size == (800, 500) and len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    with pytest.raises(ValueError, match=r"no values of 'eval/score'.*eval/return"):
        read_curves([tmp_path / "a"], y="eval/score")
    with pytest.raises(ValueError, match="no run folder"):
        read_curves([])


@pytest.mark.parametrize("channels", [2, 4, 9, 12])
def test_of_stacked_frames_the_last_is_shown(tmp_path, channels):
    shown = 3 if channels % 3 == 0 else 1
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, (5, 4, 6, channels), dtype=np.uint8)
    newest = truth[..., -shown:]
    np.testing.assert_array_equal(
        open_loop_image(truth, truth[:2], truth[2:]), open_loop_image(newest, newest[:2], newest[2:])
    )
    with Image.open(save_image(tmp_path / "a.png", truth[0])) as image:
        np.testing.assert_array_equal(np.asarray(image), np.broadcast_to(newest[0], (4, 6, 3)))
    save_video(tmp_path / "a.gif", truth)


def write_run(folder, values):
    with MetricsLog(folder / "metrics.jsonl") as log:
        for step, value in enumerate(values):
            log.write({"eval/return": value}, agent_steps=step, env_frames=step, updates=step)
    (folder / "config.json").write_text("{}")


def test_curves_of_several_seeds_and_of_folders_of_one_name(tmp_path, monkeypatch):
    for seed in (0, 2, 10):
        write_run(tmp_path / "four" / f"seed-{seed}", [seed, 1])
    write_run(tmp_path / "a" / "run", [1, 2])
    write_run(tmp_path / "b" / "run", [1, 2])
    assert list(read_curves([tmp_path / "four"])) == ["four/seed-0", "four/seed-2", "four/seed-10"]
    assert list(read_curves([tmp_path / "four" / "seed-2"])) == ["four/seed-2"]
    assert list(read_curves([tmp_path / "a" / "run", tmp_path / "b" / "run"])) == ["a/run", "b/run"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_curves(["~/a/run"]) == {"run": [(0, 1), (1, 2)]}


def test_odd_names_are_drawn_and_odd_pictures_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    curves = {"_hidden": [(0, 1), (1, 2)], "$a_{b$": [(0, 1)]}
    assert draw(banded(curves), tmp_path / "new" / "A.PNG").exists()
    with pytest.raises(ConfigError, match=r"\.png, \.svg, \.pdf, found .*curve\.gif"):
        draw(banded(curves), tmp_path / "curve.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="there is a file where a folder is needed"):
        draw(banded(curves), tmp_path / "file" / "curve.png")


@pytest.mark.parametrize("name", [b"bad\xff", b"new\nline", b"x" * 255, b"_$a$", b"\x1b[31m"])
def test_a_curve_is_drawn_whatever_its_folder_is_called(tmp_path, name):
    pytest.importorskip("matplotlib")
    folder = tmp_path / os.fsdecode(name)
    write_run(folder, [1, 2])
    assert draw(
        banded(read_curves([folder])), tmp_path / "a.png"
    ).exists()  # a warning of matplotlib's is an error here


def test_runs_are_grouped_by_folder_or_by_their_settings(tmp_path):
    for seed in (0, 2):
        write_run(tmp_path / "four" / f"seed-{seed}", [seed, 1])
    for name, config in (("a", '{"preset": "classic"}'), ("b", '{"preset": "classic", "deter_size": 7}'), ("c", "{}")):
        write_run(tmp_path / name, [1, 2])
        (tmp_path / name / "config.json").write_text(config)
    runs = [tmp_path / name for name in ("four", "a", "b", "c")]
    names = {group: list(inside) for group, inside in grouped([*runs, tmp_path / "a"]).items()}
    one = {name: [name] for name in "abc"}
    assert {group.rpartition("/")[2]: [name.rpartition("/")[2] for name in inside] for group, inside in names.items()} == {
        "four": ["seed-0", "seed-2"], **one
    }  # fmt: skip
    assert {group: len(inside) for group, inside in grouped(runs, ["preset"]).items()} == {
        "dreamer_v1": 3,
        "classic": 2,
    }
    both = grouped(runs, ["env.id", "deter-size"])
    assert {group: len(inside) for group, inside in both.items()} == {
        "Pendulum-v1, deter_size=200": 3, "Pendulum-v1, deter_size=128": 1, "Pendulum-v1, deter_size=7": 1
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"unknown setting 'presett' \(did you mean preset"):
        grouped(runs, ["presett"])
    with pytest.raises(ConfigError, match=r"has no env\.brax_backend: it is an option of another env\.backend"):
        grouped(runs, ["brax_backend"])


def test_a_seeds_folder_given_alone_is_a_run_like_any_other(tmp_path, monkeypatch):
    for seed in (0, 1):
        write_run(tmp_path / "four" / f"seed-{seed}", [seed, 1])
    monkeypatch.chdir(tmp_path)
    assert list(grouped(["four/seed-1"])) == list(grouped(["four/seed-1/metrics.jsonl"])) == ["four/seed-1"]
    assert {group: list(runs) for group, runs in grouped(["four"]).items()} == {"four": ["four/seed-0", "four/seed-1"]}
    assert {group: list(runs) for group, runs in grouped([tmp_path / "four" / "seed-1"]).items()} == {
        "four/seed-1": ["four/seed-1"]
    }


def test_a_picture_of_bands_says_what_it_shows(tmp_path):
    pytest.importorskip("matplotlib")
    bands = {"four": band([[(0, 1), (9e5, 2)], [(0, 3), (9e5, 5)]], "iqm"), "once": band([[(5, 1)], [(5, 3)]])}
    text = draw(bands, tmp_path / "a.svg", title="Pendulum <1>", center="iqm").read_text()
    for said in ("env frames", "eval/return [the environment's own units]", "four (2 runs)", "Pendulum &lt;1&gt;",
                 "interquartile mean and its 95 % bootstrap interval", "800k"):  # fmt: skip
        assert f"<!-- {said} -->" in text, said  # matplotlib writes its texts beside their outlines
    assert unit_of("kl") == "nats" and unit_of("train/return_std") == "the environment's own units"
    assert unit_of("loss/model") == ""
