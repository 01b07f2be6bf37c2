import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.models import PARAMETERS
from pocket.weights_file import SHIPPED, load
from services.generator.adapters.pocket import PocketWorldModel
from services.generator.adapters.wan.state import no_past
from services.generator.adapters.wan.variants import VARIANTS
from services.generator.config import MemorySettings
from services.generator.engine.admission import needs
from services.generator.engine.config import EngineConfig
from services.generator.session import SessionConfig
from services.kvstore.ram import RamConfig
from tests.unit.test_cli import run
from worldkv import plan as p
from worldkv.chunk import ChunkKey, Meta, ModelSpec, Part, new_branch
from worldkv.codec import CODECS, codec
from worldkv.coding import Coding, coded_bytes
from worldkv.errors import InvalidInput, NotFound, UnknownCodec
from worldkv.plan.formulas import HEAD_BYTES, stored_tokens
from worldkv.prune import Pruning
from worldkv.window import WindowConfig

LINGBOT, MATRIX, POCKET = p.shape("lingbot-14b"), p.shape("matrix-game-2.0"), p.shape("pocket")
WAN = [each for each in p.SHAPES.values() if each.variant in VARIANTS]


def spec_of(shape: p.Shape) -> ModelSpec:
    return VARIANTS[shape.variant].spec("00", "00", shape.latent[1:], "bfloat16")


def test_every_adapter_can_be_planned_for():
    assert {each.variant for each in p.SHAPES.values()} == {*VARIANTS, "pocket"}


@pytest.mark.parametrize("shape", WAN, ids=lambda each: each.name)
def test_shapes_are_the_adapters(shape):
    spec, backbone = spec_of(shape), VARIANTS[shape.variant].backbone
    assert (shape.layers, shape.heads, shape.head_dim) == (spec.layers, spec.heads, spec.head_dim)
    assert (shape.frame_tokens, shape.frames, shape.latent) == (spec.frame_tokens, spec.frames, spec.latent)
    assert p.raw_bytes(shape) == spec.raw_bytes
    caches = no_past(backbone, shape.frame_tokens, "meta", torch.bfloat16)
    assert shape.actions_bytes == sum(each.numel() * each.element_size() for each in caches)
    assert shape.parameters == PARAMETERS.get(shape.variant, shape.parameters)


def test_the_pocket_model_is_as_it_is_planned_for():
    model = PocketWorldModel.load()
    spec = model.spec
    assert (POCKET.layers, POCKET.heads, POCKET.head_dim) == (spec.layers, spec.heads, spec.head_dim)
    assert (POCKET.frame_tokens, POCKET.frames, POCKET.latent) == (spec.frame_tokens, spec.frames, spec.latent)
    assert p.raw_bytes(POCKET) == spec.raw_bytes
    assert POCKET.parameters == sum(each.numel() for each in load(SHIPPED)[0].parameters())
    assert MemorySettings().codec == POCKET.codec
    window = WindowConfig()
    assert POCKET.window == (window.sink, window.recalled, window.recent)
    for name in model.codecs:
        coding = MemorySettings(codec=name).coding(model)
        assert p.stored_bytes(POCKET, 1.0, name) == coded_bytes(coding, spec)


@pytest.mark.parametrize("name", [*CODECS, "int4/32", "int8/256"])
@pytest.mark.parametrize("keep", [0.0, 0.07, 0.25, 1.0])
@pytest.mark.parametrize("shape", WAN[::3], ids=lambda each: each.name)
def test_stored_bytes_are_the_codecs(shape, keep, name):
    assert p.stored_bytes(shape, keep, name) == coded_bytes(Coding(name, name, Pruning(keep)), spec_of(shape))
    assert codec(name).name == name


@pytest.mark.parametrize("keep", [0.25, 1.0])
@pytest.mark.parametrize("shape", [LINGBOT, MATRIX, p.shape("lingbot-v2-1.3b")], ids=lambda each: each.name)
def test_what_a_session_takes_is_what_it_is_admitted_for(shape, keep):
    window = WindowConfig(*shape.window)
    wanted = needs(spec_of(shape), SessionConfig(window=window), Coding("raw", "raw", Pruning(keep)))
    more = 2 * p.raw_bytes(shape) + shape.actions_bytes + shape.decoder_bytes
    assert p.session_gpu_bytes(shape, keep) == wanted.row + wanted.held + more


def test_the_numbers_that_everybody_knows():
    assert p.raw_bytes(LINGBOT) == 3_833_856_000
    assert p.stored_bytes(LINGBOT, 0.25, "raw") == 1_916_928_000
    assert p.raw_bytes(MATRIX) == 486_604_800
    assert p.stored_bytes(MATRIX, 0.25, "raw") == 243_302_400
    assert p.recalled_chunks(MATRIX, 0.25) == 6
    assert (LINGBOT.chunk_seconds, MATRIX.chunk_seconds) == (0.75, 0.48)
    # 40 layers, keys and values, 4680 tokens of 5120 channels: 80 groups of 4 bytes of scale and 32 of numbers.
    assert p.stored_bytes(LINGBOT, 1.0, "int4") == 40 * 2 * 4680 * 80 * 36
    assert p.chunk_count(LINGBOT, 600) == 800
    assert p.part_bytes(LINGBOT) == 3 * (16 * 60 * 104 * 2 + 128) + HEAD_BYTES
    # 3 of 3 chunks, one in 2.7 fetched, a quarter of that in vain, every 0.75 s.
    assert p.fetched_rate(LINGBOT, 1.0, "raw", delta=3, waste=0.25) == pytest.approx(3_833_856_000 / 0.75 / 0.75)


def test_a_part_is_at_most_what_is_planned_for_it():
    from worldkv.format import encode_part

    model = PocketWorldModel.load()
    lead = b"x" * 900  # conditioning of the largest model is some hundred bytes
    poses, latents = torch.eye(4).repeat(3, 1, 1).double().numpy(), torch.zeros(3, 3, 72, 96).half().numpy()
    meta = Meta(ChunkKey(new_branch(), 10**6), model.spec.digest, 3 * 10**6, poses, 1.1, 0.75)
    size = encode_part(Part(meta, latents, lead)).nbytes
    assert 0.97 * p.part_bytes(POCKET) < size <= p.part_bytes(POCKET)


def total(load: p.Workload) -> dict[str, Any]:
    return {f"{each.part} {each.what}": each.total for each in p.plan(load)}


def test_a_worked_sum():
    found = total(p.Workload(MATRIX, sessions=10, minutes=8, keep=0.25, codec="raw", shard_bytes=10**12))
    chunks, part = 1000, 3 * (16 * 44 * 80 * 2 + 128) + 2048
    kv = 486_604_800 + 999 * 243_302_400
    assert found["worlds chunks"] == 10 * chunks
    assert found["worlds keys and values"] == 10 * kv
    assert found["kvstore RAM"] == pytest.approx(10 * (kv + chunks * part) / 0.99, abs=10)
    assert found["kvstore shards"] == 3
    assert found["redis memory, at least"] == pytest.approx(11.7 * chunks * part, abs=10)
    assert found["generator sessions of a GPU"] == int(
        (0.9 * (80 << 30) - 2 * 1_619_242_304) / (5_608_389_120 + 12 * 243_302_400)
    )
    assert found["generator GPUs"] == 2
    assert found["retriever memory"] == 10 * chunks * 529


@given(
    st.sampled_from(sorted(p.SHAPES)),
    st.integers(1, 500),
    st.floats(0.1, 120),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.floats(0, 1),
)
def test_more_of_anything_never_takes_less(name, sessions, minutes, keep, in_ram):
    load = p.Workload(p.SHAPES[name], sessions, minutes, keep=keep, codec="int4", in_ram=in_ram, gpu_bytes=1 << 40)
    more = (
        replace(load, sessions=sessions + 1),
        replace(load, minutes=minutes * 1.5),
        replace(load, codec="int8"),
        replace(load, redis=False, in_ram=1.0),
    )
    before = total(load)
    for each in more:
        after = total(each)
        assert all(after[what] >= amount for what, amount in before.items() if what in after and amount is not None)
    bounded = total(replace(load, budget_bytes=1 << 20))
    assert all(amount <= before[what] for what, amount in bounded.items() if amount is not None)


def test_keeping_fewer_tokens_stores_less_and_holds_as_much_in_the_window():
    for shape in p.SHAPES.values():
        sizes = [p.stored_bytes(shape, keep, "raw") for keep in (0.0, 0.25, 0.5, 1.0)]
        assert sizes == sorted(sizes)
        assert sizes[-1] == p.raw_bytes(shape)
        tokens = [p.recalled_chunks(shape, keep) * stored_tokens(shape, keep) for keep in (0.0, 0.25, 0.5, 1.0)]
        assert max(tokens) <= shape.window[1] * shape.frame_tokens


@pytest.mark.parametrize(
    "wrong",
    [
        {"sessions": 0},
        {"minutes": 0.0},
        {"minutes": float("nan")},
        {"in_ram": 1.5},
        {"in_ram": 0.5, "redis": False},
        {"gpu_bytes": 0},
        {"budget_bytes": -1},
        {"step_seconds": -1.0},
    ],
)
def test_a_workload_that_cannot_be_is_refused(wrong):
    with pytest.raises(InvalidInput):
        replace(p.Workload(POCKET, 1, 1), **wrong)


def test_what_no_formula_knows_is_refused():
    for wrong in ("klt2", "int5", "int4/7", "zip"):
        with pytest.raises(UnknownCodec, match="int8, int4, int3"):
            p.stored_bytes(LINGBOT, 1.0, wrong)
    for delta, waste in ((0.9, 0.1), (2.0, 1.0), (2.0, -0.1)):
        with pytest.raises(InvalidInput):
            p.fetched_rate(LINGBOT, 1.0, "raw", delta, waste)
    with pytest.raises(InvalidInput, match="keep"):
        p.stored_bytes(LINGBOT, 1.1, "raw")


def test_an_unknown_model_is_refused_with_the_names_there_are():
    with pytest.raises(NotFound, match=r"pocket, lingbot-14b.*did you mean matrix-game-2\.0\?"):
        p.shape("matrix-game-2")
    assert p.shape("lingbot-world-fast-cam") is LINGBOT


def test_the_command_prints_rows_for_programs(monkeypatch, capsys):
    words = ["--model", "lingbot-14b", "--sessions", "200", "--minutes", "10", "--at-hand", "host", "--json"]
    code, out, err = run(monkeypatch, capsys, "plan", *words)
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert {row["part"] for row in rows} >= {"kvstore", "redis", "network", "generator", "retriever"}
    assert next(row["total"] for row in rows if row["what"] == "GPUs") == 200


def test_the_command_prints_a_table_for_people(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "plan", "--model", "matrix-game-2.0", "--keep", "0.25", "--codec", "raw")
    assert code == 0
    assert "243.3 MB" in out


def test_what_is_at_hand_takes_a_gpus_memory_or_the_hosts():
    load = p.Workload(LINGBOT, sessions=2, minutes=1, hot_chunks=3)
    there, here = total(load), total(replace(load, at_hand="host"))
    hot = 2 * 3 * p.raw_bytes(LINGBOT)
    assert there["generator GPU memory, of that hot sets"] == here["generator main memory, hot sets"] == hot
    assert there["generator GPU memory, sessions"] - here["generator GPU memory, sessions"] == hot
    with pytest.raises(InvalidInput, match="'disk'"):
        replace(load, at_hand="disk")


def test_what_fits_no_gpu_is_said(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "plan", "--model", "lingbot-14b", "--gpu-memory", "40GB")
    assert code == 1
    assert "GPUs" in out
    assert "no GPU of 40GB serves a session: weights and one session take 96487225728 bytes" in err
    code, _, err = run(monkeypatch, capsys, "plan", "--model", "lingbot-14b", "--step", "0.8")
    assert code == 1
    assert "a step of 0.8 s is longer than a chunk plays, 0.75 s" in err


@pytest.mark.parametrize(("text", "size"), [("80GiB", 80 << 30), ("1.5TB", 1_500_000_000_000), ("4096", 4096)])
def test_sizes_are_read_as_people_write_them(text, size):
    from worldkv.admin_plan import size_of

    assert size_of(text, "--budget") == size


def test_a_size_that_is_none_is_refused(monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "plan", "--budget", "much")
    assert code == 2
    assert "--budget 'much': expected bytes" in err


def test_the_defaults_of_services_are_far_above_one_pocket_walk():
    found = total(p.Workload(POCKET, 1, 10))
    assert found["kvstore RAM"] < RamConfig().budget_bytes
    assert found["generator GPU memory, sessions"] < EngineConfig().resident_bytes


def test_the_example_of_the_document_is_what_is_printed(monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (example,) = re.findall(r"```\n\$ worldkv (plan .*)\n((?:.*\n)*?)```", text)
    code, out, _ = run(monkeypatch, capsys, *example[0].split())
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()] == example[1].splitlines()
