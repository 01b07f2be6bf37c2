"""What a cluster is told, what its parts are told, and where it keeps what it has to remember."""

import mmap
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from services.cluster import kinds
from services.cluster.config import ClusterConfig
from services.cluster.kinds import place_of, placed, reachable
from services.cluster.roster import KINDS, Roster, membership_file, name_of, parsed
from services.cluster.rundir import MAX_SOCKET_BYTES, RAY_SOCKET_BYTES, RunDir, Up
from services.cluster.topology import TopologyConfig, without_secrets
from services.gateway.config import GatewayConfig
from services.generator.config import GeneratorConfig
from services.kvstore.config import KVStoreConfig
from services.kvstore.redis_config import RedisConfig
from services.retriever.config import RetrieverConfig, StoreConfig
from tests.example_files import complete
from worldkv.client import Member, MembershipFile
from worldkv.config import load
from worldkv.errors import AlreadyExists, InvalidConfig, InvalidInput
from worldkv.rpc import TLS
from worldkv.service import ServiceConfig

FILE = Path(__file__).parents[2] / "services" / "cluster" / "cluster.toml"
UP = Up("127.0.0.1:1", "127.0.0.1:2", gateway=("127.0.0.1:8470",), web=("127.0.0.1:8471",))


def test_the_example_names_every_setting_with_its_default():
    complete(FILE, TopologyConfig, ClusterConfig())


def test_the_environment_reaches_counts_and_the_settings_of_a_kind():
    names = {"PARTS__KVSTORE__COUNT": "3", "KVSTORE__REDIS__URL": "redis://u:p@h:1/2?x=y", "PARTS__GENERATOR__GPUS": ""}
    got = load(TopologyConfig, "T_", None, {f"T_{name}": text for name, text in names.items()})
    assert (got.parts.kvstore.count, got.parts.generator.gpus) == (3, None)
    assert got.plan().redis == "redis://h:1/2"
    assert TopologyConfig().plan().redis == ""
    assert without_secrets(RedisConfig("unix:///run/redis.sock?password=x")) == "unix:///run/redis.sock"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[parts.kvstore]\ncount = 0", "kvstore=0: expected 1 to 1000"),
        ("[parts.generator]\ncount = -1", "generator=-1: expected 0 to 1000"),
        ("[parts.gateway]\ncpus = -1", "cpus must not be negative, got -1"),
        ("[door]\nport = 70000", "door.port = 70000: expected 0 to 65535"),
        ("[supervision]\nsilent_seconds = 1", "at least twice ping_seconds"),
        ("[supervision]\nend_seconds = 0", "supervision.end_seconds = 0.0: expected seconds above 0"),
        (
            "[kvstore]\nhandover_seconds = 100\n[kvstore.service]\nnotice_seconds = 15",
            "supervision.end_seconds = 120.0: expected at least 125.0, what the end of a shard may take: "
            "kvstore.handover_seconds (100.0), kvstore.service.notice_seconds (15.0)",
        ),
        ('[elsewhere]\nretriever = ["a:1"]', "elsewhere.retriever without elsewhere.kvstore"),
        ('[elsewhere]\nkvstore = ["a"]', "shard 'a': expected name=host:port"),
        ('namespace = ""', "namespace must not be empty"),
        ("object_store_bytes = 1", "Ray wants at least"),
        ("[kvstore.ram]\nbudget_bytes = 0", "budget_bytes must be at least 1"),
        ("[retriever.index]\nmax = 0", "unknown setting retriever.index.max"),
    ],
)
def test_what_cannot_be_is_refused_in_words(tmp_path, text, words):
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=re.escape(words)):
        load(TopologyConfig, "NONE_", file, {})


def test_the_supervisor_gets_the_settings_of_kinds_as_bytes_that_are_those_settings():
    plan = replace(TopologyConfig(), kvstore=KVStoreConfig(redis=RedisConfig(prefix="x"))).plan()
    assert type(plan.cluster) is ClusterConfig
    assert kinds.settings_of("kvstore", plan.settings["kvstore"]).redis == RedisConfig(prefix="x")


def own(kind: str, settings, config: ClusterConfig | None = None, number: int = 1):
    tls = {each: TLS(authority=Path(f"{each}.pem")) for each in KINDS}
    place = place_of(config or ClusterConfig(host="127.0.0.1"), name_of(kind, number), Path("/run/w"), tls)
    return placed(kind, settings, place, "10.0.0.9")


def test_parts_find_each_other_by_memberships_of_their_own_folder():
    members = {kind: Path(f"/run/w/parts/{kind}-1") for kind in KINDS}
    shard = own("kvstore", KVStoreConfig())
    assert (shard.shard, shard.members) == ("kvstore-1", members["kvstore"] / "kvstore.toml")
    replica = own("retriever", RetrieverConfig())
    assert replica.replica == "retriever-1"
    assert replica.store.members == members["retriever"] / "kvstore.toml"
    generator = own("generator", GeneratorConfig())
    assert generator.name == "generator-1"
    assert generator.store.members == members["generator"] / "kvstore.toml"
    assert generator.index.members == members["generator"] / "retriever.toml"
    gateway = own("gateway", GatewayConfig(generators=("a:1",)))
    assert (gateway.generators, gateway.members) == ((), members["gateway"] / "generator.toml")
    assert gateway.web.supervisor == str(members["gateway"] / "supervisor")
    for each, kind in ((replica.store, "kvstore"), (generator.index, "retriever"), (gateway, "generator")):
        assert each.tls.authority == Path(f"{kind}.pem")


def test_what_the_settings_say_of_others_stays_but_for_where_they_are():
    given = StoreConfig(shards=("a:1",), deadline_seconds=7, tls=TLS(authority=Path("mine.pem")))
    replica = own("retriever", RetrieverConfig(store=given))
    assert (replica.store.shards, replica.store.deadline_seconds) == ((), 7)
    assert replica.store.tls.authority == Path("mine.pem")


def test_parts_serve_on_the_host_that_is_set_else_on_their_nodes():
    service = ServiceConfig(address="0.0.0.0:1", drain_seconds=3)
    here = own("kvstore", KVStoreConfig(service=service))
    assert (here.service.address, here.service.metrics, here.service.drain_seconds) == ("127.0.0.1:0", "127.0.0.1:0", 3)
    there = own("kvstore", KVStoreConfig(), ClusterConfig(metrics=False))
    assert (there.service.address, there.service.metrics) == ("10.0.0.9:0", "")


def test_gateways_have_ports_of_their_own_that_stay():
    config = ClusterConfig(host="127.0.0.1")
    ports = [
        (each.service.address, each.web.address)
        for each in (own("gateway", GatewayConfig(), config, n) for n in (1, 2))
    ]
    assert ports == [("127.0.0.1:8470", "127.0.0.1:8471"), ("127.0.0.1:8472", "127.0.0.1:8473")]
    free = own("gateway", GatewayConfig(), replace(config, door=replace(config.door, port=0, web_port=0)), 2)
    assert free.service.address == "127.0.0.1:0"
    assert not free.web.address.endswith(":0")
    open_door = own("gateway", GatewayConfig(), replace(config, door=replace(config.door, host="0.0.0.0")))
    assert open_door.service.address == "0.0.0.0:8470"
    assert reachable("0.0.0.0:8470", "10.0.0.9") == "10.0.0.9:8470"
    assert reachable("10.0.0.1:1", "10.0.0.9") == "10.0.0.1:1"
    assert reachable("", "10.0.0.9") == ""


def test_every_kind_has_servicers():
    assert all(callable(kinds.servicers(kind)) for kind in KINDS)


def test_memory_that_is_shared_is_told_of_the_shard_only():
    registry, nbytes = CollectorRegistry(), 64 << 20
    ProcessCollector(registry=registry)
    before = kinds.own_bytes()
    with mmap.mmap(-1, nbytes) as shared:  # anonymous, and shared like an arena
        shared.write(bytes(nbytes))
        after = kinds.own_bytes()
        shard, other = (kinds.figures(kind, registry)["memory"] for kind in ("kvstore", "generator"))
    assert before is not None
    assert after is not None
    assert after < before + nbytes // 2
    assert shard != other


def test_a_roster_is_written_as_memberships_that_clients_read(tmp_path):
    a, b = Member("kvstore-1", "127.0.0.1:1"), Member("kvstore-2", "127.0.0.1:2")
    Roster(7, {"kvstore": (a,)}, {"kvstore": (b,)}, supervisor="10.0.0.1:7").write(tmp_path / "new")
    read = MembershipFile(membership_file(tmp_path / "new", "kvstore"))()
    assert (read.number, read.shards, read.leaving) == (7, (a,), (b,))
    assert sorted(os.listdir(tmp_path / "new")) == sorted(["supervisor", *(f"{kind}.toml" for kind in KINDS)])
    assert (tmp_path / "new" / "supervisor").read_text() == "10.0.0.1:7\n"


@pytest.mark.parametrize("name", ["supervisor", "kvstore", "kvstore-0", "kvstore-x", "-1", "shard-1"])
def test_other_actors_are_no_parts(name):
    with pytest.raises(InvalidInput, match="no name of a part"):
        parsed(name)


def test_the_run_directory_is_never_in_the_home_directory():
    assert RunDir.of({"WORLDKV_RUN_DIR": "/x"}).path == Path("/x")
    assert RunDir.of({"XDG_RUNTIME_DIR": "/run/user/1", "HOME": "/h"}).path == Path("/run/user/1/worldkv")
    assert RunDir.of({"HOME": "/h"}).path.name == f"worldkv-{os.getuid()}"
    assert Path("/h") not in RunDir.of({"HOME": "/h"}).path.parents


def test_what_is_up_is_read_as_it_was_written_and_gone_when_it_has_ended(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    assert run_dir.read() is None
    assert not locked(run_dir)
    run_dir.make()
    run_dir.write(UP)
    Roster(1).write(run_dir.path)
    assert run_dir.read() == UP
    lock = run_dir.lock()
    assert locked(run_dir)
    with pytest.raises(AlreadyExists, match="up already"):
        run_dir.lock()
    os.close(lock)
    assert not locked(run_dir)
    run_dir.clean(UP)
    assert run_dir.read() is None
    assert sorted(os.listdir(run_dir.path)) == ["lock", "logs"]


def locked(run_dir: RunDir) -> bool:
    return run_dir.locked


@pytest.mark.parametrize("text", ["", "[]", '{"fleet": "a"}'])
def test_a_file_of_another_version_is_refused_in_words(tmp_path, text):
    (tmp_path / "up.json").write_text(text)
    with pytest.raises(InvalidConfig, match=r"up\.json"):
        RunDir(tmp_path).read()


def test_ray_gets_a_folder_that_is_short_enough_for_its_sockets(tmp_path):
    run_dir = RunDir(tmp_path / ("long" * 20))
    run_dir.make()
    folder = run_dir.ray_folder()
    try:
        assert len(str(folder)) + RAY_SOCKET_BYTES <= MAX_SOCKET_BYTES
    finally:
        run_dir.clean(replace(UP, folder=str(folder)))
    assert not folder.exists()
