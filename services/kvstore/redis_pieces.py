"""How a run of bytes lies in Redis: as pieces that nobody finds until a manifest names them.

    <prefix>:h:{<tag>}               a hash, the head: manifests by field, and why others are gone
    <prefix>:p:{<tag>}:<token>:<n>   piece n of the put `token`; vanishes by itself until its manifest is written

The tag keeps head and pieces of one thing in one slot of a cluster, so that a script can see them together.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import ceil
from typing import Any

import msgpack
from xxhash import xxh3_64, xxh3_64_intdigest

from services.kvstore.redis_link import Link, Misfit, Missing, Piece, Span
from services.kvstore.redis_server import Client, RedisServer
from worldkv.errors import ChecksumMismatch, ChunkCorrupt, NotFound, OverBudget

UNLINKED = 256
"""Names of one command that drops pieces."""
SUM_BYTES = 8

COMMIT = """
local head, field = KEYS[1], ARGV[1]
if redis.call('HEXISTS', head, 'deleted') == 1 then return 'deleted' end
if redis.call('HEXISTS', head, field) == 1 then return 'held' end
redis.call('HSET', head, field, ARGV[2])
for n = 2, #KEYS do
  if redis.call('PERSIST', KEYS[n]) == 0 then
    redis.call('HDEL', head, field)
    return 'lost'
  end
end
redis.call('HDEL', head, field .. '?')
return 'kept'
"""
"""Make a manifest, and so its pieces, visible. The first write is the one that may be refused for want of room."""

CONDEMN = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1] .. '?', ARGV[3])
return 1
"""
"""Forget a manifest whose pieces proved useless, and remember why, unless it is another by now."""


@dataclass(frozen=True)
class Manifest:
    """What is known of bytes in Redis without reading them.

    size, checksum  bytes, and xxh3-64 of all of them
    piece_bytes     of every piece but the last, which may be shorter
    token           part of the pieces' names, different for every put
    sums            xxh3-64 of each piece, 8 bytes each, little-endian
    note            a number that the owner keeps with it
    """

    size: int
    checksum: int
    piece_bytes: int
    token: str
    sums: bytes
    note: int = 0

    @property
    def pieces(self) -> int:
        """How many there are; none of an empty run."""
        return ceil(self.size / self.piece_bytes)

    def pack(self) -> bytes:
        """As bytes that notice when one of them changes."""
        fields = [self.size, self.checksum, self.piece_bytes, self.token, self.sums, self.note]
        packed: bytes = msgpack.packb(fields)
        return packed + xxh3_64_intdigest(packed).to_bytes(SUM_BYTES, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """What `pack` wrote; raises ChunkCorrupt for anything else."""
        packed = data[:-SUM_BYTES]
        if xxh3_64_intdigest(packed).to_bytes(SUM_BYTES, "little") != data[-SUM_BYTES:]:
            raise ChecksumMismatch("a manifest in Redis is not what was written")
        try:
            found = cls(*msgpack.unpackb(packed))
            whole = found.piece_bytes > 0 and len(found.sums) == SUM_BYTES * found.pieces
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ChunkCorrupt(f"not a manifest: {str(error)[:200]}") from error
        if not whole:
            raise ChunkCorrupt("a manifest in Redis contradicts itself")
        return found


class Pieces:
    """Writes, reads and drops pieces."""

    def __init__(self, server: RedisServer) -> None:
        self._server, self._prefix = server, server.config.prefix

    def head(self, tag: str) -> str:
        """Name of the head of a tag."""
        return f"{self._prefix}:h:{{{tag}}}"

    def head_of(self, name: bytes) -> bytes:
        """Name of the head that a piece belongs to."""
        begin = len(self._prefix)
        return name[:begin] + b":h:" + name[begin + len(b":p:") : name.index(b"}") + 1]

    def names(self, tag: str, manifest: Manifest) -> list[str]:
        """Names of the pieces of a manifest."""
        return [f"{self._prefix}:p:{{{tag}}}:{manifest.token}:{n}" for n in range(manifest.pieces)]

    async def write(self, tag: str, views: Sequence[memoryview], checksum: int, note: int = 0) -> Manifest:
        """Store bytes as pieces that nobody sees yet and that vanish by themselves; answers their manifest.

        Raises Unavailable and OverBudget; the pieces that came so far are dropped then.
        """
        span, piece_bytes = Span(views), self._server.config.piece_bytes
        blank = Manifest(span.size, checksum, piece_bytes, secrets.token_hex(8), b"", note)
        names, sums = self.names(tag, blank), bytearray(SUM_BYTES * blank.pieces)
        pieces = self._pieces(names, span, blank)

        def take() -> Piece | None:
            n, piece = pieces()
            if piece:
                sums[SUM_BYTES * n : SUM_BYTES * (n + 1)] = _sum(piece)
            return piece

        def work(link: Link) -> None:
            link.send(take, self._server.config.orphan_seconds)

        whole = False
        try:
            if names:
                await self._server.transfer(names[0], len(names), work)
            whole = True
        except OverBudget:
            await self.drop(tag, blank)
            raise
        finally:
            if not whole:
                self.drop_later(tag, blank)
        return replace(blank, sums=bytes(sums))

    async def commit(self, tag: str, field: str, manifest: Manifest, script: str = COMMIT) -> bytes:
        """Make written pieces visible; answers what the script does, the pieces dropped if it did not keep them."""
        keys = [self.head(tag), *self.names(tag, manifest)]
        try:
            outcome: bytes = await self._server.write(script, keys, [field, manifest.pack()])
        except OverBudget:
            await self.drop(tag, manifest)
            raise
        if outcome in (b"held", b"deleted", b"lost"):
            await self.drop(tag, manifest)
        return outcome

    async def read(self, tag: str, manifest: Manifest, views: Sequence[memoryview]) -> None:
        """Read all bytes into buffers, and check them. Raises NotFound if pieces are gone, ChecksumMismatch."""
        span = Span(views)
        assert span.size == manifest.size, (span.size, manifest.size)
        names = self.names(tag, manifest)
        wrong = await self._fetch(names, span, manifest, range(len(names)))
        # Once more: was it the server's memory, or the way here?
        if wrong and await self._fetch(names, span, manifest, wrong):
            raise ChecksumMismatch(f"{len(wrong)} of {len(names)} pieces in Redis are not what was written")

    async def drop(self, tag: str, manifest: Manifest) -> None:
        """Drop the pieces of a manifest that nobody finds any more."""
        await self._server.call(lambda client: self._unlink(client, tag, manifest))

    def drop_later(self, tag: str, manifest: Manifest) -> None:
        """The same, without waiting for it; a sweep finds what is missed."""
        self._server.later(lambda client: self._unlink(client, tag, manifest))

    def _unlink(self, client: Client, tag: str, manifest: Manifest) -> None:
        names = self.names(tag, manifest)
        for begin in range(0, len(names), UNLINKED):
            client.unlink(*names[begin : begin + UNLINKED])

    async def _fetch(self, names: list[str], span: Span, manifest: Manifest, which: Sequence[int]) -> list[int]:
        """Read these pieces; answers which of them are not what was written."""
        pieces, wrong = self._pieces(names, span, manifest, which), list[int]()

        def work(link: Link) -> None:
            mine = dict[bytes, int]()

            def take() -> Piece | None:
                n, piece = pieces()
                if piece:
                    mine[piece.name] = n
                return piece

            def done(piece: Piece) -> None:
                n = mine.pop(piece.name)
                if _sum(piece) != manifest.sums[SUM_BYTES * n : SUM_BYTES * (n + 1)]:
                    wrong.append(n)

            link.fetch(take, done)

        try:
            if which:
                await self._server.transfer(names[0], len(which), work)
        except Missing as error:
            raise NotFound(f"piece {error} is gone from Redis") from error
        except Misfit as error:
            raise ChecksumMismatch(f"piece {error} in Redis has another length than was written") from error
        return wrong

    def _pieces(
        self, names: list[str], span: Span, manifest: Manifest, which: Sequence[int] | None = None
    ) -> Callable[[], tuple[int, Piece | None]]:
        """Gives piece after piece, with its number, to several threads."""
        wanted = range(len(names)) if which is None else which
        turns = count()  # `next` of it is one step of the interpreter

        def take() -> tuple[int, Piece | None]:
            turn = next(turns)
            if turn >= len(wanted):
                return -1, None
            n = wanted[turn]
            begin = n * manifest.piece_bytes
            end = min(begin + manifest.piece_bytes, span.size)
            return n, Piece(names[n].encode(), span.cut(begin, end), end - begin)

        return take


def _sum(piece: Piece) -> bytes:
    if len(piece.views) == 1:
        return xxh3_64_intdigest(piece.views[0]).to_bytes(SUM_BYTES, "little")
    hasher: Any = xxh3_64()
    for view in piece.views:
        hasher.update(view)
    return int(hasher.intdigest()).to_bytes(SUM_BYTES, "little")
