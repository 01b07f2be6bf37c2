"""What worlds are about, live: each session's own words and picture, wherever it comes to be."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from threading import Event
from typing import Any

import numpy as np
import pytest

from benchmarks.wan_small import GRID, random_adapter, random_prompt
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.prompts import Prompt
from services.generator.adapters.wan.variants import LINGBOT_CAM
from services.generator.live.entering import SCENES
from services.generator.tier import Tiers
from services.generator.world_model import Subject
from tests.wire.generator import CONFIG, Caller, generating, inside, pictures
from worldkv.catalog import RamSnapshots
from worldkv.errors import InvalidInput, NotFound
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import MAX_PICTURE_BYTES

HARBOUR = {"scene": "a harbour", "picture": b"boats", "seed": 3}
UNSPEAKABLE = "what cannot be said"


class Hearing:
    """A small model, each its own, that notes what it had to imagine."""

    def __init__(self) -> None:
        self.heard: list[Subject] = []
        plain = random_adapter(LINGBOT_CAM)
        self.model = WanWorldModel(plain.variant, plain.model, self.imagine, plain.vae, "0" * 32, GRID)

    def imagine(self, subject: Subject) -> Callable[[], Prompt]:
        if subject.words == UNSPEAKABLE:
            raise InvalidInput(f"a prompt has at most 0 tokens, got 4: {subject.words!r}")
        self.heard.append(subject)
        return lambda: random_prompt(self.model.model.config, subject)


def hearing(made: Hearing, tiers: Tiers | None = None, **live: Any) -> AbstractAsyncContextManager[Caller]:
    return generating(tiers, model=made.model, **live)


async def steps(caller: Caller, session: str, chunks: int) -> list[bytes]:
    async with caller.walk(session, seen=1 << 40) as walk:
        return pictures(await walk.steps(chunks))


async def alone(chunks: int, **opening: Any) -> list[bytes]:
    async with hearing(Hearing()) as caller:
        return await steps(caller, (await caller.open(**opening)).session, chunks)


async def test_words_and_picture_decide_what_is_drawn():
    made = Hearing()
    async with hearing(made) as caller:
        walks = [
            await steps(caller, (await caller.open(**(HARBOUR | wanted))).session, 1)
            for wanted in ({}, {"scene": "a desert"}, {"picture": b""}, {})
        ]
    assert walks[0] == walks[3]
    assert len({tuple(each) for each in walks}) == 3
    words = [(each.words, each.picture) for each in made.heard]
    assert words == [("a harbour", b"boats"), ("a desert", b"boats"), ("a harbour", b"")]


async def test_sessions_in_different_worlds_walk_side_by_side_as_they_would_alone():
    openings = [HARBOUR, HARBOUR | {"scene": "a desert"}]
    async with hearing(Hearing()) as caller:
        opened = [await caller.open(**each) for each in openings]
        async with caller.walk(opened[0].session) as one, caller.walk(opened[1].session) as other:
            for walk in (one, other):
                for _ in range(3):
                    await walk.move()
            drawn = [pictures([await walk.next("drawn") for _ in range(3)]) for walk in (one, other)]
    for got, opening in zip(drawn, openings, strict=True):
        for picture, exact in zip(got, await alone(3, **opening), strict=True):
            assert np.allclose(np.frombuffer(picture, "<f4"), np.frombuffer(exact, "<f4"), atol=1e-4)


async def test_what_needs_no_model_keeps_nobody_from_being_drawn_for(monkeypatch):
    made, drawn = Hearing(), Event()
    imagine = made.model.prompts.imagine

    def slowly(subject: Subject) -> Callable[[], Prompt]:
        assert drawn.wait(60), "nobody was drawn for meanwhile"
        return imagine(subject)

    async with hearing(made) as caller:
        walking = (await caller.open(**HARBOUR)).session
        monkeypatch.setattr(made.model.prompts, "imagine", slowly)
        opening = asyncio.create_task(caller.open(**HARBOUR | {"scene": "a desert"}))
        await steps(caller, walking, 1)
        assert not opening.done()
        drawn.set()
        await opening


async def test_resumed_elsewhere_a_world_is_about_the_same_and_is_not_imagined_again():
    tiers, whole, other = inside(), await alone(6, **HARBOUR), Hearing()
    async with hearing(Hearing(), tiers) as first, hearing(other, tiers) as second:
        session = (await first.open(**HARBOUR)).session
        before = await steps(first, session, 4)
        await first.call("Suspend", session=session)
        await second.call("Resume", session=session)
        assert before + await steps(second, session, 2) == whole
    assert other.heard == []


async def test_where_no_state_was_saved_what_was_said_is_imagined_again():
    """And chunks that are made again are told by it: without it nothing of them is."""
    tiers, other = inside(), Hearing()
    async with hearing(Hearing(), tiers) as dead, hearing(other, tiers) as alive:
        session = (await dead.open(**HARBOUR)).session
        await steps(dead, session, 4)
        assert (await alive.call("Resume", session=session)).opened.next == 4
        await steps(alive, session, 2)
    assert other.heard == [Subject("a harbour", b"boats")]


async def test_a_picture_is_kept_once_however_often_its_sessions_are_saved():
    tiers, large = inside(), HARBOUR | {"picture": bytes(MAX_PICTURE_BYTES)}
    async with hearing(Hearing(), tiers) as first, hearing(Hearing(), tiers) as second:
        session = (await first.open(**large, world="harbour")).session
        await steps(first, session, 1)
        for caller in (second, first):
            await caller.call("Resume", session=session)
            await caller.call("Suspend", session=session)
        await first.open(world="harbour", fork=True)
    snapshots = tiers("default").snapshots
    assert isinstance(snapshots, RamSnapshots)
    assert MAX_PICTURE_BYTES < snapshots.used_bytes < 2 * MAX_PICTURE_BYTES


async def lost(tiers: Tiers, root: bytes) -> None:
    """How the world of this first branch was entered is gone."""
    assert await tiers("default").snapshots.delete(SCENES + root.hex())


async def test_if_its_picture_is_lost_a_session_goes_on_from_its_state_or_is_refused_in_words():
    whole, tiers = await alone(4, **HARBOUR), inside()
    async with hearing(Hearing(), tiers) as first, hearing(Hearing(), tiers) as second:
        opened = [await first.open(**HARBOUR) for _ in range(2)]
        saved, other = (each.session for each in opened)
        before = await steps(first, saved, 2)
        await steps(first, other, 2)
        await first.call("Suspend", session=saved)
        for each in opened:
            await lost(tiers, each.world.lineage.parts[0].branch)
        await second.call("Resume", session=saved)
        assert before + await steps(second, saved, 2) == whole
        with pytest.raises(NotFound, match=r"the picture that world .* begins from is gone"):
            await second.call("Resume", session=other)


async def test_a_world_of_which_nobody_knows_what_it_is_about_is_not_drawn_on():
    tiers = inside()
    async with hearing(Hearing(), tiers) as first, hearing(Hearing(), tiers) as second:
        opened = await first.open(**HARBOUR, world="harbour")
        await steps(first, opened.session, 3)
        await lost(tiers, opened.world.lineage.parts[0].branch)
        with pytest.raises(NotFound, match=r"what the world .* is about was not heard here"):
            await second.open(world="harbour", fork=True)


@pytest.mark.parametrize("at", [0, 2])
async def test_a_fork_and_a_later_session_of_a_world_are_about_the_same(at):
    made = Hearing()
    async with hearing(made) as caller:
        opened = await caller.open(**HARBOUR, world="harbour")
        first = await steps(caller, opened.session, 3)
        await caller.call("Fork", session=opened.session, world="copy", at=at)
        copy = await caller.open(world="copy", seed=3)
        drawn = await steps(caller, copy.session, 3 - at)
        again = await caller.open(world="harbour", seed=3, fork=True, at=at)
        assert await steps(caller, again.session, 3 - at) == drawn
    assert copy.scene == again.scene == "a harbour"
    assert {(each.words, each.picture) for each in made.heard} == {("a harbour", b"boats")}
    if not at:
        assert drawn == first


async def test_rewound_to_its_begin_a_world_is_about_the_same():
    async with hearing(Hearing()) as caller:
        session = (await caller.open(**HARBOUR)).session
        first = await steps(caller, session, 3)
        await caller.call("Rewind", session=session, at=0)
        assert await steps(caller, session, 3) == first


async def test_what_cannot_be_told_leaves_no_world_and_takes_no_room():
    async with hearing(Hearing()) as caller:
        with pytest.raises(InvalidInput, match="at most 0 tokens"):
            await caller.open(scene=UNSPEAKABLE, world="nowhere")
        assert caller.made.live.maker.engine.resident_bytes == 0
        assert list((await caller.call("Worlds")).worlds) == []
        assert list((await caller.call("List")).sessions) == []
        with pytest.raises(NotFound):
            await caller.open(world="nowhere", fork=True)
        await caller.open(scene="a harbour", world="nowhere")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"world": "harbour", "picture": b"boats"}, "entered without picture"),
        ({"picture": bytes(MAX_PICTURE_BYTES + 1)}, f"at most {MAX_PICTURE_BYTES} bytes"),
    ],
)
async def test_a_picture_that_has_no_place_is_refused(wanted, words):
    async with hearing(Hearing()) as caller:
        await caller.open(world="harbour")
        with pytest.raises(InvalidInput, match=words):
            await caller.open(**wanted)


async def test_models_without_pictures_refuse_them_in_words():
    async with generating(config=CONFIG) as caller:
        with pytest.raises(InvalidInput, match="not from a picture; got one of 5 bytes"):
            await caller.open(picture=b"boats")


async def test_the_largest_picture_goes_through():
    large = bytes(range(256)) * (MAX_PICTURE_BYTES // 256)
    made, tiers = Hearing(), inside()
    async with hearing(made, tiers) as first, hearing(Hearing(), tiers) as second:
        session = (await first.open(picture=large)).session
        await steps(first, session, 1)
        await first.call("Suspend", session=session)
        await second.call("Resume", session=session)
        assert second.made.live.find("default", session).resident.record.picture == large
    assert [each.picture == large for each in made.heard] == [True]


async def test_examples_are_prompts_where_the_model_is_told_in_words():
    async with hearing(Hearing()) as caller:
        stats = await caller.call("GeneratorStats")
        assert all(" " in scene for scene in stats.scenes)
        assert len(stats.scenes) > 1
        assert stats.pictures
        opened: pb.OpenResponse = await caller.open(scene=stats.scenes[0])
        assert (opened.scene, opened.has_truth) == (stats.scenes[0], False)
