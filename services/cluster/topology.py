"""The whole configuration of a service; `cluster.toml` beside this file lists every key with its default.

Read by whoever brings the service up. The supervisor and the parts get what they need of it, so that a shard's node has
no torch and the supervisor imports no model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace

from services.cluster.config import ClusterConfig, Plan
from services.cluster.roster import KINDS
from services.gateway.config import GatewayConfig
from services.generator.config import GeneratorConfig
from services.kvstore.config import KVStoreConfig
from services.kvstore.redis_config import RedisConfig
from services.retriever.config import RetrieverConfig
from worldkv.config import table
from worldkv.errors import InvalidConfig


@dataclass(frozen=True)
class TopologyConfig(ClusterConfig):
    """What runs where, and how.

    kvstore, retriever, generator, gateway
        settings of all parts of a kind, as their own files have them. Names, addresses, metrics and where they find
        each other are given by the cluster: what these settings say of that is not looked at

    Raises InvalidConfig if `supervision.end_seconds` would kill a shard that still hands over.
    """

    kvstore: KVStoreConfig = field(default_factory=KVStoreConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        service, handover = self.kvstore.service, self.kvstore.handover_seconds
        needed = handover + service.notice_seconds + service.drain_seconds
        if self.supervision.end_seconds < needed:
            raise InvalidConfig(
                f"supervision.end_seconds = {self.supervision.end_seconds}: expected at least {needed}, what the end "
                f"of a shard may take: kvstore.handover_seconds ({handover}), kvstore.service.notice_seconds "
                f"({service.notice_seconds}) and kvstore.service.drain_seconds ({service.drain_seconds})"
            )

    def plan(self) -> Plan:
        """What the supervisor is given."""
        cluster = ClusterConfig(**{each.name: getattr(self, each.name) for each in fields(ClusterConfig)})
        security, redis = self.security.absolute(), self.kvstore.redis
        return Plan(
            replace(cluster, security=security),
            {kind: json.dumps(table(getattr(self, kind))) for kind in KINDS},
            {kind: getattr(self, kind).service.tls or security.client for kind in KINDS},
            without_secrets(redis) if redis else "",
        )


def without_secrets(redis: RedisConfig) -> str:
    """Where Redis is, for people: the url without user, password and options."""
    scheme, _, rest = redis.url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
