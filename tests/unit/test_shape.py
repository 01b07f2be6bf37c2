"""Real shapes with random weights: what is walked, what each chunk took, and what is said of it."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.shape import report
from benchmarks.shape.backbone import shaped
from benchmarks.shape.paper import LINGBOT, MATRIX, reported
from benchmarks.shape.plan import MODES, Plan
from benchmarks.shape.run import about, run
from benchmarks.shape.walk import Row, Walked
from services.generator.adapters.wan.variants import VARIANTS
from services.generator.step import HeldBytes, Seconds
from worldkv.errors import InvalidConfig, InvalidInput, UnknownCodec

GTA = Plan("matrix-game-2.0-gta", chunks=10, layers=1, grid=(4, 4), dtype="float32")
"""Twelve tokens a chunk, of which six are kept: six slots of them."""


def row(chunk: int, seconds: float = 0.5, **other: int) -> Row:
    sizes = {
        "window": 1 << 30,
        "hot": 0,
        "queued": 0,
        "stored": 0,
        "placed": 0,
        "device": 2 << 30,
        "recalled": 0,
        **other,
    }
    held = HeldBytes(*(sizes.pop(name) for name in HeldBytes._fields))
    return Row(chunk, seconds, Seconds(0.01, 0.02, 0.03, 0.04, 0.3, 0.05), 0.05, held, **sizes)


def told(plan: Plan) -> dict[str, Any]:
    return dict(json.loads(json.dumps(about(plan))))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "pocket"}, InvalidInput),
        ({"modes": ()}, InvalidInput),
        ({"modes": ("full", "full")}, InvalidInput),
        ({"modes": ("paged",)}, InvalidInput),
        ({"chunks": 0}, InvalidInput),
        ({"layers": 31}, InvalidInput),
        ({"grid": (3, 4)}, InvalidInput),
        ({"grid": (0, 4)}, InvalidInput),
        ({"device": "gpu"}, InvalidInput),
        ({"dtype": "float64"}, InvalidInput),
        ({"bank": "tape"}, InvalidInput),
        ({"keep": 1.5}, InvalidInput),
        ({"codec": "mp3"}, UnknownCodec),
        ({"recalled": 1}, InvalidInput),
        ({"placement": "late"}, InvalidConfig),
    ],
)
def test_a_plan_that_cannot_be_walked_is_refused_before_anything_is_made(change, error):
    with pytest.raises(error):
        replace(GTA, **change)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_plan_has_the_published_shape_unless_it_says_otherwise(name):
    plan, variant = Plan(name), VARIANTS[name]
    assert plan.variant == variant
    assert plan.spec == variant.spec("", "", variant.grid, "bfloat16")
    assert plan.window.frames(plan.spec.frames) == 6 * plan.spec.frames


@pytest.mark.slow
def test_random_weights_lie_on_the_device_in_their_dtype_and_keep_what_they_draw_finite():
    model = shaped(replace(GTA, dtype="bfloat16")).model
    assert {(each.dtype, each.device.type) for each in model.parameters()} == {(torch.bfloat16, "cpu")}
    weights = model.state_dict()["blocks.0.ffn.0.weight"].float()
    assert weights.std() * weights.shape[1] ** 0.5 == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_latents_are_decoded_where_that_is_asked_for():
    model = shaped(replace(GTA, decode=True))
    (pictures,), _ = model.vae.decode(torch.randn(1, 1, *model.spec.latent), [{}])
    assert pictures.shape == (1, 3, 32, 32)
    assert pictures.isfinite().all()


def test_the_paper_stands_beside_models_that_it_reports():
    assert reported("lingbot-world-fast-cam") == ("LingBot-World-Fast", LINGBOT)
    assert reported("matrix-game-2.0-gta") == ("Matrix-Game-2.0", MATRIX)
    assert reported("self-forcing") is None
    walks = [Walked("full", tuple(row(i, 0.1 * i) for i in range(1, 11))), Walked("worldkv", (row(1), row(2)))]
    page = report.markdown(told(GTA), walks)
    # Pictures a second at the end: 12 over 0.9 s, and over 0.5 s.
    assert "| full | 7.82 | 1.00 | 13.75 | 13.3 | 1.00 |" in page
    assert "| worldkv | 16.25 | 2.08 | 14.10 | 24 | 1.80 |" in page
    assert "project page" not in page
    assert "project page" in report.markdown(told(Plan("lingbot-world-fast-cam")), walks)


def test_a_walk_that_ended_early_says_why_and_leaves_its_cells_empty():
    walks = [Walked("full", (row(1),), "no room"), Walked("window", tuple(row(i) for i in range(1, 8)))]
    page = report.markdown(told(GTA), walks)
    assert "`full`: no room" in page
    assert "| 7 |  | 24 |" in page
    assert "no room at all" in report.markdown(told(GTA), [Walked("full", (), "no room at all")])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_modes_walk_at_reduced_depth_with_a_real_store_and_leave_their_figures(tmp_path):
    plan, seen = replace(GTA, codec="int8"), []
    found = {each.mode: each.rows for each in run(plan, tmp_path, lambda mode, row: seen.append((mode, row)))}
    assert [*found] == [*MODES]
    assert seen == [(mode, found[mode][i]) for i in range(10) for mode in MODES]
    assert all([row.chunk for row in rows] == [*range(1, 11)] for rows in found.values())
    chunk, window, full, memory = plan.spec.raw_bytes, found["window"], found["full"], found["worldkv"]
    assert window[-1].held.window == window[-2].held.window == 5 * chunk + 5 * chunk  # placed in a row, and uncoded
    assert full[-1].held.window == 16 * chunk + 10 * chunk
    assert memory[-1].held.window == memory[-2].held.window == 5 * chunk + 2 * chunk
    assert full[-1].placed == chunk
    assert chunk <= memory[-1].placed <= 4 * chunk  # the recent one, and what is recalled anew
    assert (memory[0].recalled, memory[-1].recalled) == (0, 6)
    assert memory[-1].held.hot <= 8 * chunk // 2
    assert 0 < memory[-1].held.stored <= 10 * chunk // 6  # half of the tokens at 8 of 32 bits and their scales
    for rows in found.values():
        for each in rows:
            assert 0 < sum(each.spent) + each.behind <= each.seconds
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [walk["mode"] for walk in kept["walks"]] == [*MODES]
    assert kept["walks"][2]["rows"][-1] == memory[-1].flat()
    assert "Matrix-Game-2.0" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_bank_on_the_device_holds_chunks_pruned_and_uncoded():
    plan = replace(GTA, bank="device", modes=("worldkv",))
    (walked,) = run(plan, None, lambda mode, row: None)
    assert [row.held.hot for row in walked.rows] == [n * plan.spec.raw_bytes // 2 for n in range(1, 11)]
    assert {row.held.stored for row in walked.rows} == {0}
    assert walked.rows[-1].recalled == 6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize("bank", ["host", "device"])
def test_an_accelerator_walks_as_a_processor_does(bank):
    plan = replace(GTA, device="cuda", dtype="bfloat16", bank=bank, codec="int4", decode=True)
    found = {each.mode: each for each in run(plan, None, lambda mode, row: None)}
    assert [each.trouble for each in found.values()] == ["", "", ""]
    assert found["worldkv"].rows[-1].recalled == 6
    assert all(0 < row.held.window < row.device for each in found.values() for row in each.rows)
