"""A world as one file, there and back; and what `verify` says of damage."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldkv.catalog import RamCatalog, World, pack, unpack
from worldkv.chunk import ChunkKey, KVPart, Lineage, Meta, Part, Segment
from worldkv.errors import (
    AlreadyExists,
    BadHeader,
    BadMagic,
    ChecksumMismatch,
    ChunkCorrupt,
    InvalidInput,
    NotFound,
    OverBudget,
    Oversized,
    SpecMismatch,
    Truncated,
    UnknownVersion,
)
from worldkv.format import Frame, decode_kv, decode_part, encode_kv, encode_part, join
from worldkv.store import Miss, PartKey, RamStore
from worldkv.worlds import Verdict, begin, export_world, fork, import_world, length, remove, verify
from worldkv.worlds.files import WorldWriter

SPEC, OTHER = "0a" * 16, "0b" * 16
ROOM = 1 << 20
ELSEWHERE = ChunkKey(b"elsewhere.......", 3)


def part_frame(key: ChunkKey, recalled: tuple[ChunkKey, ...] = (), spec: str = SPEC) -> Frame:
    meta = Meta(key, spec, 3 * key.index, np.eye(4)[None], 1.0, 1.0, recalled)
    return encode_part(Part(meta, np.full((1, 1, 2, 2), key.index, np.float16), b"prompt"))


def kv_frame(key: ChunkKey, spec: str = SPEC) -> Frame:
    data = np.full(256, key.index, np.uint8)
    return encode_kv(key, spec, KVPart((Segment("k", 0, 0, "float16", (8, 2, 8), "raw", data),)))


async def made(store: RamStore, catalog: RamCatalog) -> World:
    """A world of ten chunks on two branches, of which chunk 3 has no KV; chunk 8 recalled 2, 7 and one of elsewhere."""
    first = (await begin(catalog, "harbour", SPEC)).world
    await write(store, first, 0, 7)
    second = (await fork(store, catalog, "harbour", 5)).world
    await write(store, second, 5, 10)
    await store.delete([PartKey(second.lineage.key(3), "kv")])
    return second


async def write(store: RamStore, world: World, begin: int, end: int) -> None:
    for n in range(begin, end):
        key = ChunkKey(world.lineage.head, n)
        recalled = (world.lineage.key(2), world.lineage.key(7), ELSEWHERE) if n == 8 else ()
        await store.put({PartKey(key, "part"): part_frame(key, recalled), PartKey(key, "kv"): kv_frame(key)})


async def frame(store: RamStore, key: ChunkKey, kind: str) -> Frame:
    found = (await store.get([PartKey(key, kind)]))[PartKey(key, kind)]
    assert isinstance(found, Frame), found
    return found


def content(path: Path) -> bytes:
    return path.read_bytes()


def rewrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_world_comes_back_from_its_file_under_new_keys(tmp_path):
    store, catalog = RamStore(ROOM), RamCatalog()
    source = await made(store, catalog)
    out = await export_world(store, catalog, "harbour", tmp_path / "harbour.wkw")
    assert (out.parts, out.kv, dict(out.left_out), out.world.chunks) == (10, 9, {"evicted": 1}, 10)
    assert files(tmp_path) == ["harbour.wkw"]

    store, catalog = RamStore(ROOM), RamCatalog()
    moved = await import_world(store, catalog, tmp_path / "harbour.wkw", "quay")
    assert (moved.parts, moved.kv, moved.left_out) == (10, 9, {})
    world = (await catalog.read("quay")).world
    assert (world, world.spec, world.chunks) == (moved.world, SPEC, 10)
    assert await length(store, world.lineage) == 10
    assert [each.name async for each in catalog.list()] == ["quay"]
    for old, new in zip(source.lineage.keys(10), world.lineage.keys(10), strict=True):
        part = decode_part(await frame(store, new, "part"))
        assert (part.meta.key, part.meta.begin, part.conditioning) == (new, 3 * old.index, b"prompt")
        assert (part.latents == old.index).all()
        if old.index != 3:
            key, spec, kv = decode_kv(await frame(store, new, "kv"))
            assert (key, spec, kv.segments[0].data[0]) == (new, SPEC, old.index)
    recalled = decode_part(await frame(store, world.lineage.key(8), "part")).meta.recalled
    assert recalled == (world.lineage.key(2), world.lineage.key(7), ELSEWHERE)
    assert (await verify(store, world)).bad == {}


async def test_a_world_that_was_removed_may_come_back(tmp_path):
    store, catalog = RamStore(ROOM), RamCatalog()
    await made(store, catalog)
    await export_world(store, catalog, "harbour", tmp_path / "w", at=6)
    await remove(store, catalog, "harbour")
    moved = await import_world(store, catalog, tmp_path / "w")
    assert (moved.world.name, moved.parts, await length(store, moved.world.lineage)) == ("harbour", 6, 6)
    await remove(store, catalog, "harbour")
    assert store.used_bytes == 0


async def test_keys_and_values_may_be_left_out_on_either_side(tmp_path):
    store, catalog = RamStore(ROOM), RamCatalog()
    await made(store, catalog)
    small = await export_world(store, catalog, "harbour", tmp_path / "small", kv=False)
    await export_world(store, catalog, "harbour", tmp_path / "large")
    assert (small.parts, small.kv) == (10, 0)
    assert (tmp_path / "small").stat().st_size < (tmp_path / "large").stat().st_size
    assert (await import_world(store, catalog, tmp_path / "large", "a", kv=False)).kv == 0
    assert (await import_world(store, catalog, tmp_path / "small", "b")).parts == 10


async def test_an_empty_world_is_a_file_too(tmp_path):
    store, catalog = RamStore(ROOM), RamCatalog()
    await begin(catalog, "harbour")
    await export_world(store, catalog, "harbour", tmp_path / "w")
    assert (await import_world(store, catalog, tmp_path / "w", "quay")).world.chunks == 0


async def test_a_world_that_cannot_be_exported_leaves_the_file_as_it_was(tmp_path):
    store, catalog = RamStore(ROOM), RamCatalog()
    world = await made(store, catalog)
    await export_world(store, catalog, "harbour", tmp_path / "w", at=2)
    before = (tmp_path / "w").read_bytes()
    await store.delete([PartKey(world.lineage.key(4), "part")])
    with pytest.raises(NotFound, match=r"/4 .*deleted"):
        await export_world(store, catalog, "harbour", tmp_path / "w")
    assert (files(tmp_path), (tmp_path / "w").read_bytes()) == (["w"], before)
    for path in (tmp_path / "no" / "w", tmp_path):
        with pytest.raises(InvalidInput, match=str(path)):
            await export_world(store, catalog, "harbour", path, at=2)
    assert files(tmp_path) == ["w"]


@pytest.fixture
async def exported(tmp_path: Path) -> Path:
    store, catalog = RamStore(ROOM), RamCatalog()
    world = (await begin(catalog, "harbour", SPEC)).world
    await write(store, world, 0, 3)
    await export_world(store, catalog, "harbour", tmp_path / "w")
    return tmp_path / "w"


async def fails(path: Path, error: type[Exception], **how) -> None:
    """An import raises this and leaves nothing behind."""
    store, catalog = RamStore(ROOM), RamCatalog()
    with pytest.raises(error):
        await import_world(store, catalog, path, **how)
    assert [each async for each in catalog.list()] == []
    assert store.used_bytes == 0
    store.check_integrity()


async def test_every_way_to_be_wrong_has_its_error(exported: Path):
    good = content(exported)
    for error, bad in [
        (BadMagic, b"\x89WKV" + good[4:]),
        (BadMagic, b"\x89PNG"),
        (Truncated, good[:5]),
        (Truncated, good[:40]),
        (Truncated, good[:-1]),
        (Truncated, good[: len(good) // 2]),
        (UnknownVersion, good[:8] + b"\2" + good[9:]),
        (Oversized, good[:12] + b"\xff\xff\xff\xff" + good[16:]),
        (ChecksumMismatch, good[:20] + b"\0" + good[21:]),
        (Oversized, good + b"\0"),
    ]:
        rewrite(exported, bad)
        await fails(exported, error)
    with pytest.raises(InvalidInput, match="no such"):
        await import_world(RamStore(0), RamCatalog(), exported.parent / "no such")


async def test_a_flipped_byte_is_an_error_or_a_counted_miss_and_never_data(exported: Path):
    good = content(exported)
    store, catalog = RamStore(ROOM), RamCatalog()
    await import_world(store, catalog, exported, "good")
    wanted = await contents(store, catalog, "good")
    misses = errors = 0
    for at in range(0, len(good), 37):
        rewrite(exported, good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        store, catalog = RamStore(ROOM), RamCatalog()
        try:
            moved = await import_world(store, catalog, exported, "bad")
        except ChunkCorrupt:
            errors += 1
            assert store.used_bytes == 0
            continue
        assert moved.left_out == {"corrupt": 1}
        misses += 1
        found = await contents(store, catalog, "bad")
        assert [got for got in found if got is not None] == [
            want for got, want in zip(found, wanted, strict=True) if got is not None
        ]
        assert found.count(None) == 1
    assert min(misses, errors) > 10


async def contents(store: RamStore, catalog: RamCatalog, name: str) -> list[bytes | None]:
    """What stands in a world's chunks, whatever its branch is called."""
    world = (await catalog.read(name)).world
    found: list[bytes | None] = []
    for chunk in world.lineage.keys(world.chunks):
        for kind in ("part", "kv"):
            got = (await store.get([PartKey(chunk, kind)]))[PartKey(chunk, kind)]
            if isinstance(got, Miss):
                found.append(None)
            elif kind == "part":
                found.append(decode_part(got).latents.tobytes())
            else:
                found.append(decode_kv(got)[2].segments[0].data.tobytes())
    return found


@settings(max_examples=40)
@given(data=st.data())
async def test_whatever_the_bytes_are_they_are_a_world_or_an_error(data: st.DataObject, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed.wkw"
    world = World("harbour", Lineage.begin(b"b" * 16), spec=SPEC, chunks=2)
    writer = WorldWriter(path, world)
    for key in world.lineage.keys(2):
        writer.add(PartKey(key, "part"), part_frame(key))
        writer.add(PartKey(key, "kv"), kv_frame(key))
    writer.finish()
    bytes_ = bytearray(path.read_bytes())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(bytes_) - 1), st.integers(0, 255)), max_size=4)):
        bytes_[at] = value
    path.write_bytes(bytes_[: data.draw(st.integers(0, len(bytes_)) | st.just(len(bytes_)))])
    store, catalog = RamStore(ROOM), RamCatalog()
    try:
        moved = await import_world(store, catalog, path)
    except (ChunkCorrupt, InvalidInput):
        assert store.used_bytes == 0
        assert [each async for each in catalog.list()] == []
    else:
        assert (await verify(store, moved.world)).bad == {}


def crooked() -> Iterator[tuple[type[Exception], list[tuple[PartKey, Frame]]]]:
    """Files whose checksums are right and whose contents are not."""
    keys = [ChunkKey(b"b" * 16, n) for n in range(2)]
    parts = [(PartKey(key, "part"), part_frame(key)) for key in keys]
    kvs = [(PartKey(key, "kv"), kv_frame(key)) for key in keys]
    yield BadHeader, [parts[0]]
    yield BadHeader, [parts[1], parts[0]]
    yield BadHeader, [kvs[0], parts[0], parts[1]]
    yield BadHeader, [parts[0], parts[0], parts[1]]
    yield BadHeader, [parts[0], kvs[1], parts[1]]
    yield BadHeader, [parts[0], (parts[1][0], parts[0][1])]
    yield BadHeader, [parts[0], (parts[1][0], part_frame(keys[1], spec=OTHER))]
    yield BadMagic, [parts[0], (parts[1][0], Frame.of(b"no frame"))]
    yield BadHeader, [*parts, (PartKey(ChunkKey(b"b" * 16, 2), "part"), parts[0][1])]


@pytest.mark.parametrize(("error", "frames"), [*crooked()])
async def test_files_that_contradict_themselves_are_refused(tmp_path, error, frames):
    writer = WorldWriter(tmp_path / "w", World("harbour", Lineage.begin(b"b" * 16), spec=SPEC, chunks=2))
    for key, each in frames:
        writer.add(key, each)
    writer.finish()
    await fails(tmp_path / "w", error)


async def test_imports_that_cannot_be_leave_nothing_behind(exported: Path):
    await fails(exported, SpecMismatch, spec=OTHER)
    await fails(exported, InvalidInput, name="~ours")
    store, catalog = RamStore(ROOM), RamCatalog()
    await begin(catalog, "harbour")
    with pytest.raises(AlreadyExists, match="harbour"):
        await import_world(store, catalog, exported)
    assert store.used_bytes == 0
    with pytest.raises(OverBudget):
        await import_world(RamStore(900), catalog, exported, "quay")
    assert [each.name async for each in catalog.list()] == ["harbour"]


async def test_kv_without_room_is_left_out_and_counted(exported: Path):
    class Full(RamStore):
        async def put(self, items):
            if any(key.kind == "kv" for key in items):
                raise OverBudget("full")
            return await super().put(items)

    moved = await import_world(Full(ROOM), RamCatalog(), exported)
    assert (moved.parts, moved.kv, moved.left_out) == (3, 0, {"no room": 3})


async def test_verify_counts_what_is_well_and_names_what_is_not():
    store, catalog = RamStore(ROOM), RamCatalog()
    world = await made(store, catalog)
    well = await verify(store, world)
    assert (well.chunks, well.parts, well.kv, well.without, well.bad) == (10, 10, 9, {"evicted": 1}, {})
    assert well.nbytes == await covered(store, world)

    flipped, moved, gone = (PartKey(world.lineage.key(n), "kv") for n in (1, 2, 4))
    damaged = bytearray(join(await frame(store, flipped.chunk, "kv")))
    damaged[-1] ^= 1
    store._kv[flipped] = Frame.of(bytes(damaged))
    store._kv[moved] = store._kv[PartKey(world.lineage.key(6), "kv")]
    await store.delete([PartKey(gone.chunk, "part")])
    told = await verify(store, world)
    assert told.bad.keys() == {flipped, moved, gone, PartKey(gone.chunk, "part")}
    assert "not what was written" in told.bad[flipped]
    assert "says it is of" in told.bad[moved]
    assert told.bad[gone] == "deleted"


async def covered(store: RamStore, world: World) -> int:
    return sum(frame.nbytes for key, frame in {**store._parts, **store._kv}.items() if world.lineage.covers(key.chunk))


async def test_verify_reads_what_worlds_share_once():
    store, catalog = RamStore(ROOM), RamCatalog()
    world = await made(store, catalog)
    made_from_it = (await fork(store, catalog, "harbour", 6, "quay")).world
    seen: set[ChunkKey] = set()
    assert (await verify(store, world, seen)).parts == 10
    assert await verify(store, made_from_it, seen) == Verdict(6)


@given(st.binary(max_size=200))
def test_records_are_read_or_refused(data: bytes):
    try:
        world = unpack(data)
    except ChunkCorrupt:
        return
    assert unpack(pack(world)) == world


def test_a_record_comes_back_as_it_was():
    world = World("ä b", Lineage.begin().fork(3).fork(9), 7, SPEC, 9)
    assert unpack(pack(world)) == world
