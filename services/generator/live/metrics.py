"""What a generator counts, on the registry of its service. Rates and shares are for whoever reads them to make."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.generator.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of the buckets of chunks."""
RECALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Upper bounds of the buckets of recalls."""


class Metrics:
    """Counts of one generator. `held` takes over what is there now; call it about once a second.

    chunks    that were drawn
    releases  times that a session let go of its memory
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"worldkv_generator_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"worldkv_generator_{name}", about, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"worldkv_generator_{name}", about, registry=registry, buckets=buckets)

        self.chunks = self.releases = 0
        self._chunks = counter("chunks", "Chunks drawn", "kind")
        self._seconds = histogram("chunk_seconds", "Seconds from a move to its pictures", SECONDS)
        self._recall_seconds = histogram("recall_seconds", "Seconds that a chunk waited for memory", RECALL_SECONDS)
        self._opened = counter("opened", "Sessions opened")
        self._refused = counter("refused", "Sessions refused for want of room")
        self._suspended = counter("suspended", "Times that a session let go of its memory")
        self._woken = counter("woken", "Times that a session went on after that, or came from elsewhere")
        self._lost = counter("lost", "Sessions that ended by a defect")
        self._pictures_dropped = counter("pictures_dropped", "Chunks whose pictures a client was too slow to take")
        self._sessions = gauge("sessions", "Sessions that are open")
        self._awake = gauge("awake", "Sessions that hold memory")
        self._joined = gauge("joined", "Sessions that a client is joined to")
        self._room = gauge("room", "More sessions that would be admitted")
        self._step_seconds = gauge("step_seconds", "Seconds of a step of a whole batch, recent mean")
        self._resident_bytes = gauge("resident_bytes", "Bytes that sessions hold on the model's device")
        self._passes = counter("passes", "Passes of the model over a batch")
        self._batched = counter("batched", "Chunks drawn together with other sessions'")
        self._failed = counter("failed", "Chunks not drawn because the model failed")
        self._seen = (0, 0, 0)

    def drawn(self, kind: Literal["shown", "generated"], seconds: float, recall_seconds: float) -> None:
        """A chunk was drawn."""
        self.chunks += 1
        self._chunks.labels(kind).inc()
        self._seconds.observe(seconds)
        self._recall_seconds.observe(recall_seconds)

    def opened(self) -> None:
        self._opened.inc()

    def refused(self) -> None:
        self._refused.inc()

    def suspended(self) -> None:
        self.releases += 1
        self._suspended.inc()

    def closed(self) -> None:
        self.releases += 1

    def woken(self) -> None:
        self._woken.inc()

    def lost(self) -> None:
        self._lost.inc()

    def pictures_dropped(self, chunks: int) -> None:
        self._pictures_dropped.inc(chunks)

    def held(self, sessions: int, awake: int, joined: int, engine: Engine) -> None:
        """Take over what is there now."""
        self._sessions.set(sessions)
        self._awake.set(awake)
        self._joined.set(joined)
        self._room.set(engine.room)
        self._step_seconds.set(engine.step_seconds)
        self._resident_bytes.set(engine.resident_bytes)
        now = (engine.stats.passes, engine.stats.batched, engine.stats.failed)
        for count, value, before in zip((self._passes, self._batched, self._failed), now, self._seen, strict=True):
            count.inc(value - before)
        self._seen = now
