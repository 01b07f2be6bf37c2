"""Sessions that are opened in a fork of a world: many begin at the same place, and none is in another's way."""

import pytest

from tests.wire.generator import generating, inside
from tests.wire.shard import until
from tests.wire.test_generator_moving import WALK, steps
from worldkv.errors import InvalidInput, NotFound


@pytest.mark.parametrize("at", [0, 2, None])
async def test_who_forks_a_world_on_opening_is_in_nobodys_way(at):
    async with generating() as caller:
        mine = await caller.open(**WALK)
        async with caller.walk(mine.session) as walk:
            await walk.steps(3)
            await until(lambda: caller.made.live.find("default", mine.session).resident.kept.end == 3)
            wanted = {"world": "harbour", "fork": True} | ({} if at is None else {"at": at})
            guests = [await caller.open(**wanted) for _ in range(2)]
            assert [each.next for each in guests] == [3 if at is None else at] * 2
            assert {each.scene for each in guests} == {"rooms:7"}
            assert len({mine.world.name, *(each.world.name for each in guests)}) == 3
            for guest in guests * 2:  # each comes back
                assert len(await steps(caller, guest.session, 1)) == 3
            assert (await walk.step()).key.index == 3
        for each in (mine, *guests):
            closed = await caller.call("Close", session=each.session)
            assert (closed.world.name, closed.remembered.end) == (each.world.name, 4 if each is mine else each.next + 2)


async def test_a_fork_is_of_a_world_that_is_there():
    async with generating() as caller:
        with pytest.raises(NotFound, match="no world 'harbour' to fork"):
            await caller.open(world="harbour", fork=True)
        with pytest.raises(InvalidInput, match="has to be named"):
            await caller.open(scene="rooms:7", fork=True)
        await caller.open(**WALK)
        with pytest.raises(NotFound, match="no chunk 4"):
            await caller.open(world="harbour", fork=True, at=5)
        with pytest.raises(NotFound):
            await caller.of("other").open(world="harbour", fork=True)
        assert [each.name for each in (await caller.call("Worlds")).worlds] == ["harbour"]


async def test_a_session_in_a_fork_sleeps_and_wakes_there():
    tiers = inside()
    async with generating(tiers) as first, generating(tiers) as second:
        await steps(first, (await first.open(**WALK)).session, 2)
        await first.call("Close", session=(await first.call("List")).sessions[0].session)
        guest = await first.open(world="harbour", fork=True, at=1)
        await steps(first, guest.session, 2)
        await first.call("Suspend", session=guest.session)
        resumed = (await second.call("Resume", session=guest.session)).opened
        assert (resumed.world.name, resumed.next) == (guest.world.name, 3)
