"""One section secures all parts: what each server and each client gets of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from services.cluster.config import ClusterConfig
from services.cluster.kinds import place_of, placed, settings_of
from services.cluster.roster import KINDS, name_of
from services.cluster.rundir import RunDir, Up
from services.cluster.security import SecurityConfig
from services.cluster.topology import TopologyConfig
from services.gateway.config import GatewayConfig
from services.kvstore.config import KVStoreConfig
from worldkv.config import load
from worldkv.errors import InvalidConfig
from worldkv.rpc import TLS
from worldkv.service import ServiceConfig

FILES = {"certificate": "/tls/own.pem", "key": "/tls/own.key", "authority": "/tls/ca.pem"}
OWN, CA = (Path(FILES["certificate"]), Path(FILES["key"])), Path(FILES["authority"])


def secured(**more) -> TopologyConfig:
    chosen = {**FILES, "name": "worldkv", "secret": "/tls/secrets", **more}
    names = {f"T_SECURITY__{name.upper()}": text for name, text in chosen.items()}
    return load(TopologyConfig, "T_", None, names)


def parts(topology: TopologyConfig):
    """Settings of the first part of each kind, as they reach it."""
    plan, found = topology.plan(), {}
    for kind in KINDS:
        place = place_of(plan.cluster, name_of(kind, 1), Path("/run/w"), plan.tls)
        found[kind] = placed(kind, settings_of(kind, plan.settings[kind]), place, "10.0.0.9")
    return found


@pytest.mark.parametrize("mutual", ["false", "true"])
def test_every_server_and_every_channel_is_secured(mutual):
    both = mutual == "true"
    made = parts(secured(mutual=mutual))
    server = TLS(*OWN, CA if both else None)
    client = TLS(OWN[0] if both else None, OWN[1] if both else None, CA, "worldkv")
    for each in made.values():
        assert (each.service.tls, each.service.auth.secret) == (server, Path("/tls/secrets"))
    channels = (
        made["kvstore"].tls,
        made["retriever"].store.tls,
        made["generator"].store.tls,
        made["generator"].index.tls,
        made["gateway"].tls,
    )
    assert set(channels) == {client}
    assert made["gateway"].web.tls == TLS(*OWN)


def test_what_a_kind_says_itself_goes_before():
    own = TLS(Path("/own.pem"), Path("/own.key"))
    topology = load(
        TopologyConfig, "T_", None, {"T_SECURITY__SECRET": "/s", "T_KVSTORE__SERVICE__AUTH__SECRET": "/own"}
    )
    made = parts(topology)
    assert made["kvstore"].service.auth.secret == Path("/own")
    assert made["gateway"].service.auth.secret == Path("/s")
    plan = TopologyConfig(gateway=GatewayConfig(service=ServiceConfig(tls=own)), security=SecurityConfig(*OWN, CA))
    assert parts(plan)["gateway"].service.tls == own


def test_paths_hold_wherever_a_part_runs():
    security = (
        TopologyConfig(security=SecurityConfig(Path("a.pem"), Path("a.key"), Path("ca.pem"))).plan().cluster.security
    )
    assert security.authority == Path.cwd() / "ca.pem"


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"certificate": "a", "key": "b", "authority": ""}, "security.authority (None) go together"),
        ({"certificate": "", "key": "", "authority": "c"}, "security.certificate (None)"),
        ({"certificate": "", "key": "", "authority": "", "mutual": "true"}, "security.mutual needs"),
    ],
)
def test_half_a_security_is_refused(chosen, words):
    with pytest.raises(InvalidConfig, match=re.escape(words)):
        secured(**chosen)


def test_metrics_stay_on_this_host_unless_told_otherwise():
    def shown(**more) -> Any:
        return parts(TopologyConfig(host="10.0.0.9", security=SecurityConfig(**more)))["kvstore"].service.metrics

    assert shown() == "127.0.0.1:0"
    assert shown(metrics_for="anyone") == "10.0.0.9:0"
    service = ServiceConfig(metrics_for="anyone")
    told = parts(TopologyConfig(host="10.0.0.9", kvstore=KVStoreConfig(service=service)))
    assert (told["kvstore"].service.metrics, told["gateway"].service.metrics) == ("10.0.0.9:0", "127.0.0.1:0")


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:9090", "host:9090", "127.example.org:1"])
def test_a_page_of_metrics_that_others_reach_is_to_be_wanted(address):
    with pytest.raises(InvalidConfig, match="metrics_for = 'anyone'"):
        ServiceConfig(metrics=address)
    assert ServiceConfig(metrics=address, metrics_for="anyone").metrics == address
    with pytest.raises(InvalidConfig, match="without a token"):
        SecurityConfig().check_admin(address)
    SecurityConfig(admin_for="anyone").check_admin(address)
    SecurityConfig(secret=Path("secrets")).check_admin(address)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:1", "localhost:1", "[::1]:1"])
def test_what_only_this_host_reaches_is_fine(address):
    assert ServiceConfig(metrics=address).metrics == address
    SecurityConfig().check_admin(address)


def test_who_brought_a_service_up_is_let_in(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.write_text("s" * 32)
    client = SecurityConfig(*OWN, CA, "worldkv", secret=secrets).shown()
    folder = RunDir(tmp_path / "run")
    folder.make()
    folder.write(Up("127.0.0.1:1", "ray", client=client))
    up = folder.read()
    assert up.tls == TLS(authority=CA, name="worldkv")
    assert dict(up.bearer.metadata())["authorization"].startswith("Bearer eyJ")
    assert "s" * 32 not in folder.up_file.read_text()
    assert not Up("127.0.0.1:1", "ray").tls
    assert Up("127.0.0.1:1", "ray").bearer.metadata() == ()


def test_the_settings_of_a_cluster_are_told_without_secrets():
    assert ClusterConfig().security == SecurityConfig()
    assert not SecurityConfig().auth
