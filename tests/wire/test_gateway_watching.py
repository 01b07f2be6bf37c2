"""Watchers behind a gateway: they see what the walker sees, wherever the session goes, and have no effect on it."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.gateways import Client, Fleet, Gateway, setting
from tests.wire.test_gateway_web import web
from worldkv import wire
from worldkv.errors import InvalidInput, NotFound, OverBudget
from worldkv.v1 import sessions_pb2 as pb
from worldkv.wire_sessions import watch_id


def watcher(gateway: Gateway, session: str, seen: int = 0, tenant: str = "default") -> Client:
    """One who watches a session, by its own id."""
    client = gateway.walk(watch_id(session), seen, tenant)
    client.join.watch = True
    return client


async def test_watchers_see_what_the_walker_sees(tmp_path):
    async with setting(tmp_path, "a", "b") as (_, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as walker, watcher(gateway, session) as one, watcher(gateway, session) as two:
            for each in (one, two):
                assert (await each.next("joined")).session == watch_id(session)
            await walker.next("joined")
            for number in (1, 2, 3):
                await walker.move(1, number)
            drawn = await walker.drawn(3)
            for each in (one, two):
                assert [chunk.key for chunk in await each.drawn(3)] == [chunk.key for chunk in drawn]
            assert gateway.figure("watchers") == 2
            async with watcher(gateway, session, seen=2) as late:
                assert (await late.next("drawn")).key.index == 2
            await one.move(1)
            with pytest.raises(InvalidInput, match="no effect"):
                await one.next("drawn")
            await walker.move(1, 4)
            assert (await walker.next("drawn")).key.index == 3


async def test_sessions_that_cannot_be_watched(tmp_path):
    async with setting(tmp_path, "a", watchers=1) as (_, gateway):
        session = (await gateway.open("somebody")).session
        for each, tenant in ((session, "default"), ("forged", "somebody")):
            async with watcher(gateway, each, tenant=tenant) as stranger:
                with pytest.raises(NotFound):
                    await stranger.hear()
        async with watcher(gateway, session, tenant="somebody") as first:
            await first.next("joined")
            async with watcher(gateway, session, tenant="somebody") as second:
                with pytest.raises(OverBudget):
                    await second.hear()


async def test_watchers_go_where_the_session_goes(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        session = (await gateway.open()).session
        async with gateway.walk(session) as walker, watcher(gateway, session) as other:
            await walker.move(1, 1)
            await walker.next("drawn")
            await other.next("drawn")
            await made.kill(made.home(session).name)
            await walker.move(1, 2)
            assert (await walker.next("drawn")).number == 2
            assert (await other.next("notice")).kind == pb.NOTICE_KIND_MOVED
            assert (await other.next("drawn")).key.index == 1


async def test_a_browser_watches(tmp_path):
    async with web(tmp_path, "a") as (_, gateway, talk), talk() as browser, talk() as stranger:
        session = (await gateway.open()).session
        await browser.say(join={"session": watch_id(session), "watch": True})
        assert (await browser.next("joined"))["session"] == watch_id(session)
        async with gateway.walk(session) as walker:
            await walker.move(1, 1)
            assert (await browser.next("drawn"))["key"]["branch"]
            await browser.say(close={})
            code, words = await browser.end()
            assert (code, "no effect" in words) == (4003, True)
            await stranger.say(join={"session": watch_id("forged"), "watch": True})
            assert (await stranger.end())[0] == 4005
            await walker.move(1, 2)
            assert (await walker.next("drawn")).key.index == 0


class Spectator:
    """One watcher, and what it holds to be the world."""

    def __init__(self, client: Client) -> None:
        self.client, self.chunks = client, dict[int, bytes]()
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while answer := await self.client.hear():
            if answer.HasField("notice") and answer.notice.kind == pb.NOTICE_KIND_MOVED:
                self.chunks = {index: branch for index, branch in self.chunks.items() if index < answer.notice.chunk}
            elif answer.HasField("drawn"):
                key = wire.chunk_of(answer.drawn.key)
                assert key.index not in self.chunks, "it was seen already"
                self.chunks[key.index] = key.branch


STEPS = st.lists(st.sampled_from(("move", "move", "watch", "leave", "rewind", "kill", "say")), min_size=4, max_size=12)


@pytest.mark.slow
@given(STEPS)
@settings(max_examples=5)
def test_watchers_under_churn(steps):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_churn(Path(folder), steps))


async def _churn(folder: Path, steps: list[str]) -> None:
    """However a session fares, whoever watches it comes to see its world, and each chunk of it once."""
    async with setting(folder, "a", "b") as (made, gateway), AsyncExitStack() as stack:
        opened = await gateway.open()
        record = made.tier.record("default", opened.session)
        walker = await stack.enter_async_context(gateway.walk(opened.session))
        watching: list[Spectator] = []
        number = 0

        async def move() -> None:
            nonlocal number
            number += 1
            await walker.move(1, number)
            while (await walker.next("drawn")).number != number:
                pass

        await move()
        for step in (*steps, "watch"):
            match step:
                case "move":
                    await move()
                case "watch":
                    client = await stack.enter_async_context(watcher(gateway, opened.session))
                    watching.append(Spectator(client))
                case "leave" if watching:
                    gone = watching.pop(0)
                    gone.client.call.cancel()
                    await asyncio.gather(gone.task, return_exceptions=True)
                case "say" if watching:
                    await watching[0].client.move(9)
                    with pytest.raises(InvalidInput):
                        await watching.pop(0).task
                case "rewind":
                    await gateway.stub.Rewind(pb.RewindRequest(session=opened.session, at=len(record.moves) // 2))
                case "kill":
                    await _killed(made, opened.session)
                    await move()  # before that it lives nowhere, and nobody new can watch it
        told = False
        while not told:  # a watcher that is on its way to the session sees one of the chunks that come then
            await move()
            await asyncio.sleep(0.05)
            newest = record.lineage.key(len(record.moves) - 1)
            told = all(each.chunks.get(newest.index) == newest.branch for each in watching)
            assert not [each.task.exception() for each in watching if each.task.done()]
        for each in watching:
            assert each.chunks == {index: record.lineage.key(index).branch for index in each.chunks}
            each.client.call.cancel()
        await asyncio.gather(*(each.task for each in watching), return_exceptions=True)


async def _killed(made: Fleet, session: str) -> None:
    """The generator that a session lives on dies, and another one comes in its place."""
    for home in [toy for toy in made.toys() if ("default", session) in toy.live]:
        await made.kill(home.name)
        await made.start(home.name)
