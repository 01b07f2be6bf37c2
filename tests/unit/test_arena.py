"""Shared memory between processes: the arena, its readers, and staging segments."""

import mmap
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kvstore.arena import Arena
from worldkv.errors import InvalidInput, Unavailable
from worldkv.shared import (
    ArenaReader,
    Extent,
    Staged,
    Staging,
    StagingReader,
    checksum,
    copy,
    copy_checked,
    cut,
    live_on,
    remove_stale,
)
from worldkv.shared.copying import PARALLEL_BYTES, PIECE_BYTES, move, move_in_two
from worldkv.store import Miss

PREFIX = f"worldkv-test-{os.getpid()}"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    yield
    assert [name for name in os.listdir("/dev/shm") if name.startswith(PREFIX)] == []


@pytest.fixture
def arena():
    made = Arena(4 << 20, PREFIX)
    yield made
    made.close()


def fill(arena: Arena, content: bytes) -> tuple[tuple[Extent, ...], int]:
    extents = arena.allocate(len(content))
    assert extents is not None
    return extents, copy_checked([memoryview(content)], arena.views(extents))


# Copies


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.integers(0, 9), max_size=5))
def test_copies_fit_pieces_of_any_sizes_together(source, lengths):
    joined = b"".join(source)
    rest = len(joined) - sum(lengths)
    views = [memoryview(bytearray(n)) for n in (*lengths, max(rest, 0))]
    into = [memoryview(piece) for piece in source]
    if rest < 0:
        with pytest.raises(InvalidInput, match="do not fit"):
            copy(into, views)
    else:
        assert copy_checked(into, views) == checksum([memoryview(joined)]) == checksum(views)
        assert b"".join(views) == joined
        blank = [memoryview(bytearray(view.nbytes)) for view in views]
        copy(into, blank)
        assert b"".join(blank) == joined


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(-1, 12), st.integers(-1, 12))
def test_a_cut_has_the_bytes_it_should(lengths, begin, length):
    whole = bytes(range(40))
    extents = [Extent(7 * n, m, n, n) for n, m in enumerate(lengths)]
    joined = b"".join(whole[e.offset : e.offset + e.length] for e in extents)
    if begin >= 0 and length >= 0 and begin + length <= len(joined):
        found = cut(extents, begin, length)
        assert b"".join(whole[e.offset : e.offset + e.length] for e in found) == joined[begin : begin + length]
        assert all(e.length and e.slot == e.generation for e in found)
    else:
        with pytest.raises(InvalidInput):
            cut(extents, begin, length)


# Arena and its readers


def test_a_reader_copies_what_a_plan_says(arena):
    content = os.urandom(3_000_001)
    extents, digest = fill(arena, content)
    with ArenaReader(arena.info) as reader:
        assert (reader.id, reader.nonce) == (arena.id, arena.nonce)
        into = bytearray(len(content))
        halves = [memoryview(into)[:1000], memoryview(into)[1000:]]
        assert reader.copy(extents, halves, digest) is None
        assert into == content
        middle = bytearray(700)
        assert reader.copy(cut(extents, 999, 700), [memoryview(middle)]) is None
        assert middle == content[999:1699]


def test_a_slot_that_was_freed_is_a_miss_also_when_it_is_used_again(arena):
    extents, digest = fill(arena, b"x" * 5000)
    with ArenaReader(arena.info) as reader:
        into = [memoryview(bytearray(5000))]
        arena.free(extents)
        assert reader.copy(extents, into, digest) is Miss.EVICTED
        again, _ = fill(arena, b"y" * 5000)
        assert again[0][:3] == extents[0][:3], "the same place and slot"
        assert reader.copy(extents, into) is Miss.EVICTED
        assert reader.copy(again, into) is None


@pytest.mark.parametrize("piece", range(4))
@pytest.mark.parametrize("verified", [True, False])
def test_a_slot_that_is_freed_while_it_is_copied_is_a_miss(arena, monkeypatch, piece, verified):
    extents, digest = fill(arena, b"x" * (4 * PIECE_BYTES))
    pieces: list[memoryview] = []

    def freeing(source: memoryview, target: memoryview) -> None:
        if len(pieces) == min(piece, 3 * verified):  # without a checksum all of it is one piece
            arena.free(extents)
        pieces.append(source)
        move(source, target)

    monkeypatch.setattr("worldkv.shared.arena.move_in_two", freeing)
    with ArenaReader(arena.info) as reader:
        into = [memoryview(bytearray(4 * PIECE_BYTES))]
        assert reader.copy(extents, into, digest if verified else None) is Miss.EVICTED
        pieces.clear()


@pytest.mark.parametrize("size", [1, PARALLEL_BYTES - 1, PARALLEL_BYTES + 1, 2 * PARALLEL_BYTES, 5 * PARALLEL_BYTES])
def test_two_threads_copy_all_bytes(monkeypatch, size):
    monkeypatch.setattr("worldkv.shared.copying.STREAMED_BYTES", 2 * PARALLEL_BYTES)
    source, target = Random(size).randbytes(size), bytearray(size)
    move_in_two(memoryview(source), memoryview(target))
    assert target == source


def test_a_slot_that_is_freed_while_it_is_summed_is_a_miss(monkeypatch):
    arena = Arena(PARALLEL_BYTES, PREFIX)
    extents, digest = fill(arena, b"x" * PARALLEL_BYTES)
    into = [memoryview(bytearray(PARALLEL_BYTES))]
    with ArenaReader(arena.info) as reader:
        assert reader.copy(extents, into, digest) is None
        assert bytes(into[0]) == b"x" * PARALLEL_BYTES
        assert reader.copy(extents, into, digest ^ 1) is Miss.CORRUPT

        def summed_late() -> int:  # all was copied before
            arena.free(extents)
            return digest

        @contextmanager
        def slowly(views):
            yield summed_late

        monkeypatch.setattr("worldkv.shared.arena.summing", slowly)
        assert reader.copy(extents, into, digest) is Miss.EVICTED
    arena.close()


@pytest.mark.parametrize("steady", [True, False])
def test_a_large_copy_has_the_sum_of_its_bytes(steady):
    content = memoryview(os.urandom(PARALLEL_BYTES + 12345))
    copied = bytearray(content.nbytes)
    source, target = [content[:777], content[777:]], memoryview(copied)
    assert copy_checked(source, [target[:5000], target[5000:]], steady) == checksum([content])
    assert copied == content
    with pytest.raises(InvalidInput, match="do not fit"):
        copy_checked(source, [memoryview(bytearray(5))], steady)


def test_a_flipped_byte_is_a_corrupt_miss(arena):
    extents, digest = fill(arena, b"x" * 70_000)
    arena.views(extents)[0][69_999] ^= 1
    with ArenaReader(arena.info) as reader:
        assert reader.copy(extents, [memoryview(bytearray(70_000))], digest) is Miss.CORRUPT


@pytest.mark.parametrize(
    "extent",
    [Extent(0, 0), Extent(-1, 5), Extent(8 << 20, 1), Extent(0, 1 << 40), Extent(0, 5, 10**6), Extent(0, 5, -1)],
)
def test_extents_outside_the_arena_are_refused(arena, extent):
    with ArenaReader(arena.info) as reader, pytest.raises(InvalidInput):
        reader.copy([extent], [memoryview(bytearray(max(extent.length, 0) % 100))])


def test_buffers_of_another_length_are_refused(arena):
    extents, _ = fill(arena, b"x" * 10)
    with ArenaReader(arena.info) as reader, pytest.raises(InvalidInput, match="10 bytes do not fit buffers of 9"):
        reader.copy(extents, [memoryview(bytearray(9))])


def test_readers_cannot_write(arena):
    with ArenaReader(arena.info) as reader:
        with pytest.raises(TypeError):
            reader._file.view[0] = 1


def test_an_arena_of_another_host_cannot_be_opened(arena):
    with pytest.raises(Unavailable, match="cannot be opened"):
        ArenaReader(arena.info._replace(name="worldkv-nobody"))
    with pytest.raises(Unavailable, match="bytes"):
        ArenaReader(arena.info._replace(size=arena.size + 1))
    with pytest.raises(InvalidInput, match="folders"):
        ArenaReader(arena.info._replace(name="../etc/passwd"))
    with pytest.raises(InvalidInput, match="within"):
        ArenaReader(arena.info._replace(slots=arena.size))


def test_a_copy_outlives_closing_the_reader(arena):
    extents, digest = fill(arena, b"x" * (1 << 20))
    reader = ArenaReader(arena.info)
    view = reader._file.view[:16]
    reader.close()
    reader.close()
    assert bytes(view) == arena.nonce
    assert reader.copy(extents, [memoryview(bytearray(1 << 20))], digest) is Miss.EVICTED


def test_more_memory_than_the_host_has_is_refused_with_words():
    with pytest.raises(Unavailable, match="shared memory wanted"):
        Arena(1 << 50, PREFIX)
    with pytest.raises(InvalidInput, match="at least a byte"):
        Arena(0, PREFIX)


def test_all_of_the_arena_is_resident_before_it_is_ready(arena):
    resident = os.stat(f"/dev/shm/{arena.name}").st_blocks * 512
    assert resident == -(-arena.size // mmap.PAGESIZE) * mmap.PAGESIZE


MAKE = """
import sys, time
from services.kvstore.arena import Arena
from worldkv.shared import Staging
made = Arena(1 << 20, sys.argv[1]), Staging(1 << 20, sys.argv[1] + "-staging")
print(made[0].name, made[1].name, flush=True)
time.sleep(60)
"""


def test_segments_of_a_killed_process_are_removed_and_those_of_a_live_one_stay():
    child = subprocess.Popen([sys.executable, "-c", MAKE, PREFIX], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    names = child.stdout.readline().split()
    assert set(names) <= set(os.listdir("/dev/shm"))
    assert remove_stale(PREFIX) == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    made = Arena(1 << 20, PREFIX)
    assert sorted(made.stale) == sorted(names)
    made.close()


def test_a_reader_in_another_process_sees_the_same_bytes(arena):
    extents, digest = fill(arena, b"seen by both " * 1000)
    code = (
        f"from worldkv.shared import *\nreader = ArenaReader({arena.info!r})\n".replace("ArenaInfo", "ArenaInfo")
        + f"extents = {list(map(tuple, extents))!r}\n"
        "into = bytearray(13000)\n"
        f"print(reader.copy([Extent(*e) for e in extents], [memoryview(into)], {digest}), reader.nonce.hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", arena.nonce.hex()]


def test_a_reader_never_takes_new_bytes_for_old_ones(arena):
    """A writer reuses one place as fast as it can; what a reader takes for good is always the part it asked for."""
    plans = [fill(arena, bytes([0]) * 100_000)[0]]
    stop = threading.Event()

    def rewrite():
        for n in range(1, 3000):
            arena.free(plans[0])
            plans[0] = fill(arena, bytes([n % 256]) * 100_000)[0]
            if stop.is_set():
                break

    writer = threading.Thread(target=rewrite)
    writer.start()
    into = bytearray(100_000)
    with ArenaReader(arena.info) as reader:
        while writer.is_alive():
            extents = plans[0]
            if reader.copy(extents, [memoryview(into)]) is None:
                assert into.count(into[0]) == len(into), "bytes of two parts"
        stop.set()
    writer.join()


# Staging


def test_a_reader_sees_that_a_writer_left_before_the_answer():
    with Staging(100_000, PREFIX) as staging:
        reader = StagingReader(staging.name, staging.nonce)
        first, second = staging.reserve(1000), staging.reserve(1000)
        assert first
        assert second
        staging.release(first)
        assert reader.steady(second.extents), "whoever was answered has not left early"
        with pytest.raises(KeyError), staging.fill(b"given up"):
            raise KeyError
        assert not reader.steady(second.extents), "what is read may be another's room by now"
        third = staging.reserve(1000)
        assert third
        assert reader.steady(third.extents)
        assert not reader.steady((*third.extents, *second.extents))
        reader.close()
        assert not reader.steady(third.extents), "nobody knows any more"


def test_a_shard_reads_what_a_writer_staged():
    with Staging(10_000, PREFIX) as staging, staging.fill(b"one", b"two") as filled:
        assert filled is not None
        staged, digest = filled
        reader = StagingReader(staging.name, staging.nonce)
        views = reader.views(staged.extents)
        assert b"".join(views) == b"onetwo"
        assert checksum(views) == digest
        assert all(view.readonly for view in views)
        del views
        reader.close()


def test_a_staging_segment_of_another_host_is_refused():
    with Staging(1, PREFIX) as staging:
        with pytest.raises(Unavailable, match="not the one"):
            StagingReader(staging.name, bytes(16))
        with pytest.raises(Unavailable, match="cannot be opened"):
            StagingReader("worldkv-nobody", staging.nonce)
        reader = StagingReader(staging.name, staging.nonce)
        with pytest.raises(InvalidInput, match="outside"):
            reader.views([Extent(0, staging.size + 1)])
        reader.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), max_size=20))
def test_staging_room_comes_back_whole_in_any_order(commands):
    with Staging(64 << 10, PREFIX) as staging:
        held: list[Staged] = []
        for take, n in commands:
            if take:
                staged = staging.reserve(n)
                if staged is None:
                    assert held, "an empty segment has room"
                else:
                    staged.views[0][:] = bytes([len(held)]) * n
                    held.append(staged)
            elif held:
                staging.release(held.pop(n % len(held)))
            places = sorted(each.extents[0][:2] for each in held)
            assert all(a + n <= b for (a, n), (b, _) in pairwise(places))
        for staged in held:
            staging.release(staged)
        assert staging.reserve(64 << 10) is not None


# Hosts


@pytest.fixture
def hosts():
    """What decides on which host this process is; after the test it is on any, as before."""
    yield live_on
    live_on("")


def test_who_lives_on_another_host_finds_no_memory_of_ours(hosts):
    hosts("here")
    with closing(Arena(4 << 20, PREFIX)) as arena, Staging(4096, PREFIX) as staging:
        with ArenaReader(arena.info), closing(StagingReader(staging.name, staging.nonce)):
            pass
        hosts("there")
        with pytest.raises(Unavailable, match="not of host there"):
            ArenaReader(arena.info)
        with pytest.raises(Unavailable, match="not of host there"):
            StagingReader(staging.name, staging.nonce)
        hosts("")
        with ArenaReader(arena.info), closing(StagingReader(staging.name, staging.nonce)):
            pass
    with pytest.raises(InvalidInput, match="letters and digits"):
        hosts("a-b")
