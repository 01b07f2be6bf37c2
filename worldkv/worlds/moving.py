"""Export and import of a world as one file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from worldkv.catalog import Catalog, World
from worldkv.chunk import Branch, ChunkKey, Lineage, new_branch
from worldkv.errors import (
    AlreadyExists,
    BadHeader,
    ChecksumMismatch,
    ChunkCorrupt,
    InvalidInput,
    NotFound,
    OverBudget,
    SpecMismatch,
)
from worldkv.format import Frame, decode_kv, decode_part, encode_kv, encode_part
from worldkv.store import Miss, PartKey, Store
from worldkv.worlds.files import WorldBytes, WorldWriter, open_world, read_frames, read_world
from worldkv.worlds.lineages import BATCH, HIDDEN, create, length, visible

PIECE_BYTES = 1 << 20
"""Of a world that is exported piece by piece."""
IMPORTING = HIDDEN + "importing/"
"""Begin of the hidden name that keeps a world from being swept while it comes in."""


@dataclass
class Moved:
    """What an export wrote or an import kept.

    world     the record in the file, or the new one
    parts, kv frames of either kind
    nbytes    bytes of these frames
    left_out  KV that did not come along, by reason; it can be made again from the latents
    """

    world: World
    parts: int = 0
    kv: int = 0
    nbytes: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, key: PartKey, frame: Frame) -> None:
        self.parts += key.kind == "part"
        self.kv += key.kind == "kv"
        self.nbytes += frame.nbytes


async def export_world(
    store: Store, catalog: Catalog, name: str, path: Path, at: int | None = None, kv: bool = True
) -> Moved:
    """Write the first `at` chunks of a world (None: all there are) to a file: all of them, or it is as it was before.

    kv  False leaves keys and values out: a small file, from whose latents they can be made again

    KV that is not held is left out and counted. Raises NotFound for an unknown world or an immutable part that is
    gone, InvalidInput where the file cannot be written, and what the store raises.
    """
    moved = await _exporting(store, catalog, name, at)
    try:
        writer = await asyncio.to_thread(WorldWriter, path, moved.world)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    try:
        async with aclosing(_frames(store, moved, kv)) as frames:
            async for key, frame in frames:
                await asyncio.to_thread(writer.add, key, frame)
        await asyncio.to_thread(writer.finish)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    finally:
        await asyncio.to_thread(writer.abandon)
    return moved


async def export_pieces(
    store: Store, catalog: Catalog, name: str, piece_bytes: int = PIECE_BYTES
) -> AsyncGenerator[bytes, None]:
    """The bytes of the file that `export_world` writes of a whole world, in pieces; a frame is at hand at a time.

    Raises what `export_world` does: then what was given is no file.
    """
    moved = await _exporting(store, catalog, name, None)
    written = WorldBytes(moved.world)
    waiting = bytearray(written.begin)
    async with aclosing(_frames(store, moved, kv=True)) as frames:
        async for key, frame in frames:
            for buffer in await asyncio.to_thread(written.frame, key, frame):
                view = memoryview(buffer).cast("B")
                while len(waiting) + len(view) >= piece_bytes:
                    room = piece_bytes - len(waiting)
                    yield bytes(waiting) + bytes(view[:room])
                    waiting.clear()
                    view = view[room:]
                waiting += view
    yield bytes(waiting + written.end())


async def _exporting(store: Store, catalog: Catalog, name: str, at: int | None) -> Moved:
    """A world whose first `at` chunks are to be exported, None: all there are."""
    world = (await catalog.read(visible(name))).world
    end = await length(store, world.lineage) if at is None else at
    if end < 0:
        raise InvalidInput(f"a world is exported up to a chunk number from 0, got {end}")
    return Moved(replace(world, chunks=end))


async def _frames(store: Store, moved: Moved, kv: bool) -> AsyncGenerator[tuple[PartKey, Frame], None]:
    """The frames of an export, in their order; counted as they are given."""
    world = moved.world
    for index in range(world.chunks):
        for kind in ("part", "kv") if kv else ("part",):
            key = PartKey(world.lineage.key(index), "part" if kind == "part" else "kv")
            frame = (await store.get([key]))[key]
            if isinstance(frame, Frame):
                moved.add(key, frame)
                yield key, frame
            elif kind == "kv":
                moved.left_out[frame.value] += 1
            else:
                raise NotFound(f"world {world.name!r} cannot be exported: {key} is {_said(frame)}")


async def import_world(
    store: Store, catalog: Catalog, path: Path, name: str | None = None, kv: bool = True, spec: str = ""
) -> Moved:
    """A new world from a file, under the name it had or another one.

    Its chunks get the keys of a new branch: whatever is or was here under their old keys stays as it is, and the new
    world's lineage is short. What it does not have was recalled under keys of elsewhere, and stays so.

    kv    False leaves keys and values out
    spec  digest of the model that the world must be of; SpecMismatch if it is another one's

    KV that is damaged or has no room is left out and counted. Raises AlreadyExists, InvalidInput for a file that
    cannot be read, one of the errors under ChunkCorrupt for one that cannot be trusted, OverBudget where immutable
    parts have no room, and what the store raises; then nothing is left of what was kept until there.
    """
    with open_world(path) as file:
        source = await asyncio.to_thread(read_world, file)
        if spec and source.spec and spec != source.spec:
            raise SpecMismatch(f"the world in {path} is of spec {source.spec}, not {spec}")
        target = visible(name or source.name)
        with suppress(NotFound):
            await catalog.read(target)
            raise AlreadyExists(f"there is a world {target!r} already")
        branch = new_branch()
        lineage = Lineage.begin(branch)
        held = (await create(catalog, World(IMPORTING + branch.hex(), lineage))).world
        moved = Moved(World(target, lineage, spec=source.spec, chunks=source.chunks))
        undo = True
        try:
            await _copy(store, read_frames(file, source), source, moved, kv)
            undo = False  # if the answer to the next call gets lost, nobody knows whether the world is there
            moved.world = (await create(catalog, moved.world)).world
        except AlreadyExists:
            undo = True
            raise
        finally:
            if undo:
                await _undo(store, branch, moved.parts)
            if undo or moved.world.version:
                await catalog.remove(held.name)
    return moved


async def _copy(
    store: Store, frames: Iterator[tuple[PartKey, Frame | ChecksumMismatch]], source: World, moved: Moved, kv: bool
) -> None:
    """Put the frames of a file under their new keys."""
    branch = moved.world.lineage.head
    while found := await asyncio.to_thread(next, frames, None):
        old, frame = found
        if old.kind == "part":
            if old.chunk.index != moved.parts:
                raise BadHeader(f"chunk {moved.parts} is not in the file, but {old.chunk.index} is")
            if not isinstance(frame, Frame):
                raise frame
            new = await asyncio.to_thread(_renamed_part, frame, old.chunk, branch, source)
        elif old.chunk.index != moved.parts - 1:
            raise BadHeader(f"KV of chunk {old.chunk.index} stands apart from its immutable part")
        elif not kv:
            continue
        else:
            try:
                if not isinstance(frame, Frame):
                    raise frame
                new = await asyncio.to_thread(_renamed_kv, frame, old.chunk, branch, source)
            except ChunkCorrupt:
                moved.left_out[Miss.CORRUPT.value] += 1
                continue
        key = PartKey(ChunkKey(branch, old.chunk.index), old.kind)
        try:
            await store.put({key: new})
        except OverBudget:
            if old.kind == "part":
                raise
            moved.left_out["no room"] += 1
            continue
        moved.add(key, new)
    if moved.parts != source.chunks:
        raise BadHeader(f"a world of {source.chunks} chunks, of which {moved.parts} are in the file")


async def _undo(store: Store, branch: Branch, count: int) -> None:
    chunks = [ChunkKey(branch, index) for index in range(count + 1)]  # the last put may have been half done
    for first in range(0, len(chunks), BATCH):
        await store.delete([PartKey(chunk, "part") for chunk in chunks[first : first + BATCH]])


def _renamed_part(frame: Frame, old: ChunkKey, branch: Branch, world: World) -> Frame:
    part = decode_part(frame)
    _same(part.meta.key, part.meta.spec, old, world)
    recalled = tuple(
        ChunkKey(branch, key.index) if key.index < world.chunks and world.lineage.covers(key) else key
        for key in part.meta.recalled
    )
    meta = replace(part.meta, key=ChunkKey(branch, old.index), recalled=recalled)
    return encode_part(replace(part, meta=meta))


def _renamed_kv(frame: Frame, old: ChunkKey, branch: Branch, world: World) -> Frame:
    key, spec, kv = decode_kv(frame)
    _same(key, spec, old, world)
    return encode_kv(ChunkKey(branch, old.index), spec, kv)


def _same(key: ChunkKey, spec: str, expected: ChunkKey, world: World) -> None:
    if key != expected:
        raise BadHeader(f"a frame says it is of {key}, but stands where {expected} should")
    if world.spec and spec != world.spec:
        raise BadHeader(f"{key} is of spec {spec}, but its world of {world.spec}")


def _said(miss: Miss) -> str:
    return f"not to be had ({miss.value})"
