"""How worlds are entered, and the pictures that they begin from: kept once, by the first branch of a lineage.

Forks have the same first branch, and so the same.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from xxhash import xxh3_128_digest

from services.generator.saving import Elsewhere, Record, Saved, decode, encode
from worldkv.catalog import Snapshot, Snapshots
from worldkv.chunk import Branch, ModelSpec
from worldkv.errors import ChunkCorrupt, NotFound

SCENES = "~scene/"
"""Begin of the names under which is kept how a world is entered."""

_log = logging.getLogger(__name__)


async def keep(snapshots: Snapshots, record: Record, root: Branch) -> Record:
    """Keep how a world that begins with this branch is entered; the record, whose picture is kept there from now on."""
    born = replace(record, heads=(root,), tour="", next=0, walker=record.start, numbers=())
    if record.picture:
        born, record = replace(born, elsewhere=None), _named(record, root)
    frame = await asyncio.to_thread(encode, Saved(born))
    await snapshots.save(SCENES + root.hex(), Snapshot(0, frame))
    return record


async def known(snapshots: Snapshots, root: Branch, spec: ModelSpec) -> Record:
    """The record that was kept of a world of this first branch. Raises NotFound, ChunkCorrupt."""
    snapshot = await snapshots.load(SCENES + root.hex())
    record = (await asyncio.to_thread(decode, snapshot.state, spec)).record
    return _named(record, root) if record.picture else record


async def whole(snapshots: Snapshots, record: Record, spec: ModelSpec) -> Record:
    """A record with its picture at hand; without it where that is gone, which is told in the log."""
    if record.elsewhere is None or record.picture:
        return record
    try:
        picture = (await known(snapshots, record.elsewhere.root, spec)).picture
    except (NotFound, ChunkCorrupt) as error:
        _log.warning("the picture that world %r begins from is gone: %s", record.world, error)
        return record
    if not record.elsewhere.holds(picture):
        _log.warning("the picture that world %r begins from is another now", record.world)
        return record
    return replace(record, picture=picture)


def _named(record: Record, root: Branch) -> Record:
    return replace(record, elsewhere=Elsewhere(root, xxh3_128_digest(record.picture)))
