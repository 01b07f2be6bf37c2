"""What a replica counts, on the registry of its service. Rates and shares are for whoever reads them to make."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Upper bounds of the buckets of lookups."""
READ_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Upper bounds of the buckets of reading a branch back."""
CANDIDATES = (0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
"""Upper bounds of the buckets of candidates."""


class Metrics:
    """Counts of one replica. `held` takes over what is there now; call it about once a second."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"worldkv_retriever_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"worldkv_retriever_{name}", about, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"worldkv_retriever_{name}", about, labels, registry=registry, buckets=buckets)

        self._seconds = histogram("lookup_seconds", "Seconds to choose chunks for one query", SECONDS, "selector")
        self._candidates = histogram("candidates", "Candidates of one query", CANDIDATES)
        self._hits = counter("hits", "Chunks chosen, without spares")
        self._abstained = counter("abstained", "Chunks asked for and not chosen, though there were candidates")
        self._missing = counter("missing", "Published chunks that were not known in time")
        self._partial = counter("partial", "Queries answered without all published chunks")
        self._failed = counter("failed", "Queries without an answer, by error", "error")
        self._read = counter("rebuilds", "Branches read from the store, by outcome", "outcome")
        self._read_chunks = counter("rebuilt_chunks", "Chunks read from the store")
        self._read_seconds = histogram("rebuild_seconds", "Seconds to read a branch from the store", READ_SECONDS)
        self._added = counter("added", "Chunks made findable by Add")
        self._removed = counter("removed", "Chunks forgotten because the store has not got them")
        self._forgotten = counter("forgotten", "Branches forgotten to make room")
        self._chunks = gauge("chunks", "Chunks held")
        self._branches = gauge("branches", "Branches with at least one chunk")
        self._bytes = gauge("bytes", "Bytes of the tables that hold the chunks")
        self._seen = 0

    def found(self, selector: str, seconds: float, candidates: int, wanted: int, hits: int, missing: int) -> None:
        """A query was answered."""
        self._seconds.labels(selector).observe(seconds)
        self._candidates.observe(candidates)
        self._hits.inc(hits)
        if (unwanted := min(wanted, candidates) - hits) > 0:
            self._abstained.inc(unwanted)
        if missing:
            self._partial.inc()
            self._missing.inc(missing)

    def failed(self, error: str) -> None:
        """A query was not answered."""
        self._failed.labels(error).inc()

    def read(self, outcome: str, chunks: int, seconds: float) -> None:
        """A branch was read from the store: `read`, `empty` or `failed`."""
        self._read.labels(outcome).inc()
        self._read_chunks.inc(chunks)
        self._read_seconds.observe(seconds)

    def added(self, chunks: int) -> None:
        self._added.inc(chunks)

    def removed(self, chunks: int) -> None:
        self._removed.inc(chunks)

    def held(self, chunks: int, branches: int, nbytes: int, forgotten: int) -> None:
        """Take over what is held now; `forgotten` counts since the start."""
        self._chunks.set(chunks)
        self._branches.set(branches)
        self._bytes.set(nbytes)
        self._forgotten.inc(forgotten - self._seen)
        self._seen = forgotten
