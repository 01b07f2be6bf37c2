"""The gateway's gRPC face before toy generators: where sessions are placed, found and taken up again."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry

from services.gateway.config import RoutingConfig
from services.gateway.generators import Generators
from services.gateway.metrics import Metrics
from services.gateway.routing import Router, Walked
from tests.wire.gateways import Client, Gateway, fleet, setting, until
from worldkv import rpc
from worldkv.client import MembershipFile
from worldkv.client.policy import Deadline
from worldkv.errors import AlreadyExists, Conflict, InvalidInput, NotFound, OverBudget, SpecMismatch, Unavailable
from worldkv.v1 import sessions_pb2 as pb
from worldkv.v1.sessions_pb2_grpc import SessionsStub


async def test_a_walk_is_what_its_generator_draws(tmp_path):
    async with setting(tmp_path, "a") as (made, gateway):
        opened = await gateway.open()
        async with gateway.walk(opened.session) as client:
            joined = await client.next("joined")
            assert (joined.session, joined.next, joined.model) == (opened.session, 0, "toy on a")
            await client.move(1, number=7)
            await client.move(2)
            first, second = await client.drawn(2)
        assert (first.number, second.number) == (7, 0)
        assert [first.key.index, second.key.index] == [0, 1]
        assert len(first.pictures) == 2
        assert made.tier.record("default", opened.session).moves == [1, 2]


async def test_sessions_spread_over_generators_and_stay(tmp_path):
    async with setting(tmp_path, "a", "b", most=4) as (made, gateway):
        sessions = [(await gateway.open()).session for _ in range(8)]
        assert sorted(len(toy.live) for toy in made.toys()) == [4, 4]
        for session in sessions:
            home = made.home(session)
            async with gateway.walk(session) as client:
                assert (await client.next("joined")).model == f"toy on {home.name}"
        assert not any("Resume" in toy.calls for toy in made.toys())


async def test_when_all_are_full_the_numbers_are_told(tmp_path):
    async with setting(tmp_path, "a", "b", most=1) as (_, gateway):
        await gateway.open()
        await gateway.open()
        with pytest.raises(OverBudget, match=r"a with 1 session and room for 0: 1 sessions of 1; b with 1 session"):
            await gateway.open()
        assert gateway.figure("refused_total") == 1


async def test_a_generator_that_refuses_is_passed_over(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        made.running["a"].toy.refuses = OverBudget("no")
        assert {(await gateway.open()).model for _ in range(8)} == {"toy on b"}
        made.running["b"].toy.refuses = SpecMismatch("another model")
        with pytest.raises(SpecMismatch, match="another model"):
            await gateway.open()


async def test_without_generators_calls_are_unavailable(tmp_path):
    async with fleet(tmp_path, "a", "b") as made, made.gateway() as gateway:
        await made.kill("a")
        await made.kill("b")
        for call in (gateway.open(), _closed(gateway, "x")):
            with pytest.raises(Unavailable, match="no generator answers, of a, b"):
                await call
        with pytest.raises(Unavailable), rpc.translated():
            await gateway.stub.List(pb.ListRequest())
        await until(lambda: gateway.figure("generators", state="silent") == 2)


async def test_who_leaves_keeps_its_sessions_and_gets_no_more(tmp_path):
    async with setting(tmp_path, "a", "b", most=20) as (made, gateway):
        old = (await gateway.open()).session
        home = made.home(old)
        made.leave(home.name)
        assert {(await gateway.open()).model for _ in range(6)} == {f"toy on {'ab'.replace(home.name, '')}"}
        async with gateway.walk(old) as client:
            await client.move(1)
            await client.drawn(1)
        assert made.home(old) is home


@pytest.mark.slow
async def test_who_is_no_member_any_more_is_forgotten_once_nobody_walks_there(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        session = (await gateway.open()).session
        home, other = made.home(session).name, "ab".replace(made.home(session).name, "")
        async with gateway.walk(session) as client:
            await client.move(1)
            await client.drawn(1)
            gone = made.running.pop(home)
            made.leave(home)
            await until(lambda: gateway.figure("generators", state="answering") == 2)
            await client.move(2)
            assert (await client.drawn(1))[0].key.index == 1
        await until(lambda: gateway.figure("generators", state="answering") == 1)
        async with gateway.walk(session) as client:
            assert (await client.next("joined")).model == f"toy on {other}"
        await gone.kill()


async def test_a_known_world_is_opened_where_its_root_lives(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        first = await gateway.open(world="rooms")
        async with gateway.walk(first.session) as client:
            await client.move(1)
            await client.drawn(1)
        fork = await gateway.stub.Fork(pb.ForkRequest(session=first.session, world="copy"))
        assert fork.world.name == "copy"
        home = made.home(first.session).name
        made.running["ab".replace(home, "")].toy.most = 100
        assert [(await gateway.open(world="rooms")).model for _ in range(3)] == [f"toy on {home}"] * 3
        assert (await gateway.open(world="copy")).model == f"toy on {home}"
        assert (await gateway.open()).model != f"toy on {home}"


async def test_tenants_do_not_see_each_other(tmp_path):
    async with setting(tmp_path, "a") as (made, gateway):
        opened = await gateway.open("one")
        assert ("one", opened.session) in made.tier.records
        async with gateway.walk(opened.session, tenant="two") as client:
            with pytest.raises(NotFound):
                await client.hear()
        listed = [
            await gateway.stub.List(pb.ListRequest(), metadata=((rpc.TENANT_KEY, tenant),)) for tenant in ("one", "two")
        ]
        assert [len(page.sessions) for page in listed] == [1, 0]


async def test_another_gateway_serves_old_sessions(tmp_path):
    async with fleet(tmp_path, "a", "b") as made, made.gateway() as second:
        async with made.gateway() as first:
            opened = await first.open()
            async with first.walk(opened.session) as client:
                await client.move(1)
                await client.drawn(1)
        home = made.home(opened.session)
        async with second.walk(opened.session, seen=1) as client:
            assert (await client.next("joined")).model == f"toy on {home.name}"
            await client.move(2, number=2)
            (drawn,) = await client.drawn(1)
        assert (drawn.key.index, drawn.number) == (1, 2)


async def test_a_second_client_takes_a_session_over(tmp_path):
    async with fleet(tmp_path, "a") as made, made.gateway() as one, made.gateway() as two:
        session = (await one.open()).session
        async with one.walk(session) as first, two.walk(session) as second:
            await second.next("joined")
            await first.next("joined")
            with pytest.raises(Conflict, match="taken over"):
                await first.hear()
            await second.move(1)
            await second.drawn(1)


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "begins with a join"),
        ([pb.WalkRequest(move=pb.Move())], "begins with a join"),
        ([pb.WalkRequest(join=pb.Join())], "names a session"),
        ([pb.WalkRequest(join=pb.Join(session="S"))] * 2, "a second join"),
        ([pb.WalkRequest(join=pb.Join(session="S")), pb.WalkRequest()], "no message"),
        ([pb.WalkRequest(join=pb.Join(session="S")), pb.WalkRequest(move=pb.Move(number=1 << 63))], "less than 2"),
        ([pb.WalkRequest(join=pb.Join(session="S")), pb.WalkRequest(move=pb.Move())], "expected 1 of them, got 0"),
    ],
)
async def test_a_walk_that_says_nonsense_ends_and_no_other_does(tmp_path, requests, words):
    async with setting(tmp_path, "a") as (_, gateway):
        other, session = (await gateway.open()).session, (await gateway.open()).session
        for request in requests:
            if request.join.session:
                request.join.session = session
        async with gateway.walk(other) as bystander:
            with pytest.raises(InvalidInput, match=words), rpc.translated():
                async for _ in gateway.stub.Walk(iter(requests)):
                    pass
            await bystander.move(1)
            await bystander.drawn(1)
        async with gateway.walk(session) as client:
            await client.next("joined")


async def test_unknown_sessions_are_not_found_anywhere(tmp_path):
    async with setting(tmp_path, "a", "b") as (_, gateway):
        async with gateway.walk("nobody") as client:
            with pytest.raises(NotFound, match="nobody"):
                await client.hear()
        with pytest.raises(NotFound, match="nobody"):
            await _closed(gateway, "nobody")


async def test_errors_keep_their_class(tmp_path):
    async with setting(tmp_path, "a") as (_, gateway):
        session = (await gateway.open(world="w")).session
        with pytest.raises(AlreadyExists, match="a world 'w' exists"), rpc.translated():
            await gateway.stub.Fork(pb.ForkRequest(session=session, world="w"))
        with pytest.raises(InvalidInput, match="at = 9"), rpc.translated():
            await gateway.stub.Rewind(pb.RewindRequest(session=session, at=9))


async def test_sessions_are_listed_once_in_order_and_in_pages(tmp_path):
    async with setting(tmp_path, "a", "b", "c", most=5) as (made, gateway):
        sessions = sorted([(await gateway.open()).session for _ in range(11)])
        for size in (1, 3, 11, 100):
            found, token = [], ""
            while True:
                page = await gateway.stub.List(pb.ListRequest(page_size=size, page_token=token))
                assert len(page.sessions) <= size
                found += [each.session for each in page.sessions]
                if not (token := page.next_page_token):
                    break
            assert found == sessions
        await made.kill("a")
        page = await gateway.stub.List(pb.ListRequest())
        assert 0 < len(page.sessions) < 11, "those of a dead generator live nowhere"


async def test_a_session_whose_generator_died_is_closed_elsewhere(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        opened = await gateway.open()
        async with gateway.walk(opened.session) as client:
            await client.move(1)
            await client.drawn(1)
        await made.kill(made.home(opened.session).name)
        closed = await _closed(gateway, opened.session)
        assert closed.remembered.end == 1
        assert not made.tier.records


@pytest.mark.parametrize("stage", ["closing", "closed"])
async def test_what_may_have_been_done_is_not_done_again(tmp_path, stage):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        session = (await gateway.open()).session
        made.home(session).dies = lambda now: now == stage
        with pytest.raises(Unavailable, match="may or may not have been done"):
            await _closed(gateway, session)
        calls = [call for toy in made.toys() for call in toy.calls]
        assert calls.count("Close") == 1
        assert "Resume" not in calls


@pytest.mark.parametrize(
    "new", [{"scene": "rooms:7"}, {"picture": b"boats"}, {"tour": "R90"}, {"start": pb.Walker(z=1)}]
)
async def test_a_world_that_may_have_been_begun_is_not_begun_elsewhere(tmp_path, new):
    async with setting(tmp_path, "a", "b") as (made, gateway):
        for toy in made.toys():
            toy.dies = lambda stage: stage == "opened"
        with pytest.raises(Unavailable, match="may have begun world 'one', and does not answer"):
            await gateway.open(world="one", **new)
        assert len(made.tier.records) == 1


async def test_one_call_resumes_a_session_however_many_want_it(tmp_path):
    async with setting(tmp_path, "a", "b", "c") as (made, gateway):
        session = (await gateway.open()).session
        await made.kill(made.home(session).name)
        forks = [gateway.stub.Fork(pb.ForkRequest(session=session, world=f"w{n}")) for n in range(6)]
        await asyncio.gather(*forks)
        assert sum(toy.calls.count("Resume") for toy in made.toys()) == 1


async def test_nobody_waits_for_a_generator_that_is_known_to_be_silent(tmp_path):
    async with setting(tmp_path, "a", "b") as (made, gateway), AsyncExitStack() as stack:
        session = (await gateway.open()).session
        was = made.home(session)
        was.frozen, config = True, RoutingConfig(silent_seconds=3600)
        generators = Generators(MembershipFile(made.members), config, rpc.TLS())
        stack.push_async_callback(generators.close)
        router = Router(generators, config, Metrics(CollectorRegistry()))
        silent = next(each for each in generators.everyone() if each.name == was.name)
        silent.silent.set()
        with router.walked("default", session, Walked(silent, lambda world, next: None)):
            async with asyncio.timeout(20):
                place = await router.settle("default", session, Deadline(20))
        assert place.generator.name != was.name


async def _closed(gateway: Gateway, session: str) -> pb.CloseResponse:
    with rpc.translated():
        closed: pb.CloseResponse = await gateway.stub.Close(pb.CloseRequest(session=session))
    return closed


async def test_a_walk_is_told_that_its_gateway_ends(tmp_path):
    async with fleet(tmp_path, "a") as made, AsyncExitStack() as stack:
        async with made.gateway(drain_seconds=10) as gateway:
            session = (await gateway.open()).session
            channel = await stack.enter_async_context(rpc.channel(gateway.serving.address))
            client = await stack.enter_async_context(Client(SessionsStub(channel), session, 0, "default"))
            await client.next("joined")
            ended = asyncio.create_task(client.next("drawn"))
        with pytest.raises(Unavailable, match="this gateway ends: join the session again"):
            await ended
