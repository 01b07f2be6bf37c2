"""Generators as processes over a store and an index: sessions outlive them."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]
OPEN = pb.OpenRequest(scene="rooms:7", seed=3, lockstep=True, format=pb.PICTURE_FORMAT_RGB32F)


class Two(NamedTuple):
    """Two generators over one tier, and its index."""

    first: GeneratorProcess
    second: GeneratorProcess
    replica: ReplicaProcess


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    weights = toy_weights(tmp_path_factory.mktemp("weights"))
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(shard(RAM__BUDGET_BYTES=str(64 << 20)))
        found = await stack.enter_async_context(replica(made.address))
        soon = [generator(weights, made.address, found.address, INDEX__PATIENT_SECONDS="0.5") for _ in range(2)]
        first, second = await asyncio.gather(*map(stack.enter_async_context, soon))
        yield Two(first, second, found)


@pytest_asyncio.fixture(loop_scope="module")
async def two(parts: Two) -> Two:
    """All of them run, whatever the test before has ended."""
    await asyncio.gather(*(each.start() for each in parts if not each.runs))
    return parts


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


async def opened(channel: Any) -> pb.OpenResponse:
    answer = await SessionsStub(channel).Open(OPEN)
    assert isinstance(answer, pb.OpenResponse)
    return answer


async def test_a_walk_goes_on_exactly_on_another_generator(two):
    async with calling(two.first) as first, calling(two.second) as second:
        whole = await steps(second, (await opened(second)).session, 10)
        session = (await opened(first)).session
        before = await steps(first, session, 6)
        await GeneratorStub(first).Suspend(generator_pb.SuspendRequest(session=session))
        assert (await resume(second, session)).next == 6
        assert before + await steps(second, session, 4) == whole


async def test_a_killed_generators_sessions_go_on_after_their_last_kept_chunk(two):
    async with calling(two.first) as first, calling(two.second) as second:
        begun = await opened(first)
        root = begun.world.lineage.parts[0].branch
        await steps(first, begun.session, 6)
        await two.first.end(signal.SIGKILL)
        resumed = await resume(second, begun.session)
        assert resumed.next == 6
        assert resumed.world.lineage.parts[0].branch == root
        stream = Stream(SessionsStub(second).Walk())
        await stream.say(join=pb.Join(session=begun.session, seen=6))
        drawn = await stream.steps(3)
        assert {each.key.branch for one in drawn for each in one.recalled} == {root}
        closed = await SessionsStub(second).Close(pb.CloseRequest(session=begun.session))
        assert (closed.remembered.end, closed.world.chunks) == (9, 9)


async def test_a_generator_that_is_told_to_end_hands_its_sessions_on(two):
    async with calling(two.first) as first, calling(two.second) as second:
        session = (await opened(first)).session
        stream = Stream(SessionsStub(first).Walk())
        await stream.say(join=pb.Join(session=session))
        before = pictures(await stream.steps(5))
        ending = asyncio.create_task(two.first.end())
        with pytest.raises(Unavailable):
            await stream.ended()
        said = await ending
        assert "Traceback" not in said
        assert (await resume(second, session)).next == 5
        assert before + await steps(second, session, 2) == await steps(second, (await opened(second)).session, 7)


async def test_a_walk_whose_index_dies_recalls_what_it_would_have(two):
    async with calling(two.first) as channel:
        whole = await steps(channel, (await opened(channel)).session, 10)
        session = (await opened(channel)).session
        before = await steps(channel, session, 6)
        await two.replica.end(signal.SIGKILL)
        assert before + await steps(channel, session, 4) == whole
        said = await two.first.end()
        assert "chunks are chosen here" in said
        assert "Traceback" not in said


async def test_a_generator_without_a_tier_says_so(tmp_path):
    async with generator(toy_weights(tmp_path)) as made:
        async with calling(made) as channel:
            assert len(await steps(channel, (await opened(channel)).session, 2)) == 6
        said = await made.end()
    assert "Traceback" not in said
    assert made.process.returncode == 0
