"""What the rows of faults and the soak make of what they see: a service that breaks promises is found out."""

import os

import numpy as np
import pytest

from benchmarks.faults.leaks import Held, Sample, growth, held, slope
from benchmarks.faults.promises import Promises
from benchmarks.faults.run import AFTER, recovery_seconds
from benchmarks.faults.wanderer import Step
from worldkv.actions import Walker
from worldkv.chunk import ChunkKey, Lineage, Meta, Part
from worldkv.client.walk_events import Counts, Drawn, Notice, NoticeKind, Remembered, Spent
from worldkv.client.walk_events import Held as MemoryHeld
from worldkv.format import Frame, encode_part
from worldkv.store import Level, PartKey, RamStore

BRANCH = b"b" * 16
LINEAGE = Lineage.begin(BRANCH)
POSES = np.stack([np.eye(4)] * 3)


def steps(text: str) -> list[Step]:
    """A chunk a second: `+` recalled all, `-` did not, `s` did after 5 s."""
    made, now = [], 0.0
    for n, each in enumerate(text):
        asked, now = now, now + (5.0 if each == "s" else 1.0)
        made.append(Step(n, asked, now, 0 if each == "-" else 2, 0, 0, True, 30.0))
    return made


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("+" * 12, 1.0),
        ("---" + "+" * 12, 4.0),
        ("+++---" + "+" * 12, 7.0),
        ("s" + "+" * 12, 5.0),
        ("++s" + "+" * 12, 7.0),
        ("+++-" + "+" * 12, 1.0),
        ("--" + "+" * (AFTER - 2) + "-+" + "+" * 12, AFTER + 2.0),
        ("+--", 60.0),
        ("", 60.0),
    ],
)
def test_recall_is_back_when_it_stays(text, seconds):
    assert recovery_seconds(steps(text), 0.0, 3.0, 60.0) == pytest.approx(seconds)


def drawn(index: int) -> Drawn:
    pictures = np.full((3, 2, 2, 3), (index + 1) / 16, np.float32)
    nothing = Spent(*[0.0] * len(Spent._fields)), MemoryHeld(0, 0, 0, 0)
    return Drawn(
        key=ChunkKey(BRANCH, index),
        number=0,
        pictures=pictures,
        poses=POSES,
        walker=Walker(0, 0),
        recalled=(),
        left_out=0,
        seconds=0.0,
        recall_seconds=0.0,
        pictures_dropped=False,
        counts=Counts(),
        missed=(),
        demoted=(),
        spent=nothing[0],
        held=nothing[1],
        mode="worldkv",
    )


def part(index: int, shade: float) -> tuple[PartKey, Frame]:
    meta = Meta(ChunkKey(BRANCH, index), "00" * 16, 3 * index, POSES, 1.0, 1.0)
    return PartKey(meta.key, "part"), encode_part(Part(meta, np.full((3, 3, 2, 2), shade * 2 - 1, np.float16)))


async def test_what_is_missing_or_other_than_it_was_is_a_broken_promise():
    promises, store = Promises(), RamStore(1 << 20)
    for index in range(4):
        promises.drew(drawn(index))
    promises.said(Remembered(3, Level.REDIS))
    await store.put(dict([part(0, 1 / 16), part(1, 9 / 16)]))
    found = await promises.broken(store, LINEAGE, promises.at_least(Level.TWO))
    assert [words.rpartition("/")[2] for words in found] == [
        "1 has other pictures, and was kept at REDIS",
        "2 is NEVER_STORED, and was kept at REDIS",
    ]
    elsewhere = Lineage.begin(b"c" * 16)
    assert any("not of its world" in words for words in await promises.broken(store, elsewhere, [ChunkKey(BRANCH, 0)]))


async def test_who_goes_back_holds_nobody_to_what_he_dropped():
    promises = Promises()
    for index in range(4):
        promises.drew(drawn(index))
    promises.said(Remembered(4, Level.ONE))
    fork = promises.copy(LINEAGE.fork(2).covers)
    promises.said(Remembered(2, Level.REDIS))
    assert [promises.kept[ChunkKey(BRANCH, n)] for n in range(4)] == [Level.REDIS] * 2 + [Level.ONE] * 2
    assert (promises.end, fork.end, fork.at_least(Level.TWO)) == (4, 2, [])
    promises.forget(lambda key: key.index < 1)
    promises.said(Remembered(4, Level.REDIS))
    assert promises.end == 1


async def test_what_was_drawn_elsewhere_and_not_kept_is_not_what_is_kept_later():
    promises = Promises()
    for index in range(3):
        promises.drew(drawn(index))
    promises.stands(LINEAGE.fork(2).covers)
    promises.said(Remembered(3, Level.REDIS))
    assert promises.kept.keys() == {ChunkKey(BRANCH, 0), ChunkKey(BRANCH, 1)}
    promises.stands(LINEAGE.fork(1).covers)
    assert len(promises.kept) == 2, "what was kept has to stay"


async def test_what_moved_is_not_what_was_drawn_before():
    promises = Promises()
    for event in (drawn(0), drawn(1), Notice(NoticeKind.MOVED, 1, ""), Remembered(2, Level.REDIS)):
        promises.hear(event)
    assert promises.kept.keys() == {ChunkKey(BRANCH, 0)}


def test_growth_is_that_of_who_was_there_all_the_time():
    def sample(seconds: float, own: int) -> Sample:
        stayed, came, late = Held(1, own, 9), Held(int(seconds), own, 9), Held(2 + (seconds > 0), own, 9)
        return Sample(seconds, {"stayed": stayed, "came": came, "late": late}, 0, 5)

    samples = [sample(10.0 * n, 100 + n) for n in range(49)]
    grown = growth(samples[0], samples[1:], 240)
    assert grown.keys() == {"stayed"}
    assert grown["stayed"][0] == pytest.approx(136 / 112 - 1)
    assert slope(samples, [own.held["stayed"].own_bytes for own in samples]) == pytest.approx(6.0)


def test_a_process_holds_memory_and_files_of_its_own():
    (me,) = held({"me": os.getpid(), "nobody": 1 << 30}).values()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"\1" * (len(block) >> 12)
    with open(os.devnull) as _:
        (after,) = held({"me": os.getpid()}).values()
    assert after.own_bytes - me.own_bytes > 60 << 20
    assert after.files == me.files + 1
