"""Worlds as lineages: fork, rewind and open are one operation, and what no lineage covers is swept away.

Nobody holds a lock, and whoever does this may die at any point. Three rules keep chunks from being lost:

- Who takes a world over, to walk on after its last chunk, first swaps its record as it is, and then looks which chunk
  is the last. Whoever wrote until then asks for the record after each put, and calls nothing kept under another version
  than his own: what he calls kept was there to be seen.

- Who forks one world into another looks at the first again after it wrote the second. Was it removed or rewound
  meanwhile, so that a sweep may not have seen the fork, the fork is undone and raises Conflict.
- Who drops branches first writes down, under a hidden name, that they are to be swept. A sweep that is cut short is
  finished by the next one, which also finds what a writer that was frozen wrote late.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from worldkv.catalog import Catalog, Stored, World
from worldkv.chunk import MAX_INDEX, Branch, ChunkKey, Lineage
from worldkv.errors import AlreadyExists, Conflict, InvalidInput, NotFound, SpecMismatch, Unavailable
from worldkv.store import PartKey, Store

HIDDEN = "~"
"""Names that begin so are ours: records of what is to be swept, or is being imported."""
DOOMED = HIDDEN + "doomed/"
BATCH = 512
"""Chunks deleted in one call."""
TRIES = 20
"""How often the list of worlds is read until it holds still."""


class Swept(NamedTuple):
    """What a sweep dropped: chunks, and the frames that were held of them."""

    chunks: int = 0
    frames: int = 0


async def begin(catalog: Catalog, name: str, spec: str = "", branch: Branch | None = None) -> Stored:
    """A new world without chunks, on a branch that may be named before; raises AlreadyExists."""
    return await create(catalog, World(visible(name), Lineage.begin(branch), spec=spec))


async def length(store: Store, lineage: Lineage) -> int:
    """How many chunks a world has: those before its head branch, and those that the head has without a gap."""
    count = lineage.start
    async for key in store.scan(lineage.head, count, kind="part"):
        if key.chunk.index != count:
            break
        count += 1
    return count


async def fork(
    store: Store,
    catalog: Catalog,
    name: str,
    at: int | None = None,
    into: str | None = None,
    spec: str = "",
    heads: Collection[Branch] = (),
    branch: Branch | None = None,
) -> Stored:
    """A new branch whose first own chunk is number `at`; those before it are shared, and nothing is copied.

    at    chunk number, None: just after the last chunk, to walk on
    into  name of a new world. None: the world itself goes on at `at`, which is to open, to rewind or to take it over;
          a writer of its old head then writes where nobody reads
    spec  digest of the model that is to write; SpecMismatch if the world's is another one
    heads  one of these branches is to be the world's head, else Conflict: somebody has taken it over; none: any may be
    branch  the new branch, for who has to write it down before; None: one is made

    Raises NotFound for a world that is not there or has no chunk `at` - 1, InvalidInput for a negative `at`,
    AlreadyExists if `into` is taken, Conflict if somebody else changed the world meanwhile.
    """
    source = (await catalog.read(visible(name))).world
    if spec and source.spec and spec != source.spec:
        raise SpecMismatch(f"world {name!r} is of spec {source.spec}, not {spec}")
    if heads and source.lineage.head not in heads:
        raise Conflict(f"world {name!r} has been taken over: its head is {source.lineage.head.hex()}")
    if at is None and into is None:
        source = await _claim(catalog, source)
    end = await length(store, source.lineage) if at is None else at
    lineage = source.lineage.fork(end, branch)
    if end > MAX_INDEX:
        raise InvalidInput(f"a world is forked at a chunk number up to {MAX_INDEX}, got {end}")
    if at and not await _holds(store, source.lineage.key(at - 1)):
        raise NotFound(f"world {name!r} has no chunk {at - 1}, after which it could be forked")
    record = World(visible(name if into is None else into), lineage, spec=spec or source.spec, chunks=end)
    if into is None:
        if _branches([source.lineage]) - _branches([lineage]):
            await _doom(catalog, source.lineage)
        return await _swap(catalog, source.version, record)
    stored = await create(catalog, record)
    if end and not await _covers(catalog, name, lineage.key(end - 1)):
        with suppress(NotFound):
            await catalog.remove(record.name, stored.world.version)
        raise Conflict(f"world {name!r} was removed or rewound while it was forked")
    return stored


async def remove(store: Store, catalog: Catalog, name: str, expected: int = 0) -> Swept:
    """Forget a world and drop the chunks that no other world has; answers what went.

    expected  version of the record that is meant; 0: whatever it is

    Whoever still walks in it should be gone: what is written later stays until a later `sweep`. Raises NotFound, and
    Conflict if the record changed meanwhile; also raises what the store does, and `sweep` then does the rest.
    """
    world = (await catalog.read(name)).world
    if expected and world.version != expected:
        raise Conflict(f"world {name!r} has version {world.version}, expected {expected}")
    await _doom(catalog, world.lineage)
    await catalog.remove(name, world.version)
    covered = _coverage(await _lineages(catalog))
    chunks = frames = 0
    for branch in sorted(_branches([world.lineage])):
        swept = await _sweep(store, branch, covered.get(branch, ()))
        chunks, frames = chunks + swept.chunks, frames + swept.frames
    return Swept(chunks, frames)


async def sweep(store: Store, catalog: Catalog) -> Swept:
    """Drop every chunk that no world covers, of all branches that any record names; answers what went.

    A record of what was to be swept goes when there is nothing left of it.
    """
    doomed = [world async for world in catalog.list(DOOMED)]  # before the others: what was dropped later is kept
    live = await _lineages(catalog)
    covered = _coverage(live)
    swept: dict[Branch, Swept] = {}
    for branch in sorted(_branches([*live, *(world.lineage for world in doomed)])):
        swept[branch] = await _sweep(store, branch, covered.get(branch, ()))
    for world in doomed:
        clean = not any(swept[branch].chunks for branch in _branches([world.lineage]))
        if clean and world.lineage.head not in covered:
            with suppress(NotFound, Conflict):
                await catalog.remove(world.name, world.version)
    return Swept(sum(each.chunks for each in swept.values()), sum(each.frames for each in swept.values()))


async def create(catalog: Catalog, record: World) -> Stored:
    """Write a record under a name that is free; raises AlreadyExists."""
    try:
        return await _swap(catalog, 0, record)
    except Conflict as error:
        raise AlreadyExists(f"there is a world {record.name!r} already") from error


def visible(name: str) -> str:
    """The name itself, or InvalidInput if it is one of our own."""
    if name.startswith(HIDDEN):
        raise InvalidInput(f"names that begin with {HIDDEN} are kept for records of our own, got {name!r}")
    return name


async def _swap(catalog: Catalog, expected: int, record: World) -> Stored:
    """Swap a record whose head branch is new: if the answer got lost, the head tells whether it was written."""
    try:
        return await catalog.swap(record.name, expected, record)
    except (Conflict, Unavailable):
        with suppress(NotFound, Unavailable):
            stored = await catalog.read(record.name)
            if stored.world.lineage.head == record.lineage.head:  # with another version it is being taken over already
                return stored._replace(world=replace(stored.world, version=expected + 1))
        raise


async def _claim(catalog: Catalog, world: World) -> World:
    """Let whoever writes a world know that it is being taken over: its record gets another version, and stays as it is.
    It does not matter who did that: of several the first to swap has it. Raises Conflict if somebody already has."""
    try:
        return (await catalog.swap(world.name, world.version, world)).world
    except (Conflict, Unavailable):
        with suppress(NotFound, Unavailable):
            now = (await catalog.read(world.name)).world
            if now.lineage == world.lineage and now.version > world.version:
                return now
        raise


async def _doom(catalog: Catalog, lineage: Lineage) -> None:
    """Write down that what is left of these branches is to be swept; what another world covers is safe from it."""
    name = DOOMED + lineage.head.hex()
    with suppress(AlreadyExists):
        await create(catalog, World(name, lineage))


async def _holds(store: Store, key: ChunkKey) -> bool:
    return PartKey(key, "part") in [each async for each in store.scan(key.branch, key.index, key.index + 1)]


async def _covers(catalog: Catalog, name: str, key: ChunkKey) -> bool:
    """Whether a world still has this chunk, and so all before it: a branch has one past only."""
    try:
        return (await catalog.read(name)).world.lineage.covers(key)
    except NotFound:
        return False


async def _lineages(catalog: Catalog) -> list[Lineage]:
    """The lineages of all worlds at one point in time.

    Two lists that say the same of every name, one read after the other, hold for the time between them: no lineage
    comes back once it was replaced, for its head is new every time. Raises Conflict if they keep changing.
    """
    before: dict[str, Lineage] | None = None
    for _ in range(TRIES):
        now = {world.name: world.lineage async for world in catalog.list() if not world.name.startswith(DOOMED)}
        if now == before:
            return list(now.values())
        before = now
    raise Conflict(f"the list of worlds changed {TRIES} times while it was read: sweep again later")


def runs(lineage: Lineage, begin: int = 0, end: int | None = None) -> list[tuple[Branch, int, int | None]]:
    """Where chunks `begin` to `end` (exclusive; None: to the last) of a world are: (branch, first, end) of each run."""
    found: list[tuple[Branch, int, int | None]] = []
    start = 0
    for branch, stop in lineage.parts:
        first, last = max(start, begin), stop if end is None else end if stop is None else min(stop, end)
        if last is None or first < last:
            found.append((branch, first, last))
        start = stop or 0
    return found


def shared(one: Lineage, other: Lineage) -> int | None:
    """How many chunks, from the first, are the same in two worlds; None: all of them."""
    end = 0
    for (mine, stop), (theirs, limit) in zip(one.parts, other.parts, strict=False):
        if mine != theirs:
            return end
        if stop != limit:
            return min(each for each in (stop, limit) if each is not None)
        end = stop or 0
    return None


def _branches(lineages: Iterable[Lineage]) -> set[Branch]:
    return {branch for lineage in lineages for branch, _ in lineage.parts}


def _coverage(lineages: Iterable[Lineage]) -> dict[Branch, set[tuple[int, int | None]]]:
    """Which chunk numbers of each branch are read by somebody, as (begin, end), `end` exclusive or None: open."""
    covered: dict[Branch, set[tuple[int, int | None]]] = {}
    for lineage in lineages:
        for branch, begin, end in runs(lineage):
            covered.setdefault(branch, set()).add((begin, end))
    return covered


def _gaps(covered: Iterable[tuple[int, int | None]]) -> Iterable[tuple[int, int | None]]:
    """What lies between, before and after these runs."""
    at = 0
    for start, end in sorted(covered, key=lambda run: run[0]):
        if start > at:
            yield at, start
        if end is None:
            return
        at = max(at, end)
    yield at, None


async def _sweep(store: Store, branch: Branch, covered: Collection[tuple[int, int | None]]) -> Swept:
    chunks = frames = 0
    for start, end in _gaps(covered):
        async for batch in _batches(store, branch, start, end):
            frames += await store.delete([PartKey(chunk, "part") for chunk in batch])
            chunks += len(batch)
    return Swept(chunks, frames)


async def _batches(store: Store, branch: Branch, start: int, end: int | None) -> AsyncIterator[list[ChunkKey]]:
    """Chunks of which anything is held, a batch at a time; each scan is over before its batch is given."""
    while True:
        batch: dict[ChunkKey, None] = {}
        async for key in store.scan(branch, start, end):
            if len(batch) == BATCH and key.chunk not in batch:
                break
            batch[key.chunk] = None
        if not batch:
            return
        yield list(batch)
        start = max(chunk.index for chunk in batch) + 1
