"""A model that draws nothing: what it gives is as large, as slow and as hard to mistake as it should be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.generator.adapters.paced.adapter import PacedWorldModel, place_of
from services.generator.adapters.paced.shapes import SHAPES, Shape
from services.generator.drawing import draw, window_for
from services.generator.models import load_model
from services.generator.session import Session, SessionConfig
from worldkv.actions import Walker, parse_path
from worldkv.chunk import Lineage
from worldkv.coding import Coding
from worldkv.errors import ChunkCorrupt, InvalidConfig
from worldkv.finder import LocalFinder
from worldkv.index import ScanIndex
from worldkv.memory import Memory, MemoryConfig
from worldkv.select import make_selector
from worldkv.store import RamStore
from worldkv.window import Window, WindowConfig

SMALL = Shape(replace(SHAPES["paced-mg2"].spec, layers=2, heads=2, frame_tokens=4), 0.48)


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def model(slept: list[float]) -> PacedWorldModel:
    return PacedWorldModel(SMALL, slept.append)


def test_shapes_are_those_of_the_models():
    sizes = {name: shape.spec.raw_bytes for name, shape in SHAPES.items()}
    # Half of 2 x layers x tokens x width x 2 bytes; LingBot's is an eighth of all its heads.
    assert sizes == {"paced-mg2": 486_604_800 // 2, "paced-lingbot": 3_833_856_000 // 2 // 8}


def test_models_have_no_weights(tmp_path):
    with pytest.raises(InvalidConfig, match="weights"):
        load_model("paced-mg2", tmp_path)


async def test_a_walk_recalls_the_bytes_that_were_put(model, slept):
    lineage = Lineage.begin()
    finder = LocalFinder(ScanIndex(), make_selector("coverage_early"), lineage)
    config = MemoryConfig(Coding("raw", "raw"), hot_bytes=0)
    window = WindowConfig(recalled=6)
    memory = Memory(model.spec, window, config, RamStore(1 << 24), finder, lineage)
    session = Session(model, SessionConfig(window=window, context="alone"), Walker(0, 0), memory)
    actions, places, recalled = parse_path("R180_3L180_3"), dict[int, int](), 0
    for begin in range(0, len(actions) - 2, 3):
        draft = await session.begin(actions[begin : begin + 3])
        for each in draft.recalled:
            assert model.well.holds(each.entry.kv, places[each.hit.key.index])
            recalled += 1
        (drawn,) = draw(model, window_for(model, draft.shape.sizes), [0], [draft])
        step = await session.end(draft, drawn)
        assert step.pictures.shape == (12, 3, 44, 80)
        places[step.index] = place_of(session.noise(step.index))
    assert recalled > 10
    assert len(set(places.values())) == len(places)
    assert sum(slept) <= 0.48 * len(places)
    assert len(slept) == 2 * len(places)


async def test_pictures_from_elsewhere_become_a_chunk(model):
    session = Session(model, SessionConfig("window", WindowConfig()), Walker(0, 0))
    step = await session.show(torch.rand(model.spec.frames, 3, 44, 80), [Walker(0, 0)] * model.spec.frames)
    assert step.pictures.shape == (12, 3, 44, 80)


def test_a_window_with_other_bytes_fails_the_step(model):
    window = Window(model.spec, [12, 12])
    kv = model.well.draw(5)
    model.well.check(kv.keys, kv.values)
    window.keys[:, 0, 12:], window.values[:, 0, 12:] = kv.keys, kv.values
    window.valid[0, 12:] = True
    noise = torch.zeros(1, 3, *model.spec.latent)
    model.generate(window.view([0]), (), noise)
    window.values[1, 0, -1, 1, 3] += 1
    with pytest.raises(ChunkCorrupt, match="other bytes"):
        model.generate(window.view([0]), (), noise)
    window.values[0, 0, 12] = 0
    with pytest.raises(ChunkCorrupt, match="no chunk"):
        model.generate(window.view([0]), (), noise)


def test_chunks_are_the_same_in_every_process_and_differ_everywhere(model):
    again = PacedWorldModel(SMALL)
    latents = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 16, 44, 80)).astype(np.float32))
    first, second = model.encode(latents, Window(model.spec, ()).view([0]), ())
    assert again.well.holds(first, place_of(latents[0]))
    assert place_of(latents[0].half().float()) == place_of(latents[0])
    assert (first.keys != second.keys).float().mean() > 0.9
    assert not again.well.holds(second, place_of(latents[0]))
