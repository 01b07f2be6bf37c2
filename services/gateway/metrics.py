"""What a gateway counts, on the registry of its service."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds of the buckets of walks that wait for another generator."""
STATES = ("answering", "silent")


class Metrics:
    """Counts of one gateway."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"worldkv_gateway_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"worldkv_gateway_{name}", about, labels, registry=registry)

        self.opened = counter("opened", "Sessions opened")
        self.resumed = counter("resumed", "Sessions that came to another generator")
        self.refused = counter("refused", "Sessions that no generator had room for")
        self.over_quota = counter("over_quota", "Sessions that a tenant's quota did not allow, by quota", "quota")
        self.walks = gauge("walks", "Walks under way")
        self.watchers = gauge("watchers", "Watchers of walks")
        self.moved = counter("moved", "Walks that went on after their generator was lost")
        self.lost = counter("lost", "Walks that ended because no generator took them over")
        self.moved_seconds = Histogram(
            "worldkv_gateway_moved_seconds",
            "Seconds a walk was without a generator",
            registry=registry,
            buckets=SECONDS,
        )
        self.undelivered = counter("undelivered", "Chunks that were kept and whose pictures were lost with a generator")
        self.sockets = gauge("sockets", "WebSockets open")
        self.dropped = counter("pictures_dropped", "Chunks whose pictures a WebSocket took too slowly")
        self._generators = gauge("generators", "Generators, by whether they answer", "state")

    def generators(self, states: Mapping[str, int]) -> None:
        """Take over how many generators answer, and how many do not."""
        for state in STATES:
            self._generators.labels(state).set(states.get(state, 0))
