"""Walks through the whole service, every part a process of its own."""

import asyncio
import secrets
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import pytest
import torch

from pocket.weights_file import SHIPPED
from services.generator.adapters.pocket import PocketWorldModel
from services.generator.crew import Crew, passes
from services.generator.processes import Process, Service, free_addresses, service
from services.generator.scenarios import SCENARIOS, path
from services.generator.served import served_walk
from services.generator.walks import DEFAULT, FULL, PAPER, WINDOW, run_walk
from worldkv.actions import Action
from worldkv.auth import Authority, Claims
from worldkv.client import WalkClient, WalkClientConfig
from worldkv.client.listening import Events
from worldkv.client.walk_events import Applied, Drawn, Notice, NoticeKind
from worldkv.errors import Conflict, InvalidInput, Unauthenticated, Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

T = TypeVar("T")
ONE = {"THREADS": "1", "ENGINE__BATCH": "1", "MEMORY__HOT_BYTES": "0"}
"""Settings of a generator that draws as one process does, and has nothing at hand that it can fetch."""


@pytest.fixture(scope="module")
def whole() -> Iterator[Service]:
    with service(ONE) as made:
        yield made


@pytest.fixture(scope="module")
def model() -> Iterator[PocketWorldModel]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield PocketWorldModel.load(SHIPPED)
    torch.set_num_threads(before)


@pytest.mark.parametrize("variant", [WINDOW, FULL, DEFAULT], ids=lambda variant: variant.name)
async def test_a_walk_through_the_service_is_the_walk_in_process(whole, model, variant):
    walk = path(0, "R100_L50", 15)
    there, here = list[torch.Tensor](), list[torch.Tensor]()
    async with WalkClient(whole.address) as client:
        served = await served_walk(client, model, walk, variant, there.append)
    done = await asyncio.to_thread(run_walk, model, walk, variant, here.append)
    assert all(torch.equal(a, b) for a, b in zip(there, here, strict=True))
    assert np.array_equal(served.pictures, done.pictures)
    assert np.array_equal(served.truth, done.truth)
    told = [[(log.index, log.recalled, log.kv_bytes) for log in each.chunks] for each in (served, done)]
    assert told[0] == told[1]
    assert (sum(log.recalled_bytes for log in served.chunks) > 0) == (variant is DEFAULT)


def test_workers_walk_through_a_service(whole, model):
    walk = path(0, "R60_L40", 9)
    with Crew(SHIPPED, whole.address) as crew:
        served = crew.walk(walk, DEFAULT).result()
        assert crew.done == pytest.approx(sum(passes(walk, "worldkv")))
    assert np.array_equal(served.pictures, run_walk(model, walk, DEFAULT).pictures)


def test_workers_show_a_token_where_one_is_asked_for(model, tmp_path):
    secret, walk = tmp_path / "secret", path(0, "R30", 3)
    secret.write_text(secrets.token_hex(32))
    token = Authority(secret).sign(Claims("acme"), seconds=600)
    with service({**ONE, "SERVICE__AUTH__SECRET": str(secret)}, shards=1, gateways=0) as made:
        with Crew(SHIPPED, made.address, WalkClientConfig(tenant="acme", token=token)) as crew:
            served = crew.walk(walk, DEFAULT).result()
        with Crew(SHIPPED, made.address) as crew, pytest.raises(Unauthenticated):
            crew.walk(walk, DEFAULT).result()
    assert np.array_equal(served.pictures, run_walk(model, walk, DEFAULT).pictures)


async def test_what_a_service_does_not_have_is_refused(whole, model):
    async with WalkClient(whole.address) as client:
        with pytest.raises(InvalidInput, match="not as"):
            await served_walk(client, model, SCENARIOS["pan90"](0), PAPER)
        with pytest.raises(InvalidInput, match="rooms that no seed gives"):
            await served_walk(client, model, SCENARIOS["open"](0), DEFAULT)


async def test_all_that_a_walk_can_do_it_does_with_a_real_service(whole):
    turn = Action(turn=9.0)
    async with WalkClient(whole.address, tenant=f"tenant-{secrets.token_hex(4)}") as client:  # anew when it is repeated
        async with client.open("rooms:7", world="mine", tour="R45", lockstep=True) as walk:
            events = walk.events()
            await walk.hold(turn)
            held = [await until(events, Drawn) for _ in range(4)]
            assert [chunk.key.index for chunk in held] == [0, 1, 2, 3]
            paused = await walk.pause()
            while (await until(events, Applied)).number != paused:
                pass
            drawn = [chunk async for chunk in walk.path("R27_3")]
            await walk.rewind(3)
            again = await walk.move(turn)
            assert (again.key.index, again.key.branch) == (3, walk.world.lineage.head)
            assert again.key.branch != drawn[0].key.branch
            forked = await walk.fork("other")
            assert (await client.sessions())[0].world == "mine"
            async with client.join(walk.session) as other:
                assert (other.next, other.walker) == (4, walk.walker)
                with pytest.raises(Conflict):
                    await walk.move(turn)
                assert (await other.move(turn)).key.index == 4
                assert (await other.close()).end == 5
        assert await client.sessions() == []
        async with client.open(world=forked.name) as walk:
            assert (await walk.move(turn)).key.index == walk.opened.next == 4
            assert walk.world.lineage.key(2) == drawn[0].key._replace(index=2)
    async with WalkClient(whole.address, tenant="nobody") as client:
        assert await client.sessions() == []


async def until(events: Events, kind: type[T]) -> T:
    """The next event of a kind."""
    async with asyncio.timeout(60):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the walk has ended")


async def test_every_chunk_comes_once_though_the_gateway_is_killed(whole):
    (address,) = free_addresses(1)
    settings = {"GENERATORS": ",".join(whole.generators), "WEB__ADDRESS": "", "SERVICE__ADDRESS": address}
    first = Process("gateway", settings)
    await asyncio.to_thread(first.address)
    drawn = list[Drawn]()
    async with WalkClient(address) as client, client.open("rooms:7", lockstep=True) as walk:
        events = walk.events()
        path = walk.path("R135", ahead=3)
        drawn.append(await anext(path))
        first.running.kill()
        with first, Process("gateway", settings):
            drawn += [chunk async for chunk in path]
            assert [chunk.key.index for chunk in drawn] == [*range(5)]
            assert walk.walker.yaw == pytest.approx(walk.opened.walker.yaw + 135)
            assert (await walk.close()).end == 5
    told = [event async for event in events]
    assert [event.key for event in told if isinstance(event, Drawn)] == [chunk.key for chunk in drawn]
    kinds = [event.kind for event in told if isinstance(event, Notice)]
    assert kinds == [NoticeKind.DISCONNECTED, NoticeKind.RECONNECTED]


def test_a_process_that_ends_by_itself_says_why():
    with Process("retriever", {"SERVING__THREADS": "0"}) as made, pytest.raises(Unavailable, match="threads must be"):
        made.address()
