"""What a shard's tier in Redis counts, as the page of metrics shows it: read when somebody looks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.kvstore.redis_breaker import Breaker
from services.kvstore.redis_tier import RedisTier

PREFIX = "worldkv_kvstore_redis_"


class RedisMetrics(Collector):
    """Figures of a tier and of the breaker before its server."""

    def __init__(self, tier: RedisTier, breaker: Breaker) -> None:
        self._tier, self._breaker = tier, breaker

    def collect(self) -> Iterable[Metric]:
        counts = self._tier.counters
        for name, about, value in (
            ("hits", "Parts read from Redis", counts.hits),
            ("hit_bytes", "Their bytes", counts.hit_bytes),
            ("puts", "Parts written to Redis", counts.puts),
            ("put_bytes", "Their bytes", counts.put_bytes),
            ("put_pieces", "Their pieces", counts.put_pieces),
            ("deleted", "Parts dropped from Redis because somebody deleted them", counts.deleted),
            ("sweeps", "Looks for pieces that no part names", counts.sweeps),
            ("orphans", "Pieces that sweeps dropped", counts.orphans),
            ("breaker_trips", "Times Redis was found not to answer", self._breaker.trips),
        ):
            yield CounterMetricFamily(PREFIX + name, about, value)
        misses = CounterMetricFamily(
            PREFIX + "misses", "Parts looked for in Redis in vain, by reason", labels=["reason"]
        )
        for miss, count in [*counts.misses.items()]:
            misses.add_metric([miss.value], count)
        yield misses
        yield GaugeMetricFamily(
            PREFIX + "breaker_open", "1 while Redis is not asked because it did not answer", self._breaker.open
        )
