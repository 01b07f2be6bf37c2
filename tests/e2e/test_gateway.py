"""The gateway before real generators, a shard and a replica, all of them processes: walks outlive what is killed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.e2e.generator_process import toy_weights
from tests.e2e.part_process import PartProcess, part
from tests.e2e.retriever_process import replica
from tests.e2e.shard_process import shard
from worldkv.actions import Action
from worldkv.client import WalkClient
from worldkv.client.walk import Walk
from worldkv.client.walk_events import Drawn, Notice, NoticeKind

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

TURN = Action(turn=20.0)


class Whole:
    """A gateway that runs, and the generators before which it stands."""

    def __init__(self, gateway: PartProcess, generators: dict[str, PartProcess]) -> None:
        self.gateway, self.generators = gateway, generators
        self.address = gateway.address

    async def home(self, walk: Walk, but: PartProcess | None = None) -> PartProcess:
        """The generator that draws a walk; it is not asked of one that cannot answer."""
        found = []
        for each in self.generators.values():
            if each.runs and each is not but:
                async with WalkClient(each.address) as client:
                    if any(s.session == walk.session and s.joined for s in await client.sessions()):
                        found.append(each)
        (home,) = found
        return home


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Whole]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(shard(RAM__BUDGET_BYTES=str(64 << 20)))
        index = await stack.enter_async_context(replica(store.address))
        found = {"STORE__SHARDS": store.address, "INDEX__REPLICAS": index.address}
        small = {
            "WEIGHTS": str(toy_weights(tmp_path_factory.mktemp("weights"))),
            "MEMORY__CODEC": "int8",
            "MEMORY__SELECTOR": "pose",
            "THREADS": "1",
        }
        soon = [part("generator", NAME=name, **found, **small) for name in "ab"]
        made = dict(zip("ab", await asyncio.gather(*map(stack.enter_async_context, soon)), strict=True))
        named = ",".join(f"{name}={each.address}" for name, each in made.items())
        gateway = await stack.enter_async_context(
            part("gateway", GENERATORS=named, WEB__ADDRESS="127.0.0.1:0", ROUTING__SILENT_SECONDS="3")
        )
        yield Whole(gateway, made)


@pytest_asyncio.fixture(loop_scope="module")
async def service(parts: Whole) -> Whole:
    """All of it runs, whatever the test before has ended."""
    await asyncio.gather(*(each.start() for each in (parts.gateway, *parts.generators.values()) if not each.runs))
    return parts


def turned(walk: Walk, drawn: Drawn) -> float:
    """Degrees to the right from where the walk began."""
    return round(drawn.walker.yaw - walk.opened.walker.yaw, 6) % 360


async def test_a_walk_outlives_its_generators_however_they_end(service):
    async with WalkClient(service.address) as client:
        async with client.open(scene="rooms:7") as walk:
            events, drawn = walk.events(), [await walk.move(TURN) for _ in range(2)]
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
                home = await service.home(walk)
                if number is signal.SIGSTOP:
                    home.send(number)
                else:
                    await home.end(number)
                drawn += [await walk.move(TURN) for _ in range(2)]
                assert await service.home(walk, but=home) is not home
                if number is signal.SIGSTOP:
                    home.send(signal.SIGCONT)
                else:
                    await home.start()
            drawn.append(await walk.move(TURN))
        assert [each.key.index for each in drawn] == [*range(9)]
        assert all(len(each.pictures) == walk.opened.pictures for each in drawn)
        assert [turned(walk, each) for each in drawn] == [60 * n % 360 for n in range(1, 10)]
        told = [each async for each in events]
    moved = [each.chunk for each in told if isinstance(each, Notice) and each.kind is NoticeKind.MOVED]
    assert moved == [2, 4, 6]


async def test_moves_on_their_way_outlive_a_generator_and_its_gateway(service):
    async with WalkClient(service.address) as client, client.open(scene="rooms:7") as walk:
        drawn = []
        async for each in walk.path([TURN] * 36, ahead=4):
            drawn.append(each)
            if len(drawn) == 3:
                await (await service.home(walk)).end(signal.SIGKILL)
            if len(drawn) == 7:
                await service.gateway.end(signal.SIGKILL)
                await service.gateway.start()
        assert [each.key.index for each in drawn] == [*range(12)]
        assert turned(walk, drawn[-1]) == 0
