"""Replicas of the index as processes."""

from contextlib import AbstractAsyncContextManager

from tests.e2e.part_process import PartProcess, part

ReplicaProcess = PartProcess


def replica(shards: str = "", **settings: str) -> AbstractAsyncContextManager[ReplicaProcess]:
    """A replica over the shards of a store, or over none."""
    return part("retriever", **({"STORE__SHARDS": shards} if shards else {}), **settings)
