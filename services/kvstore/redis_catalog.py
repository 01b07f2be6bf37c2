"""World records and session states in Redis, one of each for a tenant.

<prefix>:w:{<tenant>}                       a hash: records by name
<prefix>:n:{<tenant>}                       a sorted set: the names
<prefix>:h:{<tenant>/s/<session's digest>}  a hash: manifests of the newest state and the one before it
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from xxhash import xxh3_64, xxh3_64_hexdigest

from services.kvstore.redis_pieces import Manifest, Pieces
from services.kvstore.redis_server import Client, RedisServer
from services.kvstore.redis_tier import check_tenant
from worldkv.catalog import Snapshot, Stored, World, check_name, pack, unpack
from worldkv.errors import ChecksumMismatch, ChunkCorrupt, Conflict, InvalidInput, NotFound, Unavailable
from worldkv.format import Frame
from worldkv.store import Level

PAGE = 128
"""Records that are listed at a time."""

SWAP = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local found = held and string.match(held, '^%d+') or '0'
if found ~= ARGV[2] then return found end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 'swapped'
"""
"""Write a record if the one held has the expected version. Versions are compared as text: numbers here are floats."""

REMOVE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local found = held and string.match(held, '^%d+') or '0'
if not held or (ARGV[2] ~= '0' and found ~= ARGV[2]) then return found end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 'removed'
"""

SAVE = """
local newest = redis.call('HGET', KEYS[1], 'newest')
local last = redis.call('HGET', KEYS[1], 'previous')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for n = 2, #KEYS do
  if redis.call('PERSIST', KEYS[n]) == 0 then
    if newest then redis.call('HSET', KEYS[1], 'newest', newest) else redis.call('HDEL', KEYS[1], 'newest') end
    return 'lost'
  end
end
if newest then redis.call('HSET', KEYS[1], 'previous', newest) end
return last or ''
"""
"""Make a state the newest and the newest the previous one; answers the manifest of the one that fell out."""

FORGET = """
local held = redis.call('HVALS', KEYS[1])
redis.call('DEL', KEYS[1])
return held
"""


class RedisCatalog:
    """The world records of one tenant, as `worldkv.catalog.Catalog`; a swap is one script."""

    def __init__(self, server: RedisServer, tenant: str) -> None:
        self._server, prefix = server, server.config.prefix
        check_tenant(tenant)
        self._records, self._names = (f"{prefix}:{letter}:{{{tenant}}}" for letter in "wn")

    async def read(self, name: str) -> Stored:
        check_name(name)
        held: bytes | None = await self._server.call(lambda client: client.hget(self._records, name))
        if held is None:
            raise NotFound(f"no world {name!r}")
        return Stored(_opened(held), Level.REDIS)

    async def swap(self, name: str, expected: int, record: World) -> Stored:
        if check_name(name) != record.name:
            raise InvalidInput(f"a record of world {record.name!r} cannot be swapped into {name!r}")
        record = replace(record, version=expected + 1)
        args = [name, str(expected), _closed(record)]
        found = (await self._server.write(SWAP, [self._records, self._names], args)).decode()
        if found != "swapped":
            raise Conflict(f"world {name!r} has version {found}, expected {expected}")
        return Stored(record, Level.REDIS)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[World]:
        # The order of UTF-8 bytes is the order of characters.
        begin, past = prefix.encode(errors="surrogatepass"), after.encode(errors="surrogatepass")
        low = b"(" + past if past >= begin and past else b"[" + begin
        while True:
            names, records = await self._server.call(_pager(self._records, self._names, low))
            for name, record in zip(names, records, strict=True):
                if not name.startswith(begin):
                    return
                if record is not None:
                    yield _opened(record)
            if len(names) < PAGE:
                return
            low = b"(" + names[-1]

    async def remove(self, name: str, expected: int = 0) -> None:
        check_name(name)
        found = (await self._server.write(REMOVE, [self._records, self._names], [name, str(expected)])).decode()
        if found == "0":
            raise NotFound(f"no world {name!r}")
        if found != "removed":
            raise Conflict(f"world {name!r} has version {found}, expected {expected}")


class RedisSnapshots:
    """The session states of one tenant, as `worldkv.catalog.Snapshots`; the last two are kept."""

    def __init__(self, server: RedisServer, tenant: str) -> None:
        self._server, self._pieces, self._tenant = server, Pieces(server), check_tenant(tenant)

    async def save(self, session: str, snapshot: Snapshot) -> Level:
        tag, buffers = self._tag(session), snapshot.state.buffers
        hasher: Any = xxh3_64()
        for buffer in buffers:
            hasher.update(buffer)
        manifest = await self._pieces.write(tag, buffers, hasher.intdigest(), snapshot.chunks)
        fell: bytes = await self._pieces.commit(tag, "newest", manifest, SAVE)
        if fell == b"lost":
            raise Unavailable(f"Redis lost pieces of a state of session {session!r} before all of them had come")
        await self._drop(tag, [fell] if fell else [])
        return Level.REDIS

    async def load(self, session: str, previous: bool = False) -> Snapshot:
        """As the seam says; also raises ChunkCorrupt if what Redis has is not what was written."""
        tag, field = self._tag(session), "previous" if previous else "newest"
        held: bytes | None = await self._server.call(lambda client: client.hget(self._pieces.head(tag), field))
        if held is None:
            raise NotFound(f"no {'earlier ' if previous else ''}snapshot of session {session!r}")
        manifest = Manifest.unpack(held)
        state = bytearray(manifest.size)
        await self._pieces.read(tag, manifest, [memoryview(state)])
        return Snapshot(manifest.note, Frame.of(state))

    async def delete(self, session: str) -> int:
        tag = self._tag(session)
        held: list[bytes] = await self._server.write(FORGET, [self._pieces.head(tag)], [])
        await self._drop(tag, held)
        return len(held)

    async def _drop(self, tag: str, manifests: list[bytes]) -> None:
        for packed in manifests:
            try:
                manifest = Manifest.unpack(packed)
            except ChunkCorrupt:
                continue  # a sweep finds its pieces
            await self._pieces.drop(tag, manifest)

    def _tag(self, session: str) -> str:
        digest = hashlib.blake2b(check_name(session, "session").encode(), digest_size=16).hexdigest()
        return f"{self._tenant}/s/{digest}"


Page = tuple[list[bytes], list[bytes | None]]
"""Names of worlds, and their records."""


def _pager(records: str, names: str, low: bytes) -> Callable[[Client], Page]:
    def work(client: Client) -> Page:
        found = client.zrangebylex(names, low, b"+", start=0, num=PAGE)
        return found, client.hmget(records, found) if found else []

    return work


def _closed(world: World) -> bytes:
    """A record as it is stored: its version in digits for the script, a checksum, the record."""
    packed = pack(world)
    return f"{world.version} {xxh3_64_hexdigest(packed)} ".encode() + packed


def _opened(held: bytes) -> World:
    """The record that `_closed` wrote. Raises ChunkCorrupt if it is not what was written."""
    version, checksum, packed = (*held.split(b" ", 2), b"", b"")[:3]
    if xxh3_64_hexdigest(packed).encode() != checksum:
        raise ChecksumMismatch("the record of a world in Redis is not what was written")
    world = unpack(packed)
    if b"%d" % world.version != version:
        raise ChunkCorrupt(f"the record of world {world.name!r} in Redis contradicts itself")
    return world
