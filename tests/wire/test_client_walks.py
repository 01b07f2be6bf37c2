"""A client and several real servers: who is asked, what is said of misses, which level is reached."""

import asyncio
from dataclasses import replace

import grpc
import pytest

from tests.wire.shards import BRANCH, CONFIG, found, frame, kv, part, shards, until
from tests.wire.toy_kvstore import Toy, serving
from worldkv import rpc
from worldkv.client import KVClient, Member, Membership, Retry
from worldkv.client.policy import Deadline
from worldkv.errors import (
    Conflict,
    DeadlineExceeded,
    Unavailable,
)
from worldkv.format import Frame, join
from worldkv.store import Level, Miss
from worldkv.v1 import kvstore_pb2 as pb


async def test_put_goes_to_the_first_in_rank_and_get_finds_it_there():
    async with shards("abc") as setting:
        client = setting.client
        keys = [kv(n) for n in range(30)]
        await client.put({key: frame() for key in keys})
        for key in keys:
            assert [
                len(toy.tier.scan("default", BRANCH, key.chunk.index, key.chunk.index + 1))
                for toy in setting.order(key)
            ] == [1, 0, 0]
        for toy in setting.toys.values():
            toy.calls.clear()
        assert all(isinstance(each, Frame) for each in (await client.get(keys)).values())
        assert all(toy.calls == ["Get"] for toy in setting.toys.values()), "one call a shard"


async def test_get_walks_the_ranking_when_shards_came_or_are_leaving():
    async with shards("abc") as setting:
        client, keys = setting.client, [kv(n) for n in range(40)]
        setting.become("a")
        await client.put({key: frame() for key in keys})
        setting.become("abc")
        assert all(isinstance(each, Frame) for each in (await client.get(keys)).values())
        setting.become("bc", leaving="a")
        assert all(isinstance(each, Frame) for each in (await client.get(keys)).values())
        await client.put({kv(n): frame() for n in range(50, 80)})
        assert not setting.toys["a"].tier.scan("default", BRANCH, 50), "nothing is put to who leaves"
        setting.become("bc")
        assert set((await client.get(keys)).values()) == {Miss.NEVER_STORED}


async def test_evicted_is_the_reason_only_if_nobody_has_it():
    async with shards("ab") as setting:
        client, (first, second) = setting.client, setting.order(kv())
        await client.put({kv(): frame()})
        first.tier.delete("default", [kv()])
        assert await found(client, kv()) is Miss.EVICTED
        setting.become("".join(name for name, toy in setting.toys.items() if toy is second))
        await client.put({kv(): frame()})
        setting.become("ab")
        assert await found(client, kv()) == join(frame())


async def test_deleted_ends_the_walk_and_reaches_everybody():
    async with shards("abc") as setting:
        client = setting.client
        assert await client.put({part(n): frame() for n in range(9)}) == {part(n): Level.TWO for n in range(9)}
        await client.put({kv(n): frame() for n in range(9)})
        assert await client.delete([part(0), kv(1), part(77)]) == 3, "copies are counted once"
        for toy in setting.toys.values():
            assert toy.tier.find("default", kv(0)) is Miss.DELETED
            toy.calls.clear()
        assert await found(client, part(0)) is Miss.DELETED
        assert sum(len(toy.calls) for toy in setting.toys.values()) == 1
        with pytest.raises(Conflict):
            await client.put({kv(0): frame()})


async def test_scan_joins_what_all_shards_have():
    async with shards("abc") as setting:
        keys = [key for n in range(20) for key in (part(n), kv(n))]
        await setting.client.put({key: frame() for key in keys})
        assert [key async for key in setting.client.scan(BRANCH)] == keys
        assert [key async for key in setting.client.scan(BRANCH, 3, 5, "kv")] == [kv(3), kv(4)]
        assert [key async for key in setting.client.scan(BRANCH, 5, 5)] == []


@pytest.mark.slow
async def test_whoever_scans_may_take_longer_than_a_call_may():
    async with shards("ab", replace(CONFIG, deadline_seconds=2)) as setting:
        keys = [kv(n) for n in range(6)]
        await setting.client.put({key: frame(100) for key in keys})
        seen = []
        async for key in setting.client.scan(BRANCH):
            seen.append(key)
            await asyncio.sleep(0.5)
        assert seen == keys


async def test_an_immutable_part_is_on_two_shards_and_survives_either():
    async with shards("abc") as setting:
        client = setting.client
        assert await client.put({part(): frame()}) == {part(): Level.TWO}
        first, second, third = setting.order(part())
        assert [isinstance(toy.tier.find("default", part()), Miss) for toy in (first, second, third)] == [0, 0, 1]
        setting.become("".join(name for name, toy in setting.toys.items() if toy is not first))
        assert await found(client, part()) == join(frame())


@pytest.mark.parametrize(("names", "redis", "level"), [("a", False, 1), ("ab", False, 2), ("ab", True, 3)])
async def test_levels_are_the_highest_that_answer(names, redis, level):
    async with shards(names) as (client, toys, *_):
        for toy in toys.values():
            toy.level = Level.REDIS if redis else Level.ONE
        assert await client.put({part(): frame()}) == {part(): level}
        assert await client.put({kv(): frame()}) == {kv(): Level.ONE}
        copies = sum(len(toy.tier.scan("default", BRANCH, kind="part")) for toy in toys.values())
        assert copies == (2 if level == 2 else 1)


async def test_a_level_that_cannot_be_had_is_refused():
    async with shards("a") as (client, *_):
        for least in (Level.TWO, Level.REDIS):
            with pytest.raises(Unavailable, match=least.name):
                await client.put({kv(least): frame()}, least=least)
    async with shards("ab") as (client, *_):
        assert await client.put({kv(): frame()}, least=Level.TWO) == {kv(): Level.TWO}


async def test_a_dead_shard_is_passed_over_by_puts_and_a_counted_miss_for_gets():
    async with shards("abc") as setting, serving(Toy()) as address:
        pass
    async with shards("ab", replace(CONFIG, retry=Retry(first_seconds=0.001, rest_seconds=60))) as setting:
        setting.become("ab")
        client = setting.client
        setting.state["now"] = Membership(3, (*setting.state["now"].shards, Member("dead", address)))
        keys = [kv(n) for n in range(12)]
        assert set((await client.put({key: frame() for key in keys})).values()) == {Level.ONE}
        assert set((await client.put({part(n): frame() for n in range(12)})).values()) == {Level.TWO}
        answers = await client.get([*keys, kv(99)])
        assert all(isinstance(answers[key], Frame) for key in keys)
        assert answers[kv(99)] is Miss.TIER_DOWN, "the dead one might have had it"
        failures = client.counters["failures"]
        for _ in range(5):
            await client.get(keys)
        assert client.counters["failures"] == failures, "the dead one rests, and costs nothing"
        for call in (client.delete([kv(0)]), anext(client.scan(BRANCH))):
            with pytest.raises(Unavailable, match="dead"):
                await call
        assert (await client.stats())["dead"] is None


async def test_nobody_there_is_unavailable():
    async with serving(Toy()) as address:
        pass
    async with KVClient(lambda: Membership.of(0, [address]), CONFIG) as client:
        with pytest.raises(Unavailable):
            await client.put({part(): frame()})
        assert await found(client, part()) is Miss.TIER_DOWN


async def test_what_does_not_come_in_time_is_late():
    async with shards("ab") as setting:
        client = setting.client
        keys = [kv(n) for n in range(20)]
        await client.put({key: frame() for key in keys})
        setting.toys["a"].frozen = True
        answers = await client.get(keys, deadline_seconds=0.3)
        assert {key: answer for key, answer in answers.items() if isinstance(answer, Miss)} == {
            key: Miss.LATE for key in keys if setting.order(key)[0] is setting.toys["a"]
        }
        with pytest.raises(DeadlineExceeded):
            await client.put({key: frame() for key in keys}, deadline_seconds=0.2)
        setting.toys["a"].frozen = False


async def test_a_call_has_as_long_as_it_was_given_whatever_others_have(monkeypatch):
    monkeypatch.setattr(rpc.channel, "__defaults__", (None, 0.2))
    async with shards("a") as (client, toys, *_):
        toys["a"].frozen = True
        asking = asyncio.create_task(client.stats(deadline_seconds=60))
        await asyncio.sleep(0.5)
        toys["a"].frozen = False
        assert (await asking)["a"] is not None


@pytest.mark.slow
async def test_a_frozen_shard_rests_and_comes_back_by_itself():
    config = replace(CONFIG, stall_seconds=0.2, retry=Retry(first_seconds=0.001, rest_seconds=2))
    async with shards("ab", config) as setting:
        frozen = setting.toys["a"]
        key, other = [kv(n) for n in range(99) if setting.order(kv(n))[0] is frozen][:2]
        client = setting.client
        await client.put({key: frame()})
        frozen.frozen = True
        assert await found(client, key) is Miss.TIER_DOWN
        asked = len(frozen.calls)
        assert await found(client, key) is Miss.TIER_DOWN
        assert await client.put({other: frame()}) == {other: Level.ONE}
        assert len(frozen.calls) == asked, "it rests"
        frozen.frozen = False

        async def back() -> bool:
            return await found(client, key) == join(frame())

        await until(back)


async def test_writes_of_an_older_membership_wait_for_the_newer_one():
    async with shards("ab") as setting:
        client = setting.client
        await client.put({part(): frame()})
        for toy in setting.toys.values():
            toy.membership = 2
        with pytest.raises(Unavailable, match=r"older membership.* no newer one than 1 came"):
            await client.put({kv(): frame()}, deadline_seconds=0.2)
        with pytest.raises(Unavailable, match="no newer one than 1 came"):
            await client.delete([part()], deadline_seconds=0.2)
        writing = [asyncio.create_task(each) for each in (client.put({kv(): frame()}), client.delete([part(9)]))]
        await asyncio.sleep(0.2)
        setting.become("ab")
        assert await asyncio.gather(*writing) == [{kv(): Level.ONE}, 0]
        assert await found(client, part()) == join(frame())


async def test_the_line_to_who_is_no_member_ends_after_its_calls():
    async with shards("ab", replace(CONFIG, deadline_seconds=0.2, stall_seconds=60)) as setting:
        client, gone = setting.client, setting.toys["a"]
        first, kept = client.ring.everyone()

        def over() -> bool:
            return first.line.channel.get_state() == grpc.ChannelConnectivity.SHUTDOWN

        async def ended() -> bool:
            return over()

        setting.become("a")
        await client.put({kv(): frame()}, deadline_seconds=60)
        gone.frozen = True
        reading = asyncio.create_task(found(client, kv(), deadline_seconds=60))
        await until(lambda: asyncio.sleep(0, gone.calls[-1] == "Get"))
        setting.become("b")
        assert client.ring.everyone() == [kept]
        await asyncio.sleep(0.5)
        assert not over()
        gone.frozen = False
        assert await reading == join(frame())
        await until(ended)
        with pytest.raises(Unavailable, match="the line to shard a is closed"):
            await first.deleted([kv()], Deadline(60))
        setting.become("a")
        assert await found(client, kv(), deadline_seconds=60) == join(frame()), "by a line of its own"
        setting.become("b")
        client.ring.everyone()
        setting.become("ab")
        again = client.ring.everyone()
        await asyncio.sleep(0.5)
        assert client.ring.everyone() == again, "who comes back soon keeps its line"
        assert again[0].line.channel.get_state() != grpc.ChannelConnectivity.SHUTDOWN


async def test_full_shards_leave_the_put_to_the_next():
    async with shards("ab") as setting:
        setting.order(kv())[0].refuses = pb.REFUSAL_REASON_NO_ROOM
        assert await setting.client.put({kv(): frame()}) == {kv(): Level.ONE}
        assert await found(setting.client, kv()) == join(frame())


@pytest.mark.slow
async def test_more_keys_than_a_request_holds():
    async with shards("ab") as setting:
        keys = [part(n) for n in range(3000)]
        await setting.client.put({key: frame(20, n) for n, key in enumerate(keys[::30])})
        answers = await setting.client.get(keys)
        assert [key for key, answer in answers.items() if isinstance(answer, Frame)] == keys[::30]
        assert await setting.client.delete(keys) == 100


async def test_stats_name_every_shard():
    async with shards("ab") as setting:
        await setting.client.put({part(): frame(), kv(): frame()})
        told = await setting.client.stats()
        assert told.keys() == {"a", "b"}
        assert sum(each.parts for each in told.values() if each) == 3
        assert all(each.shared and each.level == Level.ONE and each.budget_bytes for each in told.values() if each)
