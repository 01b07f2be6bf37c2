"""Rules of the RAM tier: who makes room for whom, what is remembered, what a pin and a reservation hold."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kvstore.ram import RamConfig, RamTier
from services.kvstore.tombstones import Numbers, Tombstones
from tests.contract.ram_tier import read, write
from worldkv.chunk import ChunkKey
from worldkv.errors import Conflict, InvalidConfig, InvalidInput, NotFound, OverBudget
from worldkv.format import Frame
from worldkv.store import Miss, PartKey

PREFIX = f"worldkv-tier-{os.getpid()}"


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    yield
    assert [name for name in os.listdir("/dev/shm") if name.startswith(PREFIX)] == []


@pytest.fixture
def tier():
    made = RamTier(RamConfig(100, tenant_bytes=80, prefix=PREFIX, max_evicted=3))
    yield made
    made.check_integrity()
    made.close()


def kv(index: int) -> PartKey:
    return PartKey(ChunkKey(b"b" * 16, index), "kv")


def part(index: int) -> PartKey:
    return PartKey(ChunkKey(b"b" * 16, index), "part")


def put(tier: RamTier, key: PartKey, size: int, tenant: str = "ann") -> None:
    write(tier.reserve(tenant, key, size), Frame.of(bytes([size]) * size))


def held(tier: RamTier, tenant: str = "ann") -> list[PartKey]:
    return tier.scan(tenant, b"b" * 16)


def test_kv_makes_room_least_recently_used_first(tier):
    for n in range(3):
        put(tier, kv(n), 25)
    tier.find("ann", kv(0))
    put(tier, part(9), 20)
    assert held(tier) == [kv(0), kv(2), part(9)]
    assert tier.find("ann", kv(1)) is Miss.EVICTED


def test_what_is_safe_elsewhere_goes_first(tier):
    for n in range(3):
        put(tier, kv(n), 25)
    tier.mark_safe("ann", kv(2))
    put(tier, kv(3), 25)
    assert held(tier) == [kv(0), kv(1), kv(3)]


def test_an_immutable_part_never_goes_for_kv_and_only_if_safe_for_another(tier):
    put(tier, part(0), 40)
    put(tier, part(1), 40)
    with pytest.raises(OverBudget, match="'ann' may have 80"):
        tier.reserve("ann", part(2), 10)
    tier.mark_safe("ann", part(0))
    with pytest.raises(OverBudget):
        tier.reserve("ann", kv(2), 10)
    put(tier, part(2), 10)
    assert held(tier) == [part(1), part(2)]


def test_nobody_loses_a_last_copy_to_another_tenant(tier):
    put(tier, kv(0), 70, "bob")
    put(tier, kv(0), 30, "ann")
    with pytest.raises(OverBudget, match="no room for 45 bytes: the shard has 100"):
        tier.reserve("ann", kv(1), 45)
    assert held(tier, "bob") == held(tier, "ann") == [kv(0)]
    tier.mark_safe("bob", kv(0))
    put(tier, kv(1), 45)
    assert held(tier, "bob") == []
    assert held(tier) == [kv(0), kv(1)]


def test_what_lost_its_copy_elsewhere_is_a_last_copy_again(tier):
    put(tier, kv(0), 70, "bob")
    tier.mark_safe("bob", kv(0))
    assert tier.last_copies() == []
    tier.mark_none_safe()
    assert tier.last_copies() == [("bob", kv(0))]
    with pytest.raises(OverBudget):
        tier.reserve("ann", kv(1), 60)


def test_old_evictions_are_forgotten_and_deletions_never(tier):
    put(tier, part(0), 1)
    tier.delete("ann", [part(0)])
    for n in range(1, 6):
        put(tier, kv(n), 80)
    assert [tier.find("ann", kv(n)) for n in range(1, 5)] == [Miss.NEVER_STORED, *[Miss.EVICTED] * 3]
    assert tier.find("ann", kv(0)) is Miss.DELETED
    assert tier.stats().tombstones == 3


def test_a_pinned_part_stays_readable_and_its_room_comes_back_later(tier):
    put(tier, kv(0), 60)
    pinned = tier.find("ann", kv(0))
    with pinned.pin():
        with pytest.raises(OverBudget):
            tier.reserve("ann", kv(1), 60)
        tier.delete("ann", [part(0)])
        assert read(pinned) == bytes([60]) * 60
        assert (tier.stats().used_bytes, tier.stats().pinned_bytes) == (0, 60)
        with pytest.raises(OverBudget):
            tier.reserve("ann", kv(1), 60)
    put(tier, kv(1), 60)
    with pytest.raises(NotFound, match="dropped"), pinned.pin():
        pass


def test_room_given_back_is_written_and_committed_by_nobody(tier):
    room = tier.reserve("ann", kv(0), 10)
    views = room.views
    room.abort()
    with pytest.raises(ValueError, match="released"):
        views[0][:] = bytes(10)
    with pytest.raises(Conflict, match="given back"):
        room.commit(0)
    assert tier.find("ann", kv(0)) is Miss.NEVER_STORED
    assert tier.stats().reserved_bytes == 0


def test_of_two_writers_of_a_part_the_first_to_commit_wins(tier):
    first, second = tier.reserve("ann", kv(0), 10), tier.reserve("ann", kv(0), 20)
    write(second, Frame.of(b"2" * 20))
    assert read(write(first, Frame.of(b"1" * 10))) == b"2" * 20
    assert tier.stats().used_bytes == 20


def test_more_parts_than_slots_are_refused():
    tier = RamTier(RamConfig(1 << 20, prefix=PREFIX))
    for n in range(tier.arena.slots):
        put(tier, part(n), 1)
    with pytest.raises(OverBudget):
        tier.reserve("ann", part(-1 % 2**40), 1)
    put(tier, part(2**41), 0)
    tier.check_integrity()
    tier.close()


def test_sizes_and_settings_out_of_range_are_refused(tier):
    with pytest.raises(InvalidInput, match="-1 bytes"):
        tier.reserve("ann", kv(0), -1)
    with pytest.raises(OverBudget):
        tier.reserve("ann", kv(0), 1 << 62)
    for wrong in ({"budget_bytes": 0}, {"tenant_bytes": -1}, {"max_evicted": -1}):
        with pytest.raises(InvalidConfig, match=next(iter(wrong))):
            RamConfig(**wrong)


def test_a_tier_that_was_closed_leaves_its_readers_alone():
    tier = RamTier(RamConfig(1 << 20, prefix=PREFIX))
    put(tier, kv(0), 9)
    found = tier.find("ann", kv(0))
    with found.pin():
        views = found.views
        tier.delete("ann", [kv(0)])
        tier.close()
        assert b"".join(views) == bytes([9]) * 9
    tier.close()


@given(st.lists(st.integers(0, 20)))
def test_a_set_of_numbers_kept_as_runs_is_a_set(added):
    numbers = Numbers()
    for n in added:
        numbers.add(n)
        numbers.check_integrity()
    assert {n for n in range(-1, 22) if n in numbers} == set(added)


def test_deletions_are_remembered_within_bounds_and_the_newest_branch_always():
    tombstones = Tombstones(max_evicted=0, max_deleted=4)
    for branch in (b"a" * 16, b"b" * 16):
        for index in (1, 2, 3, 7):
            tombstones.delete("ann", ChunkKey(branch, index))
    assert tombstones.deleted_runs == 4
    tombstones.delete("ann", ChunkKey(b"c" * 16, 0))
    assert tombstones.deleted_runs == 3
    assert not tombstones.deleted("ann", ChunkKey(b"a" * 16, 1))
    assert tombstones.deleted("ann", ChunkKey(b"b" * 16, 3))
    assert [*tombstones.all_deleted()] == [
        *(("ann", ChunkKey(b"b" * 16, index)) for index in (1, 2, 3, 7)),
        ("ann", ChunkKey(b"c" * 16, 0)),
    ]
    for index in range(0, 20, 2):
        tombstones.delete("ann", ChunkKey(b"d" * 16, index))
    assert tombstones.deleted_runs == 10, "one branch is remembered whole"
    tombstones.check_integrity(set())
