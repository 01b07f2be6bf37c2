import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from pocket.rooms import Renderer
from services.generator.demo import closing_table
from services.generator.recording import ChunkLog, Recording
from services.generator.report.charts import bytes_chart, fps_chart, psnr_chart
from services.generator.report.comparison import MODES, Comparison, end_fps, generated
from services.generator.report.files import replacing
from services.generator.report.html import DASH, Exhibit, page, tiles, write_page
from services.generator.report.matrix import markdown, standard_error, tabulate
from services.generator.report.picture import HEIGHT, WIDTH, Film
from services.generator.report.plan import Plan, outline, sight
from services.generator.report.results import (
    Results,
    WalkResult,
    environment,
    gain_of,
    measure,
    read_results,
    summarise,
    write_results,
)
from services.generator.report.sheet import pick, sheet
from services.generator.report.video import write_video
from services.generator.report.writing import write_exhibit, write_report
from services.generator.scenarios import SCENARIOS
from worldkv.errors import InvalidInput
from worldkv.pose import camera

GAP = 18
NOISE = {"window": 90.0, "full": 12.0, "worldkv": 10.0}


def record(name: str, mode: str) -> Recording:
    """The truth with noise in place of a model, in small pictures."""
    s = SCENARIOS[name](0)
    poses = np.stack([w.pose for w in s.walkers])[: s.shown + 24]
    render = Renderer([s.rooms], 12, 16, supersample=1)
    drawn = render(torch.zeros(len(poses), dtype=torch.int64), torch.from_numpy(poses))[0]
    truth = (drawn.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    noise = (
        np.random.default_rng(0).normal(0, NOISE[mode], truth.shape)
        * (np.arange(len(poses)) >= s.shown)[:, None, None, None]
    )
    chunks = tuple(
        ChunkLog(
            i,
            (1, 2) if mode == "worldkv" and i > 4 else (),
            0.1 + (i / 50 if mode == "full" else 0),
            0.01,
            10,
            1000 * (i + 1),
        )
        for i in range(len(poses) // 3)
    )
    pictures = np.clip(truth + noise, 0, 255).astype(np.uint8)
    return Recording(name, 0, mode, s.rooms, truth, pictures, poses, s.shown, chunks)


@cache
def comparison(name: str = "pan180") -> Comparison:
    return Comparison(tuple(record(name, mode) for mode in MODES), GAP)


@cache
def results(*names: str) -> Results:
    walks = tuple(measure(w, GAP) for name in names for w in comparison(name).walks)
    return Results(
        command="worldkv demo <b>&</b>",
        created="today",
        seconds=1.0,
        gap=GAP,
        environment=environment(),
        model={"name": "pocket"},
        left_out=("door, seed 7",),
        rows=summarise(walks),
        walks=walks,
    )


@pytest.fixture(scope="module")
def exhibits(tmp_path_factory: pytest.TempPathFactory) -> list[Exhibit]:
    out = tmp_path_factory.mktemp("report")
    one, other = comparison("pan90"), comparison("never returns")
    brief = replace(other, walks=tuple(_cut(w, other.shown + 6) for w in other.walks))
    return [write_exhibit(out, one), write_exhibit(out, brief)]


@pytest.fixture(scope="module")
def written(exhibits: list[Exhibit]) -> Path:
    """A whole report of two walks."""
    out = exhibits[0].sheet.parent
    write_report(out, results("pan90", "never returns"), exhibits)
    return out


def _cut(walk: Recording, frames: int) -> Recording:
    parts = {name: getattr(walk, name)[:frames] for name in ("truth", "pictures", "poses")}
    return replace(walk, **parts, chunks=walk.chunks[: frames // 3])


@pytest.mark.slow
def test_a_report_is_made_of_whole_files(written):
    names = {"report.html", "results.json", "contact.png"}
    names |= {f"{stem}.{kind}" for stem in ("pan90", "never-returns") for kind in ("png", "mp4")}
    assert {p.name for p in written.iterdir()} == names


@pytest.mark.slow
def test_a_film_plays_every_frame(written):
    with av.open(str(written / "pan90.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, float(stream.average_rate)) == (WIDTH, HEIGHT, 7.0)
        assert sum(1 for _ in film.decode(video=0)) == comparison("pan90").frames


def test_a_page_asks_nothing_of_the_network(written):
    page_text = (written / "report.html").read_text()
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r'"data:[^"]*"', '""', page_text))
    sources = re.findall(r'(?:src|href)="([^"#]{1,40})', page_text)
    assert all(s.startswith("data:") or s == "results.json" for s in sources)


def test_a_page_escapes_what_it_is_given(written):
    page_text = (written / "report.html").read_text()
    assert "<b>&</b>" not in page_text
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in page_text


def test_a_page_describes_its_pictures_and_fits_dark_and_light(written):
    page_text = (written / "report.html").read_text()
    assert page_text.count("<img ") == page_text.count('alt="Contact sheet')
    assert "prefers-color-scheme: dark" in page_text
    assert 'name="viewport"' in page_text
    assert "door, seed 7" in page_text


def test_a_large_film_stays_beside_the_page(exhibits, tmp_path, monkeypatch):
    monkeypatch.setattr("services.generator.report.html.INLINE_VIDEO", 10)
    write_page(tmp_path / "report.html", results("never returns"), exhibits)
    assert 'src="never-returns.mp4"' in (tmp_path / "report.html").read_text()


def test_results_come_back_as_they_were_written(tmp_path):
    before = results("pan180", "never returns")
    write_results(tmp_path / "results.json", before)
    assert read_results(tmp_path / "results.json") == before


@pytest.mark.parametrize("text", ['{"schema": "worldkv.results/999"}', "[]", "{}"])
def test_results_of_another_schema_are_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InvalidInput, match="expected results of schema"):
        read_results(tmp_path / "results.json")


def test_results_hold_no_nan(written):
    def refuse(name: str) -> float:
        raise AssertionError(name)

    data = json.loads((written / "results.json").read_text(), parse_constant=refuse)
    lost = [w for w in data["walks"] if w["scenario"] == "never returns"]
    assert {w["truth_psnr"] for w in lost} == {None}


def test_a_file_that_failed_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("ha")
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_film_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one picture"):
        write_video(tmp_path / "a.mp4", [])
    assert not list(tmp_path.iterdir())


def test_a_gain_is_given_where_full_beats_the_window_by_far():
    rows = {r.mode: r for r in results("pan180").rows}
    assert rows["worldkv"].gain is not None
    assert rows["worldkv"].gain > 1
    assert rows["window"].gain is None


@pytest.mark.parametrize(
    ("levels", "why"),
    [((20.0, 18.0, 20.0), "only 2.0 dB"), ((None, 18.0, 25.0), "nothing"), ((20.0, None, 25.0), "not both")],
)
def test_a_missing_gain_has_a_reason(levels, why):
    gain, reason = gain_of(*levels)
    assert gain is None
    assert why in reason


def test_a_row_without_revisits_is_all_dashes():
    rows = page(results("never returns"), [])["rows"]
    assert {r["truth_psnr"] for r in rows} == {r["gain"] for r in rows} == {DASH}


def test_tiles_name_the_lift_the_gain_and_the_cost():
    values = [t["value"] for t in tiles(results("pan180").rows)]
    assert len(values) == 4
    assert values[0].startswith("+")


def test_speed_at_the_end_is_that_of_generated_chunks():
    walk = record("pan180", "window")
    assert end_fps(walk) == pytest.approx(30.0)
    assert [log.index for log in generated(walk)] == list(range(walk.shown // 3, len(walk.chunks)))


def test_recordings_of_two_walks_are_not_compared():
    with pytest.raises(InvalidInput, match="of one walk"):
        Comparison((record("pan90", "window"), record("pan180", "full")), GAP)


def test_a_picture_has_the_films_size_even_where_a_mode_is_missing():
    c = replace(comparison(), walks=comparison().walks[2:])
    assert {Film(c).draw(i).size for i in (0, c.frames - 1)} == {(WIDTH, HEIGHT)}


def test_recalled_chunks_are_lit_on_the_plan():
    walk = record("pan180", "worldkv")
    dark = replace(walk, chunks=tuple(log._replace(recalled=()) for log in walk.chunks))
    lit, unlit = (np.asarray(Plan(w, 200).draw(40), int) for w in (walk, dark))
    changed = np.abs(lit - unlit).sum(-1) > 60
    assert changed.mean() > 0.01
    assert (lit[changed][:, 0] > lit[changed][:, 2]).mean() > 0.9  # yellow: more red than blue


def test_the_window_on_the_plan_is_sink_and_recent():
    plan = Plan(record("pan180", "worldkv"), 100)
    assert plan.in_window(0) == set()
    assert plan.in_window(1) == {0}
    assert plan.in_window(9) == {0, 8}


def test_views_end_at_walls():
    rooms = SCENARIOS["pan90"](0).rooms
    assert sight(rooms, 0.5, 6.0, np.array([-np.pi / 2])) == pytest.approx([0.5])
    points = outline(rooms, camera(0.5, 0, 0.5, 225.0))
    assert len(points) == 34
    assert min(min(p) for p in points) >= -1e-6


def test_a_sheet_has_shown_frames_then_revisits():
    early, later = pick(comparison())
    assert max(early) < comparison().shown <= min(later)
    assert set(later) <= comparison().revisits.keys()
    assert isinstance(sheet(comparison()), Image.Image)


@pytest.mark.parametrize("chart", [fps_chart, bytes_chart, psnr_chart])
def test_charts_take_their_colours_from_the_page(chart):
    svg = chart(comparison())
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert not re.search(r"http|font-family|<style", svg)


def test_the_closing_table_has_a_line_a_walk():
    assert closing_table(results("pan180", "never returns").rows).row_count == 2


def test_a_matrix_compares_the_same_seeds():
    def walk(seed: int, mode: str, psnr: float) -> WalkResult:
        return replace(results("pan180").walks[0], seed=seed, mode=mode, truth_psnr=psnr)

    levels = {"window": (10.0, 20.0), "full": (20.0, 30.0), "worldkv": (19.0, 29.0), "codec=int3": (18.5, 28.5)}
    cells = {c.variant: c for c in tabulate([walk(s, m, v[s]) for m, v in levels.items() for s in (0, 1)], "worldkv")}
    assert cells["codec=int3"].over == pytest.approx(-0.5)
    assert cells["codec=int3"].over_error == pytest.approx(0.0)
    assert cells["codec=int3"].gain == pytest.approx(0.85)
    assert cells["worldkv"].error == pytest.approx(5.0)
    text = markdown(list(cells.values()), "worldkv eval --matrix", "worldkv", ["here"])
    assert "| codec=int3 | 2 | 23.50 ± 5.00 |" in text
    assert "| **worldkv** |" in text


def test_a_standard_error_needs_two_values():
    assert standard_error([1.0]) is None
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
