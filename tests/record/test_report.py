"""The page that ``jaxdreamer report`` writes: it holds everything, asks for nothing, and shows what the runs have."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxdreamer import cli
from jaxdreamer.config import ConfigError
from jaxdreamer.record import sessions
from jaxdreamer.record.bands import band
from jaxdreamer.record.pace import compact
from jaxdreamer.record.report import write_report
from jaxdreamer.record.svg import bar, chart
from jaxdreamer.train.metrics import sentence
from tests.record.runs import BEGAN, draw, write_run

RETURNS = {
    "four/seed-0": (1.0, 3.0, 2.0),
    "four/seed-1": (2.0, 5.0, 8.0),
    "four/seed-2": (0.0, 1.0, -4.0),
    "alone": (5.0, 6.0),
}


class Page(HTMLParser):
    """Elements with their attributes, cells of tables, and all text, by what a browser makes of the file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text, self.cell = "", False
        self.feed(text)

    @property
    def lines(self) -> dict[str, list[str]]:
        """The first row of each name."""
        return {row[0]: row for row in reversed(self.rows)}

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds that were drawn, and a run of another size on another machine."""
    folder = tmp_path_factory.mktemp("runs")
    for index, (name, returns) in enumerate(RETURNS.items()):
        if name == "alone":
            write_run(
                folder / name, "deter_size=99", returns=returns, finished=False, versions={"jax": "0.11.0"}, cores=64
            )
        else:
            draw(write_run(folder / name, f"seed={index}", "batch_length=8", returns=returns))
    return folder


@pytest.fixture(scope="module")
def written(runs):
    path = write_report([runs / "four", runs / "alone"], runs / "report.html", explain=sentence)
    return path.read_text()


def test_the_page_needs_nothing_but_itself(written):
    page = Page(written)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base", "a", "form"}
    assert "http:" not in written and "https:" not in written and "url(" not in written and "@import" not in written
    for _, attributes in page.elements:
        assert not {"href", "xlink:href", "srcset", "action", "poster"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:").startswith("data:")
    [policy] = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;") and "script" not in policy
    assert 'name="viewport"' in written and "prefers-color-scheme: dark" in written


def test_every_run_stands_in_the_summary(written):
    rows = Page(written).lines
    assert rows["four/seed-1"] == [
        "four/seed-1", "finished", "Pendulum-v1", "dreamer_v1,tiny", "1", "1,234", "300", "8", "8 at 300", "0:00:30"
    ]  # fmt: skip
    assert rows["alone"][:2] == ["alone", "stopped"] and rows["alone"][7:9] == ["6", "6 at 200"]
    assert "<title>Pendulum-v1: 4 runs</title>" in written


def test_curves_and_bands_are_those_of_the_runs(written):
    seeds = [list(zip((100, 200, 300), values)) for name, values in RETURNS.items() if name != "alone"]
    expected = band(seeds)
    card = written[written.index("<h3>eval/return</h3>") :]
    card = card[: card.index("</svg>")]
    [polygon] = re.findall(r'<polygon class="f0 band" points="([^"]*)"', card)
    places = np.array([point.split(",") for point in polygon.split()], float)
    values = np.concatenate([expected.high, expected.low[::-1]])
    # The chart is linear: a line through two of its points tells all others, to a tenth of a pixel.
    up = np.polyfit(values, places[:, 1], 1)
    np.testing.assert_allclose(np.polyval(up, values), places[:, 1], atol=0.06)
    assert up[0] < 0 and len(np.unique(values)) > 4
    across = np.polyfit([100, 200, 300, 300, 200, 100], places[:, 0], 1)
    for color, x, y in (("s0", expected.x, expected.center), ("s1", [100, 200], RETURNS["alone"])):
        [line] = re.findall(rf'<polyline class="{color}" points="([^"]*)"', card)
        found = np.array([point.split(",") for point in line.split()], float)
        np.testing.assert_allclose(found, np.stack([np.polyval(across, x), np.polyval(up, y)], 1), atol=0.11)
    text = Page(written).text
    assert "four (3 runs)" in text and "95 % bootstrap interval" in text
    assert "world-model loss, the sum of its terms" in text and "mean squared error of prediction" in text


def test_films_and_dreams_are_inside_with_labels(runs, written):
    page = Page(written)
    sources = [image["src"] for image in page.of("img")]
    for name in ("policy-000000000300.gif", "open_loop-image-000000000300.png"):
        data = (runs / "four" / "seed-0" / "videos" / name).read_bytes()
        assert f"data:image/{name[-3:]};base64,{base64.b64encode(data).decode()}" in sources
    assert len(sources) == 6
    dream = Page(written[written.index('<figure class="wide"') :].partition("</figure>")[0])
    assert dream.text == "shown to it (2)predicted (4)" + "truthmodelerror" * 2 + "four/seed-0: image at 300 frames"
    assert [item["style"] for item in dream.of("span")[:2]] == ["flex:2", "flex:4"]


def test_settings_that_differ_versions_and_hardware(written):
    rows = {name: row[1:] for name, row in Page(written).lines.items()}
    assert rows["model.deter_size"] == ["16", "16", "16", "99"] and rows["seed"] == ["0", "1", "2", "0"]
    assert "replay.batch_length" not in rows and "model.units" not in rows  # the same in all
    assert rows["jax"] == ["0.10.2"] * 3 + ["0.11.0"] and rows["cores"] == ["2"] * 3 + ["64"]
    assert "deter_size: 99" in Page(written).text  # all of them are there, folded away


def test_the_time_is_split_by_what_it_went_into(written):
    """Two lines ten seconds apart each: half the time learned, and 0.3 and 0.4 of it collected."""
    text = Page(written).text
    assert "environments 35%learning 50%compiling and the rest 15%" in text
    rows = [row for row in Page(written).rows if row[0] == "four/seed-0"]
    assert ["four/seed-0", "10", "1", "0:00:30"] in rows  # 300 frames and 30 updates


def test_runs_of_one_configuration_are_grouped_by_it_and_averaged_as_asked(runs):
    text = write_report(
        [runs / "four", runs / "alone"], runs / "a.html", by=["preset"], center="iqm", title="Mine"
    ).read_text()
    assert "dreamer_v1,tiny (4 runs)" in text and "interquartile mean of a group" in text and "<h1>Mine</h1>" in text


def test_nothing_in_a_run_becomes_a_part_of_the_page(tmp_path):
    """A run may come from somebody else."""
    evil = "<img src=x onerror=alert(1)>"
    run = draw(write_run(tmp_path / evil, f"env={evil}</pre><script>alert(2)", f'exclude="{evil}"'))
    sessions.append(run.sessions, {"time": BEGAN + 1, "versions": {evil: evil}, "device": evil})
    with open(run.metrics, "a") as file:
        file.write(f'{{"env_frames": 400, "</svg>{evil}": 1.0, "time/unix": {BEGAN}}}\n'.replace('"alert', "alert"))
    text = write_report([run.path], tmp_path / "a.html", title=f"{evil}\x1b[31m\udcff").read_text()
    assert evil not in text and "<script" not in text and "\x1b" not in text
    assert {image["src"][:10] for image in Page(text).of("img")} == {"data:image"}


def test_what_cannot_be_shown_is_left_out_by_name(tmp_path):
    run = draw(write_run(tmp_path / "a", "batch_length=8"))
    (run.videos / "policy-000000000300.gif").write_bytes(b"<html>")
    (run.videos / "open_loop-image-000000000400.png").write_bytes(b"")
    text = Page(write_report([run.path], tmp_path / "a.html").read_text()).text
    assert re.search(r"policy at 300 frames: left out, as .*policy-000000000300\.gif is no GIF", text)
    assert re.search(r"image at 400 frames: left out, as .*is no PNG", text)
    # A picture of another size than the agent's images has no rows to name.
    (run.videos / "open_loop-image-000000000400.png").unlink()
    run.spec.write_text(run.spec.read_text().replace("10,", "7,"))
    assert "which are no sequences of 7x8" in Page(write_report([run.path], tmp_path / "a.html").read_text()).text


def test_a_broken_run_and_one_that_has_just_begun_are_in_the_report_too(tmp_path):
    (write_run(tmp_path / "broken").config).write_text("{")
    write_run(tmp_path / "new", returns=()).metrics.write_text("")
    page = Page(write_report([tmp_path / "broken", tmp_path / "new"], tmp_path / "a.html").read_text())
    assert re.search(r"broken is broken: .*config\.json is not valid JSON", page.text)
    assert page.lines["broken"][1] == "broken" and page.lines["new"][1] == "finished"
    assert "Nothing has been measured yet." in page.text and "No run has a film" in page.text


def test_a_file_that_is_no_page_and_a_run_that_is_not_there_are_told(tmp_path, capsys):
    write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"a report is \.html, found .*a\.pdf"):
        write_report([tmp_path / "a"], tmp_path / "a.pdf")
    assert cli.main(["report", str(tmp_path / "no")]) == 2
    assert "holds no metrics.jsonl: give run folders" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "a"), "--out", str(tmp_path / "new" / "a.html")]) == 0
    assert re.search(r"a\.html \(0\.\d MB\): open it in a browser", capsys.readouterr().out)


def test_axes_have_round_numbers():
    text = chart({"a": band([[(0, -1234.0), (49_000, -98.0)]])}, ["a"], "env frames", "return")
    ticks = re.findall(r'<text class="tick"[^>]*>([^<]*)<', text)
    assert ticks == ["-1.2k", "-1k", "-800", "-600", "-400", "-200", "0", "10k", "20k", "30k", "40k"]
    flat = chart({"a": band([[(5, 2.0)]]), "b": band([[(5, 2.0)], [(7, 2.0)]])}, ["a", "b"], "env frames", "return")
    assert flat.count("<circle") == 2 and "nan" not in flat
    assert [compact(value) for value in (0, 0.03, 1_500, 2e6, -3e9)] == ["0", "0.03", "1.5k", "2M", "-3G"]


def test_a_bar_is_as_long_as_its_shares():
    rectangles = re.findall(r'x="([\d.]+)" width="([\d.]+)"', bar({"a": 0.5, "b": 0.25}))
    assert [tuple(map(float, pair)) for pair in rectangles] == [(0, 50), (50, 25)]


def test_dreamed_returns_are_not_taken_for_returns():
    assert sentence("imagined/return").startswith("mean lambda-return of dreamed sequences")
    assert sentence("train/return").startswith("mean sum of an episode's rewards")


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--hide-scrollbars", "--window-size=1000,1600")  # fmt: skip


def opened(text, folder):
    """Whom a browser asks that opens a page from a file, by its own log of the network, and its picture of the window."""
    folder.mkdir()
    page, log, seen = folder / "page.html", folder / "network.json", folder / "seen.png"
    page.write_text(text)
    words = [f"--user-data-dir={folder / 'user'}", f"--log-net-log={log}", f"--screenshot={seen}", page.as_uri()]
    subprocess.run([BROWSER, *QUIET, *words], check=True, capture_output=True, timeout=120)
    with Image.open(seen) as picture:
        picture.load()
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/"]+)', log.read_text()))
    return {host for host in hosts if not host.endswith((".google.com", ".googleapis.com"))}, picture  # its own


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium")
def test_a_browser_draws_it_from_the_file_and_asks_nobody(written, tmp_path):
    asked, seen = opened(written, tmp_path / "page")
    assert not asked and seen.size == (1000, 1600)
    assert len(seen.convert("RGB").quantize(64).getcolors()) > 8, "the window is almost empty"
    asked, _ = opened('<img src="http://127.0.0.1:9/picture.png">', tmp_path / "other")
    assert asked == {"127.0.0.1:9"}
