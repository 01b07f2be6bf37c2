"""A small Wan model with its VAE, live: its decoder goes on where it was, whatever becomes of the generator."""

import logging
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.wan_small import GRID, random_adapter
from benchmarks.wan_vae_small import random_vae
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.packed import pack
from services.generator.adapters.wan.state import WanState
from services.generator.adapters.wan.variants import LINGBOT_CAM
from services.generator.config import IndexConfig, InsideConfig, StoreConfig
from services.generator.saving import MAX_HEADER
from services.generator.tier import Inside
from tests.wire.generator import CONFIG, Caller, Stream, generating, inside
from worldkv.actions import Walker
from worldkv.client import WalkClient
from worldkv.v1 import sessions_pb2 as pb

FIRST, LATER = 9, 12
"""Pictures of a walk's first chunk, and of others."""


@cache
def adapter() -> WanWorldModel:
    return random_adapter(LINGBOT_CAM, vae=random_vae(4, seed=2)[0])


def seen(messages: list[pb.Drawn] | list[pb.LookResponse]) -> list[NDArray[np.float32]]:
    """Pictures [pictures, height, width, 3] of each chunk."""
    shape = (-1, 8 * GRID[0], 8 * GRID[1], 3)
    return [np.frombuffer(b"".join(each.data for each in one.pictures), np.float32).reshape(shape) for one in messages]


async def steps(caller: Caller, session: str, chunks: int) -> list[NDArray[np.float32]]:
    async with caller.walk(session, seen=1 << 40) as walk:
        assert isinstance(walk, Stream)
        return seen(await walk.steps(chunks))


@pytest.mark.slow
async def test_suspended_and_resumed_elsewhere_its_pictures_go_on_exactly():
    async with generating(model=adapter()) as alone:
        whole = await steps(alone, (await alone.open(seed=3)).session, 5)
    assert [len(each) for each in whole] == [FIRST, LATER, LATER, LATER, LATER]
    tiers = inside()
    async with generating(tiers, model=adapter()) as first, generating(tiers, model=adapter()) as second:
        session = (await first.open(seed=3)).session
        before = await steps(first, session, 3)
        await first.call("Suspend", session=session)
        await second.call("Resume", session=session)
        after = await steps(second, session, 2)
    assert all(np.array_equal(a, b) for a, b in zip(before + after, whole, strict=True))


async def test_if_its_generator_died_the_chunk_before_is_decoded_again():
    """So that there are as many pictures as in the middle of a walk, and they go on from what was seen."""
    tiers = inside()
    async with generating(tiers, model=adapter()) as dead, generating(tiers, model=adapter()) as alive:
        session = (await dead.open(seed=3)).session
        await steps(dead, session, 3)
        assert (await alive.call("Resume", session=session)).opened.next == 3
        assert [len(each) for each in await steps(alive, session, 2)] == [LATER, LATER]


async def test_if_the_state_that_was_saved_is_damaged_it_goes_on_from_what_its_world_holds(monkeypatch, caplog):
    tiers = inside()
    async with generating(tiers, model=adapter()) as first, generating(tiers, model=adapter()) as second:
        session = (await first.open(seed=3)).session
        await steps(first, session, 2)
        with monkeypatch.context() as patch:
            patch.setattr(WanState, "to_bytes", lambda state: pack({"counts": torch.zeros(2)}))
            await first.call("Suspend", session=session)
        assert (await second.call("Resume", session=session)).opened.next == 2
        assert [len(each) for each in await steps(second, session, 2)] == [LATER, LATER]
    assert f"session {session} goes on without the state that was saved" in caplog.text


async def test_a_state_that_is_too_large_for_what_keeps_it_is_told_of_and_its_session_goes_on(caplog):
    caplog.set_level(logging.INFO)
    small = InsideConfig(snapshot_bytes=adapter().state_bytes // 2)
    config, tiers = replace(CONFIG, inside=small), Inside(1 << 28, small.snapshot_bytes)
    async with generating(tiers, config, model=adapter()) as first, generating(tiers, model=adapter()) as second:
        (told,) = re.findall(r"suspended sessions of lingbot.* without their states of up to (\d+) bytes", caplog.text)
        assert int(told) > adapter().state_bytes
        session = (await first.open(seed=3)).session
        await steps(first, session, 2)
        await first.call("Suspend", session=session)
        assert re.search(f"session {session} is kept without its state: .*over the budget", caplog.text)
        assert (await second.call("Resume", session=session)).opened.next == 2
        assert [len(each) for each in await steps(second, session, 1)] == [LATER]


async def test_a_state_takes_no_more_than_is_said_at_start(caplog):
    caplog.set_level(logging.INFO)
    store = StoreConfig(("127.0.0.1:1",))
    config = replace(CONFIG, store=store, index=IndexConfig(("127.0.0.1:1",)))
    tiers = inside()
    async with generating(tiers, config, model=adapter()) as caller:
        (told,) = re.findall(r"session of lingbot.* has up to (\d+) bytes: shards with a smaller", caplog.text)
        session = (await caller.open(seed=3)).session
        await steps(caller, session, 4)
        await caller.call("Suspend", session=session)
        rest = int(told) - (await tiers("default").snapshots.load(session)).state.nbytes
        assert 0 < rest < MAX_HEADER


@pytest.mark.slow
async def test_what_it_has_shown_can_be_looked_at_again():
    """Made from latents that are kept in float16; looked at from its middle on, it follows on the chunk before."""
    async with generating(model=adapter()) as caller:
        opened = await caller.open(seed=3)
        shown = await steps(caller, opened.session, 4)
        for at in (0, 2):
            wanted = pb.LookRequest(session=opened.session, at=at, pictures=1 << 16)
            answers = [each async for each in caller.sessions.Look(wanted, metadata=caller.metadata)]
            assert [len(each.pictures) for each in answers] == [len(each) for each in shown[at:]]


async def test_it_is_shown_a_picture_a_latent_frame_and_shows_all_that_these_last():
    shown = np.random.default_rng(0).random((3, 8 * GRID[0], 8 * GRID[1], 3), np.float32)
    places = [Walker(0.0, 0.1 * n) for n in range(3)]
    async with generating(model=adapter()) as caller, WalkClient(caller.address) as client:
        async with client.open(pictures="rgb32f", lockstep=True) as walk:
            assert (walk.frames, walk.opened.pictures) == (3, LATER)
            assert [len((await walk.show(shown, places)).pictures) for _ in range(2)] == [FIRST, LATER]
            assert walk.walker == places[-1]
