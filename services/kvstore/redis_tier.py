"""Parts of chunks in Redis, a Redis Cluster or Valkey: all of a part or nothing, and never a wrong byte.

A branch has an index of the parts it may hold, written before them: what is listed is looked for, so that a stale
entry is nothing worse than a question.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from services.kvstore.redis_pieces import CONDEMN, Manifest, Pieces
from services.kvstore.redis_promise import primaries
from services.kvstore.redis_server import Client, RedisServer
from worldkv.chunk import BRANCH_BYTES, Branch, ChunkKey, check_key
from worldkv.errors import ChecksumMismatch, ChunkCorrupt, Conflict, InvalidInput, NotFound, Unavailable
from worldkv.format import Kind
from worldkv.store import Miss, PartKey

PAGE = 256
"""Entries of a branch's index, or keys of a sweep, that are looked at at a time."""
KINDS: tuple[Kind, ...] = ("part", "kv")
_REASONS = {b"evicted": Miss.EVICTED, b"corrupt": Miss.CORRUPT}

_log = logging.getLogger(__name__)

DELETE = """
local gone = {}
local function take(field)
  local manifest = redis.call('HGET', KEYS[1], field)
  if manifest then gone[#gone + 1] = manifest end
end
take('kv')
if ARGV[1] == 'part' then
  take('part')
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'deleted', '1')
elseif #gone > 0 then
  redis.call('HDEL', KEYS[1], 'kv')
  redis.call('HSET', KEYS[1], 'kv?', 'evicted')
end
return gone
"""
"""Forget manifests and remember why; answers them. It takes first and then writes, so that a full server obeys."""


@dataclass
class RedisCounters:
    """What went through the tier since it was made; only ever grows.

    hits, hit_bytes  parts read, and their bytes
    misses           parts not found or not readable, by reason
    puts, put_bytes  parts written, and their bytes
    put_pieces       and their pieces
    deleted          parts that `delete` dropped
    sweeps, orphans  sweeps that were done, and pieces that they dropped
    """

    hits: int = 0
    hit_bytes: int = 0
    misses: Counter[Miss] = field(default_factory=Counter)
    puts: int = 0
    put_bytes: int = 0
    put_pieces: int = 0
    deleted: int = 0
    sweeps: int = 0
    orphans: int = 0


class RedisTier:
    """Parts of every tenant in Redis.

    counters  what went through it

    Any method may raise Unavailable; once it did, the next ones do within milliseconds until Redis answers again.
    Raises InvalidInput for keys and tenants that cannot be.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server, self._pieces = server, Pieces(server)
        self._prefix, self.counters = server.config.prefix, RedisCounters()

    @property
    def available(self) -> bool:
        """Whether Redis answered when last asked."""
        return self._server.available

    async def put(self, tenant: str, key: PartKey, views: Sequence[memoryview], checksum: int) -> None:
        """Keep a part: returns when Redis has all of it. A part that is held stays as it is.

        checksum  xxh3-64 of all bytes

        Raises Conflict if its chunk was deleted, OverBudget if Redis is full; nothing is left behind then.
        """
        found = await self._begin(tenant, key)
        if isinstance(found, Manifest):
            await self._server.flush()
            return
        tag = _tag(tenant, key.chunk)
        manifest = await self._pieces.write(tag, views, checksum)
        outcome = await self._pieces.commit(tag, key.kind, manifest)
        if outcome == b"deleted":
            raise Conflict(f"what was deleted stays deleted: {key}")
        if outcome == b"lost":
            raise Unavailable(f"Redis lost pieces of {key} before all of them had come")
        if outcome == b"kept":
            self.counters.puts += 1
            self.counters.put_bytes += manifest.size
            self.counters.put_pieces += manifest.pieces

    async def get(
        self, tenant: str, key: PartKey, into: Callable[[int, int], Sequence[memoryview] | None]
    ) -> Manifest | Miss:
        """Read a part into the buffers that `into(size, checksum)` gives, in order; None there: read nothing.

        A miss may leave anything in the buffers. Nothing is written to them after this returned or raised.
        """
        tag = _tag(tenant, key.chunk)
        found = (await self.heads(tenant, [key]))[key]
        if isinstance(found, Manifest):
            views = into(found.size, found.checksum)
            if views is None:
                return found
            try:
                await self._pieces.read(tag, found, views)
            except NotFound:
                found = await self._gone(tenant, key, found, Miss.EVICTED)
            except ChecksumMismatch:
                found = await self._gone(tenant, key, found, Miss.CORRUPT)
        if isinstance(found, Miss):
            self.counters.misses[found] += 1
        else:
            self.counters.hits += 1
            self.counters.hit_bytes += found.size
        return found

    async def heads(self, tenant: str, keys: Collection[PartKey]) -> dict[PartKey, Manifest | Miss]:
        """What `get` would find, without the bytes."""
        if not keys:
            return {}
        wanted = list(dict.fromkeys(keys))
        names = [self._pieces.head(_tag(tenant, key.chunk)) for key in wanted]

        def work(client: Client) -> list[list[bytes | None]]:
            pipeline = client.pipeline(transaction=False)
            for key, name in zip(wanted, names, strict=True):
                pipeline.hmget(name, *_fields(key))
            answers: list[list[bytes | None]] = pipeline.execute()
            return answers

        answers = await self._server.call(work)
        return {key: await self._judge(tenant, key, answer) for key, answer in zip(wanted, answers, strict=True)}

    async def first_bytes(self, tenant: str, keys: Collection[PartKey], count: int) -> dict[PartKey, bytes]:
        """The first bytes of parts, of their first piece and `count` at most, unchecked; parts that are gone are left
        out, or have none."""
        heads = await self.heads(tenant, keys)
        named = {
            key: self._pieces.names(_tag(tenant, key.chunk), head)[0]
            for key, head in heads.items()
            if isinstance(head, Manifest) and head.size
        }

        def work(client: Client) -> list[bytes]:
            pipeline = client.pipeline(transaction=False)
            for name in named.values():
                pipeline.getrange(name, 0, count - 1)
            found: list[bytes] = pipeline.execute()
            return found

        return dict(zip(named, await self._server.call(work), strict=True)) if named else {}

    async def delete(self, tenant: str, keys: Collection[PartKey]) -> int:
        """Drop these parts as `Store.delete` does, also from a server that is full; answers how many were held."""
        chunks = {key.chunk for key in keys if key.kind == "part"}
        alone = {key.chunk for key in keys if key.kind == "kv"} - chunks
        tags = {_tag(tenant, chunk): kind for kind, some in (("part", chunks), ("kv", alone)) for chunk in some}
        dropped = 0
        for tag, kind in tags.items():
            gone: list[bytes] = await self._server.write(DELETE, [self._pieces.head(tag)], [kind])
            dropped += len(gone)
            for manifest in _readable(gone):
                await self._pieces.drop(tag, manifest)
        for branch, some in groupby(sorted(chunks), key=lambda chunk: chunk.branch):
            members = [_member(PartKey(chunk, kind)) for chunk in some for kind in KINDS]
            await self._server.call(_remover(self._index(tenant, branch), members))
        self.counters.deleted += dropped
        return dropped

    async def scan(
        self, tenant: str, branch: Branch, begin: int = 0, end: int | None = None, kind: Kind | None = None
    ) -> AsyncIterator[PartKey]:
        """Keys held of a branch, as `Store.scan` does."""
        check_key(ChunkKey(branch, 0))
        name, low = self._index(tenant, branch), b"[" + begin.to_bytes(8, "big")
        high = b"+" if end is None else b"(" + end.to_bytes(8, "big")
        while True:
            members = await self._server.call(_lister(name, low, high))
            keys = [_key(branch, member) for member in members]
            heads = await self.heads(tenant, [key for key in keys if kind in (None, key.kind)])
            for key, head in heads.items():
                if isinstance(head, Manifest):
                    yield key
            if len(members) < PAGE:
                return
            low = b"(" + members[-1]

    async def sweep_orphans(self) -> int:
        """Drop pieces that no manifest names, which a crash may leave; answers how many there were."""
        dropped = 0
        for node in await self._server.call(lambda client: primaries(client, self._server.config.cluster)):
            cursor: int | None = None
            while cursor != 0:
                cursor, names = await self._server.call(_scanner(node, cursor or 0, f"{self._prefix}:p:*"))
                dropped += await self._sweep(names)
        self.counters.orphans += dropped
        self.counters.sweeps += 1
        return dropped

    async def keep_swept(self) -> None:
        """Sweep now and then, for ever, whenever the server is there."""
        while True:
            await asyncio.sleep(self._server.config.sweep_seconds)
            try:
                dropped = await self.sweep_orphans()
            except Unavailable as error:
                _log.debug("no sweep of Redis: %s", error)
            else:
                _log.info("a sweep of Redis dropped %d pieces", dropped)

    async def _sweep(self, names: list[bytes]) -> int:
        # First who will stay, then who is named: a piece stays from the moment it is named, so one that stays and
        # is not named was forgotten, and its token never comes again.
        lives = await self._server.call(_piped("ttl", names))
        lasting = [name for name, seconds in zip(names, lives, strict=True) if seconds == -1]
        heads = {name: self._pieces.head_of(name) for name in lasting}
        known = list(dict.fromkeys(heads.values()))
        values = dict(zip(known, await self._server.call(_piped("hvals", known)), strict=True))
        tokens = {head: {each.token.encode() for each in _readable(held)} for head, held in values.items()}
        orphans = [name for name in lasting if name.split(b":")[-2] not in tokens[heads[name]]]
        await self._server.call(_piped("unlink", orphans))
        return len(orphans)

    async def _begin(self, tenant: str, key: PartKey) -> Manifest | Miss:
        """List a part in its branch's index, and look whether it is held. Raises Conflict if it was deleted."""
        head, index = self._pieces.head(_tag(tenant, key.chunk)), self._index(tenant, key.chunk.branch)

        def work(client: Client) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            pipeline.hmget(head, *_fields(key))
            pipeline.zadd(index, {_member(key): 0})
            held, listed = pipeline.execute(raise_on_error=False)
            if isinstance(held, Exception):
                raise held
            if isinstance(listed, Exception) and not any(held):
                raise listed
            return list(held)

        found = await self._judge(tenant, key, await self._server.call(work))
        if found is Miss.DELETED:
            self._server.later(_remover(index, [_member(key)]))
            raise Conflict(f"what was deleted stays deleted: {key}")
        return found

    async def _judge(self, tenant: str, key: PartKey, answer: list[bytes | None]) -> Manifest | Miss:
        """What a head says of a part. A manifest that cannot be read goes, so that the part may come again."""
        deleted, manifest, reason = answer
        if deleted:
            return Miss.DELETED
        if manifest is None:
            return _REASONS.get(reason or b"", Miss.NEVER_STORED)
        try:
            return Manifest.unpack(manifest)
        except ChunkCorrupt:
            await self._condemn(tenant, key, manifest, Miss.CORRUPT)
            return Miss.CORRUPT

    async def _gone(self, tenant: str, key: PartKey, manifest: Manifest, reason: Miss) -> Miss:
        """Why a part that was named cannot be read. Unless somebody dropped it meanwhile, its manifest goes."""
        if await self._condemn(tenant, key, manifest.pack(), reason):
            self._pieces.drop_later(_tag(tenant, key.chunk), manifest)
            return reason
        found = (await self.heads(tenant, [key]))[key]
        return Miss.EVICTED if isinstance(found, Manifest) else found

    async def _condemn(self, tenant: str, key: PartKey, manifest: bytes, reason: Miss) -> bool:
        word = next(word for word, miss in _REASONS.items() if miss is reason)
        head = self._pieces.head(_tag(tenant, key.chunk))
        return bool(await self._server.write(CONDEMN, [head], [key.kind, manifest, word]))

    def _index(self, tenant: str, branch: Branch) -> str:
        return f"{self._prefix}:b:{{{check_tenant(tenant)}/{branch.hex()}}}"


def check_tenant(tenant: str) -> str:
    """The tenant itself, or InvalidInput for a name that keys cannot be made of."""
    if not tenant or not tenant.isascii() or set(tenant) & set("{}/*?[]\\: "):
        raise InvalidInput(f"a tenant's name is ASCII without braces, slashes, colons, wildcards, got {tenant[:80]!r}")
    return tenant


def _tag(tenant: str, chunk: ChunkKey) -> str:
    check_key(chunk)
    return f"{check_tenant(tenant)}/{chunk.branch.hex()}/{chunk.index}"


def _member(key: PartKey) -> bytes:
    """An entry of a branch's index; in order of chunk numbers, the immutable part first."""
    return key.chunk.index.to_bytes(8, "big") + bytes([KINDS.index(key.kind)])


def _key(branch: Branch, member: bytes) -> PartKey:
    assert len(branch) == BRANCH_BYTES
    return PartKey(ChunkKey(branch, int.from_bytes(member[:8], "big")), KINDS[member[8]])


def _fields(key: PartKey) -> tuple[str, str, str]:
    """What of a head tells of a part: whether its chunk was deleted, its manifest, why that is gone."""
    return "deleted", key.kind, f"{key.kind}?"


def _readable(values: Iterable[bytes]) -> list[Manifest]:
    """The manifests among the values of a head."""
    found = []
    for value in values:
        try:
            found.append(Manifest.unpack(value))
        except ChunkCorrupt:
            continue
    return found


def _remover(name: str, members: list[bytes]) -> Callable[[Client], Any]:
    return lambda client: client.zrem(name, *members)


def _lister(name: str, low: bytes, high: bytes) -> Callable[[Client], Any]:
    return lambda client: client.zrangebylex(name, low, high, start=0, num=PAGE)


def _scanner(node: Client, cursor: int, match: str) -> Callable[[Client], tuple[int, list[bytes]]]:
    return lambda _: node.scan(cursor, match=match, count=PAGE)


def _piped(command: str, names: list[bytes]) -> Callable[[Client], list[Any]]:
    """One command for each of these names, as one pipeline."""

    def work(client: Client) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            getattr(pipeline, command)(name)
        return list(pipeline.execute()) if names else []

    return work
