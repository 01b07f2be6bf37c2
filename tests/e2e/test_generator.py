"""Generators as processes over a store and an index: sessions outlive them."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.generator_process import GeneratorProcess, generator, toy_weights
from tests.e2e.retriever_process import ReplicaProcess, replica
from tests.e2e.shard_process import shard
from tests.wire.generator import Stream, pictures
from worldkv import rpc
from worldkv.errors import Unavailable
from worldkv.v1 import generator_pb2 as generator_pb
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.generator_pb2_grpc import GeneratorStub
from worldkv.v1.sessions_pb2_grpc import SessionsStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
OPEN = pb.OpenRequest(scene="rooms:7", world="harbour", seed=3, lockstep=True, format=pb.PICTURE_FORMAT_RGB32F)


class Two(NamedTuple):
    """Two generators over one tier, and its index."""

    first: GeneratorProcess
    second: GeneratorProcess
    replica: ReplicaProcess


@asynccontextmanager
async def two(folder: Path, **settings: str) -> AsyncIterator[Two]:
    weights = toy_weights(folder)
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(shard(RAM__BUDGET_BYTES=str(64 << 20)))
        found = await stack.enter_async_context(replica(made.address))
        generators = [generator(weights, made.address, found.address, **settings) for _ in range(2)]
        first, second = [await stack.enter_async_context(each) for each in generators]
        yield Two(first, second, found)


@asynccontextmanager
async def calling(process: GeneratorProcess) -> AsyncIterator[Any]:
    async with rpc.channel(process.address) as channel:
        yield channel


async def steps(channel: Any, session: str, chunks: int) -> list[bytes]:
    stream = Stream(SessionsStub(channel).Walk())
    await stream.say(join=pb.Join(session=session, seen=1 << 40))
    drawn = await stream.steps(chunks)
    stream.close()
    return pictures(drawn)


async def resume(channel: Any, session: str) -> pb.OpenResponse:
    with rpc.translated():
        answer = await GeneratorStub(channel).Resume(generator_pb.ResumeRequest(session=session))
    assert isinstance(answer, generator_pb.ResumeResponse)
    return answer.opened


async def test_a_walk_goes_on_exactly_on_another_generator(tmp_path):
    async with two(tmp_path) as made, calling(made.first) as first, calling(made.second) as second:
        whole_session = await SessionsStub(second).Open(pb.OpenRequest(**{**fields(OPEN), "world": "whole"}))
        whole = await steps(second, whole_session.session, 10)
        session = (await SessionsStub(first).Open(OPEN)).session
        before = await steps(first, session, 6)
        await GeneratorStub(first).Suspend(generator_pb.SuspendRequest(session=session))
        assert (await resume(second, session)).next == 6
        assert before + await steps(second, session, 4) == whole


def fields(message: pb.OpenRequest) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


async def test_a_killed_generators_sessions_go_on_after_their_last_kept_chunk(tmp_path):
    async with two(tmp_path) as made, calling(made.first) as first, calling(made.second) as second:
        opened = await SessionsStub(first).Open(OPEN)
        await steps(first, opened.session, 6)
        await made.first.end(signal.SIGKILL)
        resumed = await resume(second, opened.session)
        assert resumed.next == 6
        assert resumed.world.lineage.parts[0].branch == opened.world.lineage.parts[0].branch
        stream = Stream(SessionsStub(second).Walk())
        await stream.say(join=pb.Join(session=opened.session, seen=6))
        drawn = await stream.steps(3)
        assert {each.key.branch for one in drawn for each in one.recalled} == {opened.world.lineage.parts[0].branch}
        closed = await SessionsStub(second).Close(pb.CloseRequest(session=opened.session))
        assert (closed.remembered.end, closed.world.chunks) == (9, 9)


async def test_a_walk_whose_index_dies_recalls_what_it_would_have(tmp_path):
    async with two(tmp_path, INDEX__PATIENT_SECONDS="0.5") as made, calling(made.first) as channel:
        opened = [await SessionsStub(channel).Open(pb.OpenRequest(**{**fields(OPEN), "world": w})) for w in "ab"]
        whole = await steps(channel, opened[0].session, 10)
        before = await steps(channel, opened[1].session, 6)
        made.replica.process.kill()
        assert before + await steps(channel, opened[1].session, 4) == whole
        said = await made.first.end()
        assert "chunks are chosen here" in said
        assert "Traceback" not in said


async def test_a_generator_that_is_told_to_end_hands_its_sessions_on(tmp_path):
    async with two(tmp_path) as made, calling(made.first) as first, calling(made.second) as second:
        session = (await SessionsStub(first).Open(OPEN)).session
        stream = Stream(SessionsStub(first).Walk())
        await stream.say(join=pb.Join(session=session))
        before = pictures(await stream.steps(5))
        ending = asyncio.create_task(made.first.end())
        with pytest.raises(Unavailable):
            await stream.ended()
        said = await ending
        assert "Traceback" not in said
        assert (await resume(second, session)).next == 5
        whole = (await SessionsStub(second).Open(pb.OpenRequest(**{**fields(OPEN), "world": "whole"}))).session
        assert before + await steps(second, session, 2) == await steps(second, whole, 7)


async def test_a_generator_without_a_tier_says_so(tmp_path):
    async with generator(toy_weights(tmp_path)) as made:
        async with calling(made) as channel:
            session = (await SessionsStub(channel).Open(OPEN)).session
            assert len(await steps(channel, session, 2)) == 6
        said = await made.end()
    assert "Traceback" not in said
    assert made.process.returncode == 0
