"""Every service of a whole one, on real ports of this process, that ask for tokens."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.probing import Where
from services.cluster import fleet
from services.cluster.config import SupervisionConfig
from services.cluster.roster import KINDS, Pulse, Roster
from services.cluster.roster import Where as At
from services.cluster.supervisor import Supervisor
from services.gateway.config import GatewayConfig, WebConfig
from services.gateway.quotas import QuotaConfig
from services.gateway.server import assembled
from services.generator.config import LiveConfig
from services.kvstore import server as kvstore
from services.kvstore.config import KVStoreConfig
from services.kvstore.ram import RamConfig
from services.retriever import server as retriever
from services.retriever.config import RetrieverConfig
from services.retriever.config import StoreConfig as WorldsConfig
from tests.wire.gateways import ROUTING
from tests.wire.generator import CONFIG, generating
from worldkv import rpc
from worldkv.auth import AuthConfig, Authority, Claims, Role
from worldkv.service import Host, ServiceConfig, Serving, serve

SECRET = "a-secret-of-these-tests-32-long!"


class Nowhere:
    """Units of a supervisor that runs nothing."""

    async def start(self, name: str, roster: Roster) -> At:
        return At("127.0.0.1:1")

    async def stop(self, name: str, seconds: float) -> None: ...

    async def ping(self, name: str) -> Pulse:
        return Pulse(At("127.0.0.1:1"), 0.0, {}, Roster())

    async def publish(self, name: str, roster: Roster) -> None: ...


@dataclass
class Whole:
    """Where all of it is; `gateway` serves people, whose walks are drawn by a toy."""

    where: Where
    secret: Path
    gateway: Serving

    def token(self, tenant: str = "acme", role: Role = "tenant", seconds: float = 600, **of: Any) -> str:
        return Authority(self.secret).sign(Claims(tenant, role, **of), seconds)


@asynccontextmanager
async def whole(
    folder: Path,
    tls: rpc.TLS | None = None,
    quota: QuotaConfig | None = None,
    web_tls: rpc.TLS | None = None,
    live: LiveConfig = CONFIG.live,
) -> AsyncIterator[Whole]:
    """A shard, a replica, a generator, a gateway and a supervisor that share a secret."""
    secret = folder / "secrets"
    secret.write_text(SECRET + "\n")
    secured = tls or rpc.TLS()
    service = ServiceConfig("127.0.0.1:0", tls=secured, auth=AuthConfig(secret), drain_seconds=0)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        ram = RamConfig(8 << 20, huge_pages=False, prefix="worldkv-test")
        shard = await enter(serve(service, kvstore.servicers(KVStoreConfig(service=service, ram=ram))))
        store = WorldsConfig(shards=(shard.address,), tls=secured)
        replica = await enter(serve(service, retriever.servicers(RetrieverConfig(service=service, store=store))))
        generator = await enter(generating(config=replace(CONFIG, service=service, live=live)))
        made = Supervisor(Nowhere(), SupervisionConfig(), dict.fromkeys(KINDS, 1))
        supervisor = await enter(serve(service, fleet.servicers(made, "", "")))
        config = GatewayConfig(
            (generator.address,),
            service=service,
            routing=replace(GatewayConfig().routing, **ROUTING),
            web=WebConfig("127.0.0.1:0", tls=web_tls or rpc.TLS()),
            quota=quota or QuotaConfig(),
            tls=secured,
        )
        web: list[str] = []

        @asynccontextmanager
        async def gateway(host: Host) -> AsyncIterator[list[str]]:
            async with assembled(config, host) as (name, address):
                web.append(address)
                yield [name]

        serving = await enter(serve(service, gateway))
        servers = {
            "worldkv.v1.KVStore": shard.address,
            "worldkv.v1.Retriever": replica.address,
            "worldkv.v1.Generator": generator.address,
            "worldkv.v1.Sessions": serving.address,
            "worldkv.v1.Fleet": supervisor.address,
            "grpc.reflection.v1alpha.ServerReflection": serving.address,
        }
        yield Whole(Where(servers, web[0], tls), secret, serving)
