"""A shard in a process of its own, for benchmarks."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from benchmarks.service_process import serving


def shard(budget_bytes: int, **settings: str) -> AbstractAsyncContextManager[str]:
    """The address of a shard that has so much memory, see `serving`; more settings as SERVICE__LOG_LEVEL="warning"."""
    return serving("kvstore", "services.kvstore", {"RAM__BUDGET_BYTES": str(budget_bytes), **settings})
