"""Parts in this process, and a supervisor over them, asked over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.cluster import fleet
from services.cluster.config import ClusterConfig, SupervisionConfig
from services.cluster.kinds import place_of, servicers
from services.cluster.part import PartProcess
from services.cluster.roster import KINDS, Pulse, Roster, Where, parsed
from services.cluster.supervisor import Supervisor
from services.kvstore import leaving
from services.kvstore.config import KVStoreConfig
from services.kvstore.ram import RamConfig
from services.retriever.config import RetrieverConfig
from worldkv import rpc
from worldkv.chunk import ChunkKey
from worldkv.client import ClientConfig, HandedOver, KVClient, Member, MembershipFile, hand_over
from worldkv.errors import InvalidConfig, InvalidInput, NotFound, Unavailable
from worldkv.format import Frame
from worldkv.rpc import TLS
from worldkv.service import ServiceConfig, serve
from worldkv.store import Miss, PartKey
from worldkv.v1 import fleet_pb2 as pb
from worldkv.v1.fleet_pb2_grpc import FleetStub

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
SETTINGS: dict[str, Any] = {
    "kvstore": KVStoreConfig(ram=RamConfig(8 << 20, huge_pages=False)),
    "retriever": RetrieverConfig(),
}
SUPERVISION = SupervisionConfig(ping_seconds=0.5, silent_seconds=20, rest_seconds=0.01)
PATIENCE = 60.0


class Here:
    """Shards and replicas as parts of this process; generators and gateways, which need more, are only names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, PartProcess] = {}

    async def start(self, name: str, roster: Roster) -> Where:
        kind = parsed(name)[0]
        if kind not in SETTINGS:
            return Where(f"{HOST}:1")
        place = place_of(ClusterConfig(host=HOST), name, self.folder, dict.fromkeys(KINDS, TLS()))
        made = PartProcess(place, servicers(kind))
        where = await made.start(SETTINGS[kind], roster, HOST)
        self.parts[name] = made
        return where

    async def stop(self, name: str, seconds: float) -> None:
        if name in self.parts:
            await self.parts.pop(name).end()

    async def ping(self, name: str) -> Pulse:
        if parsed(name)[0] not in SETTINGS:
            return Pulse(Where(f"{HOST}:1"), 0.0, {}, Roster())
        if name not in self.parts:
            raise NotFound(name)
        return self.parts[name].pulse()

    async def publish(self, name: str, roster: Roster) -> None:
        if name in self.parts:
            self.parts[name].publish(roster)


@asynccontextmanager
async def service(folder: Path, **more) -> AsyncIterator[tuple[Here, Any]]:
    units = Here(folder)
    made = Supervisor(units, SUPERVISION, dict.fromkeys(KINDS, 1), **more)
    async with serve(ServiceConfig(), fleet.servicers(made, "10.0.0.1:6379", "redis://10.0.0.2")) as serving:
        made.begin()
        try:
            async with asyncio.timeout(PATIENCE), rpc.channel(serving.address, deadline_seconds=None) as channel:
                await made.until_ready()
                yield units, FleetStub(channel)
        finally:
            await made.stop()


async def status(stub: Any) -> dict[str, pb.FleetPart]:
    told = await stub.FleetStatus(pb.FleetStatusRequest())
    return {part.name: part for part in told.parts}


async def test_what_serves_where_is_told_with_its_figures(tmp_path):
    async with service(tmp_path) as (units, stub):
        told = await stub.FleetStatus(pb.FleetStatusRequest())
        assert (told.ray, told.redis) == ("10.0.0.1:6379", "redis://10.0.0.2")
        assert [part.name for part in told.parts] == ["kvstore-1", "retriever-1", "generator-1", "gateway-1"]
        assert [part.kind for part in told.parts] == [1, 2, 3, 4]
        assert {part.state for part in told.parts} == {pb.PART_STATE_READY}
        assert told.membership >= 4
        async with asyncio.timeout(PATIENCE):
            while "used" not in (shard := (await status(stub))["kvstore-1"]).figures:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)
        assert shard.figures["used"] == "0 bytes"
        assert shard.metrics.startswith(f"{HOST}:")
        assert shard.address == units.parts["kvstore-1"].pulse().where.address


async def test_scaling_answers_when_all_have_come_and_know_each_other(tmp_path):
    async with service(tmp_path) as (units, stub):
        answer = await stub.Scale(pb.ScaleRequest(wanted=[pb.Wanted(kind=pb.PART_KIND_KVSTORE, count=2)]))
        assert [part.name for part in answer.status.parts][:2] == ["kvstore-1", "kvstore-2"]
        for name in units.parts:
            members = MembershipFile(tmp_path / "parts" / name / "kvstore.toml")()
            assert members.number == answer.status.membership
            assert {each.name: each.address for each in members.shards} == {
                part.name: part.address for part in answer.status.parts if part.kind == pb.PART_KIND_KVSTORE
            }
        await stub.Scale(pb.ScaleRequest(wanted=[pb.Wanted(kind=pb.PART_KIND_KVSTORE, count=1)]))
        assert set(units.parts) == {"kvstore-1", "retriever-1"}


async def test_shards_that_leave_together_lose_no_keys_and_values(tmp_path, monkeypatch):
    keys = [PartKey(ChunkKey(b"b" * 16, index), "kv") for index in range(60)]
    async with service(tmp_path) as (units, stub):
        await stub.Scale(pb.ScaleRequest(wanted=[pb.Wanted(kind=pb.PART_KIND_KVSTORE, count=3)]))
        stop, number = units.stop, MembershipFile(tmp_path / "parts" / "kvstore-1" / "kvstore.toml")

        async def stop_one_by_one(name: str, seconds: float) -> None:
            if name == "kvstore-3":  # those who stay know by then that the second one is gone
                while any(each.name == "kvstore-2" for each in number().everyone):  # noqa: ASYNC110 - it is a file
                    await asyncio.sleep(0.01)
                while (await seen(client))["kvstore-1"] < number().number:  # noqa: ASYNC110 - it is in another shard
                    await asyncio.sleep(0.05)
            await stop(name, seconds)

        async with KVClient(number, ClientConfig(landing_bytes=8 << 20, staging_bytes=8 << 20)) as client:
            await client.put({key: Frame.of(bytes([key.chunk.index]) * 1000) for key in keys})
            monkeypatch.setattr(units, "stop", stop_one_by_one)
            await stub.Scale(pb.ScaleRequest(wanted=[pb.Wanted(kind=pb.PART_KIND_KVSTORE, count=1)]))
            assert [key for key, found in (await client.get(keys)).items() if isinstance(found, Miss)] == []


async def test_keys_and_values_are_there_while_a_shard_hands_them_over(tmp_path, monkeypatch):
    keys = [PartKey(ChunkKey(b"b" * 16, index), "kv") for index in range(20)]
    missed: list[list[PartKey]] = []
    async with service(tmp_path) as (_, stub):
        await stub.Scale(pb.ScaleRequest(wanted=[pb.Wanted(kind=pb.PART_KIND_KVSTORE, count=2)]))
        number = MembershipFile(tmp_path / "parts" / "kvstore-1" / "kvstore.toml")
        async with KVClient(number, ClientConfig(landing_bytes=8 << 20, staging_bytes=8 << 20)) as client:
            await client.put({key: Frame.of(bytes([key.chunk.index]) * 1000) for key in keys})

            async def look_and_hand_over(*given: Any, **more: Any) -> HandedOver:
                missed.append([key for key, found in (await client.get(keys)).items() if isinstance(found, Miss)])
                return await hand_over(*given, **more)

            monkeypatch.setattr(leaving, "hand_over", look_and_hand_over)
            await stub.Scale(pb.ScaleRequest(wanted=[pb.Wanted(kind=pb.PART_KIND_KVSTORE, count=1)]))
            monkeypatch.undo()
    assert set(map(tuple, missed)) == {()}


async def seen(client: KVClient) -> dict[str, int]:
    """The newest membership that each shard has seen."""
    return {name: told.membership for name, told in (await client.stats()).items() if told is not None}


REFUSED: dict[str, tuple[type[Exception], list[tuple[int, int]]]] = {
    "one of kvstore, retriever, generator, gateway, got number 0": (InvalidInput, [(0, 1)]),
    "got number 9": (InvalidInput, [(9, 1)]),
    "kvstore=0: expected 1 to 1000": (InvalidConfig, [(1, 0)]),
    "generator stands twice": (InvalidInput, [(3, 2), (3, 1)]),
}


async def test_what_cannot_be_is_refused(tmp_path):
    async with service(tmp_path) as (_, stub):
        for words, (error, wanted) in REFUSED.items():
            with pytest.raises(error, match=words), rpc.translated():
                await stub.Scale(pb.ScaleRequest(wanted=[pb.Wanted(kind=kind, count=count) for kind, count in wanted]))


async def test_after_stop_no_part_is_left(tmp_path):
    async with service(tmp_path, elsewhere={"retriever": (Member("r", "10.0.0.3:7080"),)}) as (units, stub):
        assert (await status(stub))["r"].state == pb.PART_STATE_ELSEWHERE
        await stub.Stop(pb.StopRequest())
        assert not units.parts
        assert list(await status(stub)) == ["r"]


def part_of(folder: Path, name: str = "kvstore-1") -> PartProcess:
    place = place_of(ClusterConfig(host=HOST), name, folder, dict.fromkeys(KINDS, TLS()))
    return PartProcess(place, servicers(parsed(name)[0]))


async def test_a_part_says_how_it_is_and_keeps_the_newest_roster(tmp_path):
    part = part_of(tmp_path)
    with pytest.raises(Unavailable, match="does not serve yet"):
        part.pulse()
    where = await part.start(SETTINGS["kvstore"], Roster(5), HOST)
    try:
        part.publish(Roster(7, {"kvstore": (Member("kvstore-1", where.address),)}))
        part.publish(Roster(6))
        pulse = part.pulse()
        assert (pulse.where, pulse.roster.number) == (where, 7)
        assert pulse.idle < PATIENCE
        assert MembershipFile(tmp_path / "parts" / "kvstore-1" / "kvstore.toml")().number == 7
    finally:
        await part.end()
    await part.end()
    for asked in (part.pulse, lambda: part.publish(Roster(8))):
        with pytest.raises(NotFound, match="has ended"):
            asked()
    assert not (tmp_path / "parts" / "kvstore-1").exists()


async def test_a_part_that_cannot_serve_says_why(tmp_path):
    bad = replace(SETTINGS["kvstore"], ram=RamConfig(1 << 50, huge_pages=False))
    with pytest.raises(InvalidConfig, match=r"ram\.budget_bytes = 1125899906842624: this machine"):
        await part_of(tmp_path / "small").start(bad, Roster(), HOST)
    (tmp_path / "parts").write_text("a file is in the way")
    with pytest.raises(Unavailable, match=r"kvstore-1: .*Not a directory"):
        await part_of(tmp_path).start(SETTINGS["kvstore"], Roster(), HOST)
