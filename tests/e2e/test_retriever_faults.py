"""Replicas as processes over a shard as a process, and what may happen to them."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any, NamedTuple

import pytest

from tests.e2e.retriever_process import ReplicaProcess, replica
from tests.e2e.shard_process import CONFIG, Process, shard
from tests.wire.replica import keep, meta, metas, oracle, query
from worldkv.chunk import Lineage, Meta
from worldkv.client import KVClient, Member, Membership, RetrieverClient, RetrieverClientConfig, Retry, fixed
from worldkv.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from worldkv.rpc import channel, translated
from worldkv.v1 import retriever_pb2 as pb
from worldkv.v1.retriever_pb2_grpc import RetrieverStub
from worldkv.wire_retriever import Found, Lookup

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENT = RetrieverClientConfig(
    deadline_seconds=30, failover_seconds=0.5, retry=Retry(first_seconds=0.005, rest_seconds=0.1)
)
LONG = RetrieverClientConfig(deadline_seconds=30, failover_seconds=60, retry=Retry(rest_seconds=0.1))


class Setting(NamedTuple):
    """A shard, a replica over it, and clients of both."""

    shard: Process
    replica: ReplicaProcess
    store: KVClient
    client: RetrieverClient


@asynccontextmanager
async def served(**settings: str) -> AsyncIterator[Setting]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(shard(RAM__BUDGET_BYTES=str(64 << 20)))
        made = await stack.enter_async_context(replica(store.address, **settings))
        keeper = await stack.enter_async_context(KVClient(fixed(store.address), CONFIG))
        yield Setting(store, made, keeper, await stack.enter_async_context(RetrieverClient(fixed(made.address), LONG)))


def lookup(lineage: Lineage, **fields) -> Lookup:
    return Lookup(lineage, query(), 5, **{"spares": 2, **fields})


async def one(client: RetrieverClient, asked: Lookup, **limits: float) -> Found:
    (found,) = await client.nearest([asked], **limits)
    assert isinstance(found, Found), found
    return found


async def until_answered(client: RetrieverClient, asked: Lookup) -> Found:
    async with asyncio.timeout(60):
        while True:
            try:
                return await one(client, asked)
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_replica_killed_in_the_middle_of_a_walk_comes_back_with_all_of_it():
    lineage = Lineage.begin()
    async with served() as made:
        finder = made.client.finder(lineage, "pose", deadline_seconds=10)
        known: list[Meta] = []

        async def step(n: int) -> None:
            known.append(meta(lineage.key(n)))
            await keep(made.store, known[-1:])
            await finder.add(known[-1])

        for n in range(20):
            await step(n)
            assert await finder.nearest(query(), 5) == oracle(known, lookup(lineage, selector="pose", spares=0))
        await made.replica.end(signal.SIGKILL)
        for n in range(20, 40):
            await step(n)
            with pytest.raises(Unavailable):
                await finder.nearest(query(), 5)
        assert len(finder.pending) == 20
        await made.replica.start()
        asked = lookup(lineage, selector="pose", published=40)
        assert (await until_answered(made.client, asked)).hits == oracle(known, asked)
        await step(40)
        assert finder.pending == []
        for selector in ("pose", "coverage", "fov"):
            asked = lookup(lineage, selector=selector, published=41)
            assert await one(made.client, asked) == Found(oracle(known, asked), 41, 0)
        said = await made.replica.end()
        assert "Traceback" not in said


async def test_a_frozen_replica_costs_no_more_than_the_deadline():
    lineage = Lineage.begin()
    async with served() as made:
        finder = made.client.finder(lineage, deadline_seconds=0.5)
        await keep(made.store, metas(lineage, 10))
        for each in metas(lineage, 10):
            await finder.add(each)
        made.replica.send(signal.SIGSTOP)
        begin = monotonic()
        for n in range(3):
            with pytest.raises((DeadlineExceeded, Unavailable)):
                await finder.nearest(query(n), 5)
        await finder.add(meta(lineage.key(10)))
        assert monotonic() - begin < 20, "four deadlines of half a second, on a busy machine"
        assert [each.key.index for each in finder.pending] == [10]
        made.replica.send(signal.SIGCONT)
        asked = lookup(lineage, published=10, pending=finder.pending)
        assert await until_answered(made.client, asked) == Found(oracle(metas(lineage, 11), asked), 11, 0)


async def test_a_store_that_is_down_is_unavailable_and_never_an_empty_world():
    lineage, other = Lineage.begin(), Lineage.begin()
    async with served() as made:
        await keep(made.store, metas(lineage, 10))
        with pytest.raises(NotFound):
            await one(made.client, lookup(other, published=3))
        await made.shard.end(signal.SIGKILL)
        with pytest.raises(Unavailable, match="shard"):
            await one(made.client, lookup(lineage, published=10))
        await made.client.add(lineage, metas(lineage, 4))
        asked = lookup(lineage, published=10)
        assert await one(made.client, asked) == Found(oracle(metas(lineage, 4), asked), 4, 6)
        assert await made.client.remove([lineage.key(1)]) == 0
        with pytest.raises(Unavailable):
            await made.client.least_useful(lineage, 2, 8.0, published=10)
        assert (await one(made.client, lookup(Lineage.begin()))).hits == []
        await made.shard.start()  # empty: what it had was in its memory alone
        assert await until_answered(made.client, asked) == Found(oracle(metas(lineage, 4), asked), 4, 6)
        async with asyncio.timeout(60):
            # The replica's client asks the shard again after a rest.
            while not await made.client.remove([lineage.key(1)]):  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(0.1)
        assert (await one(made.client, asked)).candidates == 3


async def test_a_frozen_store_gives_a_part_in_time():
    lineage = Lineage.begin()
    async with served(STORE__STALL_SECONDS="60", SERVING__LATE_SECONDS="1") as made:
        await keep(made.store, metas(lineage, 10))
        await made.client.add(lineage, metas(lineage, 6))
        made.shard.process.send_signal(signal.SIGSTOP)
        try:
            found = await one(made.client, lookup(lineage, published=10), deadline_seconds=4)
            assert (found.candidates, found.missing) == (6, 4)
            with pytest.raises(DeadlineExceeded):
                await one(made.client, lookup(Lineage.begin(), published=2), deadline_seconds=4)
            assert (await made.client.stats())[made.replica.address].chunks == 6
        finally:
            made.shard.process.send_signal(signal.SIGCONT)
        assert (await one(made.client, lookup(lineage, published=10))).missing == 0


async def test_a_hundred_sessions_ask_for_a_world_that_is_read_once():
    lineage = Lineage.begin()
    async with served() as made:
        known = metas(lineage, 300)
        await keep(made.store, known)
        asked = lookup(lineage, published=300)
        found = await asyncio.gather(*(one(made.client, asked) for _ in range(100)))
        assert found == [Found(oracle(known, asked), 300, 0)] * 100
        assert (await made.client.stats())[made.replica.address].rebuilt == 1


async def test_tenants_have_their_own_chunks_under_the_same_names():
    lineage = Lineage.begin()
    async with (
        served() as made,
        RetrieverClient(fixed(made.replica.address), RetrieverClientConfig(tenant="other")) as other,
    ):
        await keep(made.store, metas(lineage, 10))
        with pytest.raises(NotFound):
            await one(other, lookup(lineage, published=10))
        assert (await one(made.client, lookup(lineage, published=10))).candidates == 10
        theirs = [meta(lineage.key(n), 1) for n in range(3)]
        await other.add(lineage, theirs)
        asked = lookup(lineage, selector="pose")
        assert (await one(other, asked)).hits == oracle(theirs, asked)
        assert (await one(made.client, asked)).hits == oracle(metas(lineage, 10), asked)


def membership(number: int, made: Sequence[ReplicaProcess], leaving: Sequence[ReplicaProcess] = ()) -> Membership:
    def named(some: Sequence[ReplicaProcess]) -> tuple[Member, ...]:
        return tuple(Member(each.address, each.address) for each in some)

    return Membership(number, named(made), named(leaving))


async def test_replicas_join_leave_and_die_and_every_world_is_answered():
    worlds = [Lineage.begin() for _ in range(12)]
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(shard(RAM__BUDGET_BYTES=str(64 << 20)))
        keeper = await stack.enter_async_context(KVClient(fixed(store.address), CONFIG))
        made = [await stack.enter_async_context(replica(store.address)) for _ in range(3)]
        now = [membership(1, made[:2])]
        client = await stack.enter_async_context(RetrieverClient(lambda: now[0], CLIENT))
        for world in worlds:
            await keep(keeper, metas(world, 20))

        async def all_right() -> None:
            for world in worlds:
                asked = lookup(world, published=20)
                assert await until_answered(client, asked) == Found(oracle(metas(world, 20), asked), 20, 0)

        async def rebuilt() -> list[int]:
            return [0 if each is None else each.rebuilt for each in (await client.stats()).values()]

        def where() -> list[str]:
            return [client.replicas.of(world).member.name for world in worlds]

        await all_right()
        assert sum(await rebuilt()) == 12
        before = where()
        now[0] = membership(2, made)
        moved = sum(a != b for a, b in zip(before, where(), strict=True))
        await all_right()
        assert sum(await rebuilt()) == 12 + moved
        now[0] = membership(3, made[1:], leaving=made[:1])
        assert made[0].address not in where()
        await all_right()
        now[0] = membership(4, made)
        await all_right()
        await made[1].end(signal.SIGKILL)
        await all_right()
        assert made[1].address not in where(), "its worlds are at the next in rank"
        await made[1].start()

        async def back() -> None:
            while made[1].address not in where():  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(0.1)

        await asyncio.wait_for(back(), 60)
        await all_right()


async def test_bytes_that_mean_nothing_leave_a_replica_as_it_is():
    lineage = Lineage.begin()
    async with served() as made, channel(made.replica.address) as raw:
        await made.client.add(lineage, metas(lineage, 5))
        for name in ("Add", "Remove", "Nearest", "LeastUseful"):
            method: Any = raw.unary_unary(f"/worldkv.v1.Retriever/{name}")
            for data in (b"\xff" * 50, b"\x0a\x03abc", bytes(range(200)), b"\x0a\xff\xff\xff\xff\x0f"):
                with pytest.raises(InvalidInput), translated():
                    await method(data, timeout=10)
        stub = RetrieverStub(raw)
        request = pb.NearestRequest(queries=[pb.NearestQuery()])
        for _ in range(20):
            call = stub.Nearest(request)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        asked = lookup(lineage)
        assert (await one(made.client, asked)).hits == oracle(metas(lineage, 5), asked)
        said = await made.replica.end()
        assert "Traceback" not in said, said


async def test_settings_that_are_wrong_stop_the_process_with_words(tmp_path):
    async def refused(text: str, words: str) -> None:
        config = tmp_path / words
        config.write_text(text)
        command = [sys.executable, "-m", "services.retriever", "--config", str(config)]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
        _, said = await process.communicate()
        assert (process.returncode, words in said.decode()) == (1, True), said.decode()
        assert "Traceback" not in said.decode()

    await refused("[store]\n", "store.shards")
    await refused('[service]\naddress = "nowhere"', "nowhere")
