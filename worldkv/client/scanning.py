"""What shards list of a branch: one stream a shard, and all of them as one."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from itertools import chain, repeat
from typing import NamedTuple

from worldkv import wire
from worldkv.chunk import Branch
from worldkv.client.connection import Connection
from worldkv.client.policy import Deadline, together
from worldkv.errors import DeadlineExceeded
from worldkv.format import Kind
from worldkv.store import PartKey
from worldkv.v1 import kvstore_pb2 as pb


class Scanned(NamedTuple):
    """What is asked for: the chunks `begin` to `end` (exclusive; None: to the last) of a branch, which of their parts
    (None: both), and how many of the first bytes of each."""

    branch: Branch
    begin: int = 0
    end: int | None = None
    kind: Kind | None = None
    head_bytes: int = 0


class Listed(NamedTuple):
    """A key, and the first bytes of its part as far as they were asked for and are there."""

    key: PartKey
    head: bytes


async def scan(line: Connection, wanted: Scanned, patience: Callable[[], Deadline]) -> AsyncGenerator[Listed, None]:
    """What one shard holds, in order. A caller may take its time: a call that runs out of its is begun anew.

    patience  gives the deadline of each call; one in which nothing comes is the last
    """
    last: PartKey | None = None
    while True:
        before = last
        try:
            async with aclosing(_call(line, wanted, patience())) as found:
                async for each in found:
                    if last is None or last.place < each.key.place:
                        last = each.key
                        yield each
            return
        except DeadlineExceeded:
            if last is None or last == before:
                raise
            wanted = wanted._replace(begin=last.chunk.index)


async def merged(streams: Sequence[AsyncIterator[Listed]]) -> AsyncIterator[tuple[PartKey, list[bytes]]]:
    """What several shards list, in one order: each key once, with the heads that it has at each of them."""
    firsts = await together(anext(stream, None) for stream in streams)
    heap = [(each.key.place, n, each) for n, each in enumerate(firsts) if each is not None]
    heapq.heapify(heap)
    last: tuple[PartKey, list[bytes]] | None = None
    while heap:
        _, n, each = heap[0]
        if last is not None and last[0] == each.key:
            last[1].append(each.head)
        else:
            if last is not None:
                yield last
            last = each.key, [each.head]
        following = await anext(streams[n], None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following.key.place, n, following))
    if last is not None:
        yield last


async def _call(line: Connection, wanted: Scanned, deadline: Deadline) -> AsyncGenerator[Listed, None]:
    branch, begin, end, kind, head_bytes = wanted
    if end is not None and end <= begin:
        return
    part = wire.part_message(kind)
    request = pb.ScanRequest(branch=branch, begin=begin, end=end or 0, part=part, head_bytes=head_bytes)
    call = None
    try:
        while True:  # the watch is not around `yield`: how long the caller takes is no silence
            async with line.calling("scan", deadline) as watch:
                if call is None:
                    call = line.stub.Scan(request, **watch.limits)
                answer = await call.read()
            if not isinstance(answer, pb.ScanResponse):
                return
            for key, head in zip(answer.keys, chain(answer.heads, repeat(b""))):
                yield Listed(wire.key_of(key), head)
    finally:
        if call is not None:
            call.cancel()
