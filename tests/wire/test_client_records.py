"""Worlds and sessions over several real servers, and what a shard that leaves hands on."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from services.kvstore.records import kept
from tests.wire.shards import BRANCH, CONFIG, Setting, found, frame, kv, part, shards
from tests.wire.toy_kvstore import Toy, serving
from worldkv.catalog import Snapshot, World
from worldkv.chunk import Lineage
from worldkv.client import HandedOver, Holdings, KVClient, Member, Membership, Retry, hand_over
from worldkv.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidConfig,
    NotFound,
    Unavailable,
)
from worldkv.format import Frame, join
from worldkv.store import Level, Miss, PartKey
from worldkv.v1 import kvstore_pb2 as pb


def world(chunks: int = 0, name: str = "harbour") -> World:
    return World(name, Lineage.begin(BRANCH), chunks=chunks)


def keeper(setting: Setting, name: str, rank: int = 0) -> tuple[str, Toy]:
    """The shard of this rank for something called `name`, and its own name."""
    member = setting.state["now"].ranked(name.encode())[rank]
    return member.name, setting.toys[member.name]


async def test_a_world_is_on_two_shards_and_goes_on_with_either():
    async with shards("abc") as setting:
        worlds = setting.client.worlds
        assert (await worlds.swap("harbour", 0, world(1))).level == Level.TWO
        assert (await worlds.read("harbour")).level == Level.TWO
        first, _ = keeper(setting, "harbour")
        setting.become("abc".replace(first, ""))
        stored = await worlds.swap("harbour", 1, world(2))
        assert (stored.world.version, stored.level) == (2, Level.TWO), "the third was brought up to the version"
        setting.become("abc")
        assert (await worlds.read("harbour")).world.chunks == 2, "the highest version is true, whoever is first"
        with pytest.raises(Conflict):
            await worlds.swap("harbour", 1, world(9))
        assert (await worlds.swap("harbour", 2, world(3))).world.version == 3
        assert [each.chunks async for each in worlds.list()] == [3]


async def test_of_two_who_swap_at_once_one_wins():
    async with shards("abc") as setting:
        async with KVClient(lambda: setting.state["now"], CONFIG) as other:
            for version in range(10):
                swaps = [
                    client.worlds.swap("harbour", version, world(n)) for n, client in enumerate((setting.client, other))
                ]
                done = await asyncio.gather(*swaps, return_exceptions=True)
                assert sorted(isinstance(each, Conflict) for each in done) == [False, True]
                won = next(each for each in done if not isinstance(each, Conflict))
                assert (await other.worlds.read("harbour")).world == won.world


async def test_a_world_that_may_be_where_nobody_answers_is_not_called_missing():
    async with serving(Toy()) as address:
        pass
    async with shards("a") as setting:
        setting.state["now"] = Membership(2, (*setting.state["now"].shards, Member("dead", address)))
        worlds = setting.client.worlds
        for call in (worlds.read("harbour"), worlds.swap("harbour", 0, world()), anext(worlds.list())):
            with pytest.raises(Unavailable):
                await call


async def test_a_removed_world_is_gone_from_all_shards():
    async with shards("abc") as setting:
        worlds = setting.client.worlds
        await worlds.swap("harbour", 0, world())
        await worlds.remove("harbour")
        assert [each async for each in worlds.list()] == []
        for name in "abc":
            setting.become(name)
            with pytest.raises(NotFound):
                await worlds.read("harbour")


async def test_a_session_is_saved_twice_and_loaded_from_either():
    async with shards("abc") as setting:
        sessions = setting.client.sessions
        for n in range(3):
            assert await sessions.save("walk", Snapshot(n, Frame.of(b"%d" % n))) == Level.TWO
        first, _ = keeper(setting, "walk")
        setting.become("abc".replace(first, ""))
        assert [join((await sessions.load("walk", older)).state) for older in (False, True)] == [b"2", b"1"]
        await sessions.save("walk", Snapshot(1, Frame.of(b"rewound")))
        assert [join((await sessions.load("walk", older)).state) for older in (False, True)] == [b"rewound", b"2"]
        assert await sessions.delete("walk") == 2
        with pytest.raises(NotFound):
            await sessions.load("walk")


async def test_a_world_is_not_removed_while_a_shard_that_may_have_it_is_silent():
    async with shards("ab", replace(CONFIG, stall_seconds=0.2, retry=Retry(rest_seconds=0))) as setting:
        worlds = setting.client.worlds
        await worlds.swap("harbour", 0, world())
        for rank in (0, 1):
            _, silent = keeper(setting, "harbour", rank)
            silent.frozen = True
            with pytest.raises(Unavailable, match="remove it again"):
                await worlds.remove("harbour")
            silent.frozen = False
            assert (await worlds.read("harbour")).level == Level.ONE, "the silent one has it still"
            await worlds.remove("harbour")
            with pytest.raises(NotFound):
                await worlds.read("harbour")
            await worlds.swap("harbour", 0, world())


async def test_a_state_that_one_shard_has_is_saved_whoever_else_is_too_late():
    async with shards("ab", replace(CONFIG, deadline_seconds=0.5)) as setting:
        second = keeper(setting, "walk", 1)[1]
        second.frozen = True
        assert await setting.client.sessions.save("walk", Snapshot(1, Frame.of(b"1"))) == Level.ONE
        keeper(setting, "walk")[1].frozen = True
        with pytest.raises(DeadlineExceeded):
            await setting.client.sessions.save("walk", Snapshot(2, Frame.of(b"2")))
        for toy in setting.toys.values():
            toy.frozen = False


@pytest.mark.slow
async def test_records_and_states_wait_for_the_membership_that_others_know():
    async with shards("abc", replace(CONFIG, deadline_seconds=0.3)) as setting:
        worlds, sessions = setting.client.worlds, setting.client.sessions
        state = [Snapshot(n, Frame.of(b"%d" % n)) for n in range(3)]
        await worlds.swap("harbour", 0, world(1))
        for each in state[:2]:
            await sessions.save("walk", each)

        async def call(what: str) -> object:
            match what:
                case "make":
                    return (await worlds.swap("quay", 0, world(1, "quay"))).level
                case "swap":
                    return (await worlds.swap("harbour", 1, world(2))).world.version
                case "adopt":
                    return (await worlds.adopt(replace(world(9, "pier"), version=2))).level
                case "save":
                    return await sessions.save("walk", state[2])
                case "adopt states":
                    return await sessions.adopt("tour", [state[1], state[0]])
                case "delete":
                    return await sessions.delete("walk")
            await worlds.remove("harbour")
            return None

        ahead = [keeper(setting, name, rank)[1] for name, rank in (("harbour", 0), ("walk", 0), ("walk", 1))]
        expected = {
            "make": Level.TWO,
            "swap": 2,
            "adopt": Level.TWO,
            "save": Level.TWO,
            "adopt states": Level.TWO,
            "delete": 2,
            "remove": None,
        }
        for what, answer in expected.items():
            knowing = setting.toys.values() if what in ("make", "adopt", "adopt states") else ahead
            for toy in knowing:
                toy.membership = setting.state["now"].number + 1
            with pytest.raises(Unavailable, match="no newer one than"):
                await call(what)
            setting.client.ring.config = replace(CONFIG, deadline_seconds=60)
            calling = asyncio.create_task(call(what))
            await asyncio.sleep(0.1)
            setting.become("abc")
            assert await calling == answer, what
            setting.client.ring.config = replace(CONFIG, deadline_seconds=0.3)
            if what == "save":
                there = [join((await sessions.load("walk", older)).state) for older in (False, True)]
                assert there == [b"2", b"1"], "no state is its own previous one"
        assert [each.name async for each in worlds.list()] == ["pier", "quay"]


async def test_a_write_that_one_of_two_shards_refuses_as_outdated_goes_on_under_the_newer_membership():
    async with shards("abc") as setting:
        worlds, sessions = setting.client.worlds, setting.client.sessions
        await worlds.swap("harbour", 0, world(1))
        for n in range(2):
            await sessions.save("walk", Snapshot(n, Frame.of(b"%d" % n)))

        async def second(name: str, call: Awaitable[Any]) -> Any:
            keeper(setting, name, 1)[1].membership = setting.state["now"].number + 1
            calling = asyncio.ensure_future(call)
            await asyncio.sleep(0.2)
            setting.become("abc")
            return await calling

        assert await second("walk", sessions.save("walk", Snapshot(2, Frame.of(b"2")))) == Level.TWO
        for rank in (0, 1):
            states = await kept(keeper(setting, "walk", rank)[1].states["default"], "walk")
            assert [join(each.state) for each in states] == [b"2", b"1"], "no state is its own previous one"
        await second("walk", sessions.delete("walk"))
        with pytest.raises(NotFound):
            await sessions.load("walk")
        await second("harbour", worlds.remove("harbour"))
        with pytest.raises(NotFound):
            await worlds.read("harbour")


async def handed(setting: Setting, name: str, seconds: float = 60) -> HandedOver:
    """What hand-over of the shard `name` did."""
    toy = setting.toys[name]

    @contextmanager
    def reading(tenant: str, key: PartKey) -> Iterator[Frame | None]:
        held = toy.tier.find(tenant, key)
        if isinstance(held, Miss):
            yield None
        else:
            with held.pin():
                yield Frame(held.views)

    holdings = Holdings(
        toy.tier.all_deleted(),
        [(tenant, each) for tenant, catalog in toy.catalogs.items() async for each in catalog.list()],
        [(tenant, each, await kept(held, each)) for tenant, held in toy.states.items() for each in held.sessions()],
        toy.tier.last_copies(),
    )
    members = lambda: setting.state["now"]  # noqa: E731
    return await hand_over(name, members, holdings, reading, config=CONFIG, seconds=seconds)


@pytest.mark.slow
async def test_shards_that_leave_hand_on_what_they_have():
    async with shards("abc") as setting:
        client, keys = setting.client, [key for n in range(30) for key in (part(n), kv(n))]
        await client.put({key: frame(50_000, key.chunk.index) for key in keys})
        await client.worlds.swap("harbour", 0, world(5))
        for n in range(3):
            await client.sessions.save("walk", Snapshot(n, Frame.of(b"%d" % n)))
        await client.put({key: frame() for key in (part(40), kv(40))})
        await client.delete([part(40)])
        setting.become("ab", leaving="c")
        assert (await handed(setting, "c")).left == 0
        setting.become("a", leaving="b")
        done = await handed(setting, "b")
        assert (done.left, done.worlds, done.sessions, done.deleted) == (0, 1, 1, 1)
        assert done.parts > 30
        setting.become("a")
        assert [join((await client.sessions.load("walk", older)).state) for older in (False, True)] == [b"2", b"1"]
        assert await found(client, kv(40)) is Miss.DELETED
        answers = await client.get(keys)
        assert {key: join(answer) for key, answer in answers.items() if isinstance(answer, Frame)} == {
            key: join(frame(50_000, key.chunk.index)) for key in keys
        }
        assert (await client.worlds.read("harbour")).world.chunks == 5
        with pytest.raises(InvalidConfig, match="no shards"):
            await handed(setting, "a")


async def test_what_nobody_takes_is_counted():
    async with shards("ab") as setting:
        setting.become("a")
        await setting.client.put({kv(n): frame() for n in range(5)})
        setting.become("b", leaving="a")
        setting.toys["b"].refuses = pb.REFUSAL_REASON_NO_ROOM
        done = await handed(setting, "a")
        assert (done.parts, done.left) == (0, 5)
        setting.toys["b"].refuses = pb.REFUSAL_REASON_DELETED
        assert (await handed(setting, "a")).gone == 5
        setting.toys["b"].refuses = pb.REFUSAL_REASON_MEMBERSHIP
        done = await handed(setting, "a", seconds=0.3)
        assert (done.gone, done.left) == (0, 5)


async def test_parts_wait_for_the_membership_that_others_know():
    async with shards("ab") as setting:
        setting.become("a")
        await setting.client.put({kv(n): frame() for n in range(5)})
        await setting.client.delete([part(7)])
        setting.become("b", leaving="a")
        setting.toys["b"].membership = setting.state["now"].number + 1
        handing = asyncio.create_task(handed(setting, "a"))
        await asyncio.sleep(0.3)
        setting.become("b", leaving="a")
        done = await handing
        assert (done.deleted, done.parts, done.gone, done.left) == (1, 5, 0, 0)


async def test_a_shard_that_never_saw_a_deletion_learns_of_it_from_who_leaves():
    async with shards("abc") as setting:
        setting.become("a")
        await setting.client.delete([part(n) for n in range(1500)])
        setting.become("bc", leaving="a")
        done = await handed(setting, "a")
        assert (done.deleted, done.left) == (1500, 0)
        setting.become("bc")
        with pytest.raises(Conflict):
            await setting.client.put({part(1499): frame()})


async def test_one_that_is_dead_does_not_keep_deletions_and_records_from_the_others():
    async with serving(Toy()) as address:
        pass
    async with shards("ab") as setting:
        setting.become("a")
        await setting.client.delete([part()])
        await setting.client.worlds.swap("harbour", 0, world(5))
        await setting.client.sessions.save("walk", Snapshot(1, Frame.of(b"1")))
        now = setting.state["now"]
        setting.state["now"] = Membership(9, (Member("dead", address), Member("b", setting.addresses["b"])), now.shards)
        assert (await handed(setting, "a")).left == 1, "the dead one knows of no deletion"
        setting.become("b")
        assert await found(setting.client, part()) is Miss.DELETED
        assert (await setting.client.sessions.load("walk")).chunks == 1
        assert (await setting.client.worlds.read("harbour")).world.chunks == 5


async def test_states_that_leave_do_not_hide_newer_ones():
    async with shards("abc") as setting:
        client = setting.client
        states = [Snapshot(n, Frame.of(b"%d" % n)) for n in range(6)]

        async def has(*names: int) -> None:
            there = [join((await client.sessions.load("walk", older)).state) for older in (False, True)]
            assert there == [b"%d" % n for n in names]

        first, second = keeper(setting, "walk")[0], keeper(setting, "walk", 1)[0]
        third = keeper(setting, "walk", 2)[0]
        for state in states[:2]:
            await client.sessions.save("walk", state)
        setting.become(first)
        await client.sessions.save("walk", states[2])  # the second has 1 and 0 still
        setting.become(second + third, leaving=first)
        assert (await handed(setting, first)).sessions == 1
        setting.become(second + third)
        await has(2, 1)
        setting.become(third)
        await has(2, 1)
        await client.sessions.save("walk", states[3])
        setting.become(third, leaving=second)
        await handed(setting, second)
        setting.become(third)
        await has(3, 2)
        await client.sessions.save("walk", states[4])
        await client.sessions.save("walk", states[5])
        setting.become(third, leaving=second)
        await handed(setting, second)
        setting.become(third)
        await has(5, 4)


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["older", "newest"])
@pytest.mark.parametrize("step", ["_held", "_write", "_copied"])
async def test_of_two_who_make_a_world_under_different_memberships_one_wins(step, slow, monkeypatch):
    """All of what one of them does falls before this step of the slow one."""
    async with shards("abcd") as setting:
        decides = keeper(setting, "harbour")[0]
        setting.become("abcd".replace(decides, ""))
        before = setting.state["now"]
        setting.become("abcd")  # with one that the older client does not know, and that decides
        async with KVClient(lambda: before, replace(CONFIG, deadline_seconds=3)) as older:
            clients = {"older": older.worlds, "newest": setting.client.worlds}
            (quick,) = clients.keys() - {slow}
            swaps: dict[str, World | Conflict | Unavailable] = {}

            async def swap(who: str) -> None:
                try:
                    swaps[who] = (await clients[who].swap("harbour", 0, world(len(who)))).world
                except (Conflict, Unavailable) as error:  # the older one never hears of the other membership
                    swaps[who] = error

            inner = getattr(clients[slow], step)

            async def interrupted(*args: Any, **more: Any) -> Any:
                if not swaps:
                    await swap(quick)
                return await inner(*args, **more)

            monkeypatch.setattr(clients[slow], step, interrupted)
            await swap(slow)
        won = [each for each in swaps.values() if isinstance(each, World)]
        assert len(won) == 1, swaps
        assert (await setting.client.worlds.read("harbour")).world == won[0]
