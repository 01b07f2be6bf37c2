"""What a shard counts, on the registry of its service. Rates and shares are for whoever reads them to make."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.kvstore.ram import RamStats
from services.kvstore.tiered import Tiered
from worldkv.store import Level, Miss, PartKey

_EVENTS = {
    "promoted": "parts read from Redis into RAM",
    "behind": "KV parts written to Redis behind the writer",
    "dropped": "KV parts not written to Redis: the queue or Redis was full",
    "vanished": "KV parts that made room before they were written to Redis",
    "copied_up": "immutable parts copied to Redis after it was back",
    "lower_failed": "calls to Redis that were not answered, or refused for want of room",
}
_NOW = {
    "used_bytes": "bytes of parts in RAM",
    "budget_bytes": "bytes of parts there may be in RAM",
    "reserved_bytes": "bytes of parts that are being written",
    "pinned_bytes": "bytes of dropped parts that are still read",
    "free_bytes": "bytes of the arena that nothing has",
    "parts": "parts in RAM",
    "slots_used": "entries of the table of generations in use",
    "tombstones": "evicted parts that are remembered",
    "deleted_runs": "runs of deleted chunks that are remembered",
}


class Metrics:
    """Counts of one shard. `refresh` copies in what the tiers count themselves; call it about once a second.

    asked  parts that were found, missed or kept so far
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"worldkv_kvstore_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"worldkv_kvstore_{name}", about, labels, registry=registry)

        self._bytes = counter("bytes", "Bytes of parts moved, by way", "direction", "way")
        self._hits = counter("hits", "Parts found, by tier", "part", "tier")
        self._misses = counter("misses", "Parts not found, by reason", "part", "reason")
        self._kept = counter("kept", "Parts kept, by level", "part", "level")
        self._refused = counter("refused", "Parts not kept, by reason", "part", "reason")
        self._damaged = counter("damaged", "Parts in RAM whose bytes were not what was written")
        self._evicted = counter("evicted", "Parts dropped to make room")
        self._no_room = counter("no_room", "Parts for which no room could be made")
        self._events = {name: counter(name, about[0].upper() + about[1:]) for name, about in _EVENTS.items()}
        self._now = {name: gauge(name, about[0].upper() + about[1:]) for name, about in _NOW.items()}
        self._queued = gauge("queued", "KV parts that wait to be written to Redis")
        self._queued_bytes = gauge("queued_bytes", "Their bytes")
        self._waiting = gauge("waiting", "Immutable parts that wait for Redis")
        self._redis = gauge("redis_available", "1 if Redis answers, 0 if not, or if there is none")
        self._tenant_bytes = gauge("tenant_bytes", "Bytes of parts in RAM, by tenant", "tenant")
        self._tenants: set[str] = set()
        self._seen: dict[Counter, int] = {}
        self.asked = 0

    def sent(self, way: str, nbytes: int) -> None:
        """Bytes of a part that left."""
        self._bytes.labels("out", way).inc(nbytes)

    def received(self, way: str, nbytes: int) -> None:
        """Bytes of a part that came."""
        self._bytes.labels("in", way).inc(nbytes)

    def hit(self, key: PartKey, level: Level) -> None:
        self.asked += 1
        self._hits.labels(key.kind, "redis" if level is Level.REDIS else "ram").inc()

    def miss(self, key: PartKey, miss: Miss) -> None:
        self.asked += 1
        self._misses.labels(key.kind, miss.value).inc()

    def kept(self, key: PartKey, level: Level) -> None:
        self.asked += 1
        self._kept.labels(key.kind, level.name.lower()).inc()

    def refused(self, key: PartKey, reason: str) -> None:
        self._refused.labels(key.kind, reason).inc()

    def damaged(self) -> None:
        self._damaged.inc()

    def refresh(self, tiers: Tiered, stats: RamStats) -> None:
        """Take over what the tiers say now."""
        for name, gauge in self._now.items():
            gauge.set(getattr(stats, name))
        for name, counter in self._events.items():
            self._rise(counter, tiers.counts[name])
        self._rise(self._evicted, stats.evicted)
        self._rise(self._no_room, stats.refused)
        self._queued.set(tiers.behind.queued if tiers.behind else 0)
        self._queued_bytes.set(tiers.behind.queued_bytes if tiers.behind else 0)
        self._waiting.set(tiers.waiting)
        self._redis.set(tiers.level is Level.REDIS)
        for name in self._tenants - stats.tenants.keys():
            self._tenant_bytes.remove(name)
        for name, tenant in stats.tenants.items():
            self._tenant_bytes.labels(name).set(tenant.used_bytes)
        self._tenants = {*stats.tenants}

    def _rise(self, counter: Counter, total: int) -> None:
        counter.inc(total - self._seen.get(counter, 0))
        self._seen[counter] = total
