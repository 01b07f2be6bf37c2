"""The allocator of shared memory, held to its law: what is free can be had, and nothing is had twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.kvstore.allocator import Allocator, Run

BLOCK, UNIT, BLOCKS = 256, 16, 6


def small() -> Allocator:
    return Allocator(BLOCKS, BLOCK, UNIT)


def test_a_large_part_of_an_empty_memory_lies_in_one_run():
    allocator = small()
    assert allocator.allocate(BLOCKS * BLOCK - 5) == (Run(0, BLOCKS * BLOCK - 5),)
    assert allocator.free_bytes == 0


def test_small_parts_share_a_block():
    allocator = small()
    runs = [allocator.allocate(20) for _ in range(8)]
    assert all(run is not None and len(run) == 1 and run[0].offset < BLOCK for run in runs)
    assert allocator.free_bytes == BLOCKS * BLOCK - 8 * 32


def test_nothing_takes_nothing():
    allocator = small()
    assert allocator.allocate(0) == ()
    allocator.free(())
    allocator.check_integrity([])


def test_more_than_is_free_is_refused_and_changes_nothing():
    allocator = small()
    held = allocator.allocate(BLOCK + 1)
    assert allocator.allocate(5 * BLOCK) is None
    allocator.check_integrity(held)


def test_what_is_free_can_be_had_however_scattered():
    allocator = small()
    held = [allocator.allocate(UNIT) for _ in range(BLOCKS * BLOCK // UNIT)]
    for each in held[::2]:
        allocator.free(each)
    scattered = allocator.allocate(BLOCKS * BLOCK // 2)
    assert len(scattered) == BLOCKS * BLOCK // UNIT // 2
    allocator.check_integrity([run for each in (*held[1::2], scattered) for run in each])


def test_a_slab_that_is_free_again_is_a_block_again():
    allocator = small()
    held = [allocator.allocate(UNIT) for _ in range(BLOCK // UNIT)]
    for each in held:
        allocator.free(each)
    assert allocator.allocate(BLOCKS * BLOCK) == (Run(0, BLOCKS * BLOCK),)


@given(st.lists(st.integers(1, 3 * BLOCK), max_size=12))
def test_runs_are_as_long_as_asked_and_begin_at_units(sizes):
    allocator = small()
    for size in sizes:
        runs = allocator.allocate(size)
        if runs is not None:
            assert sum(run.length for run in runs) == size
            assert all(run.offset % UNIT == 0 for run in runs)
            assert all(run.length % UNIT == 0 for run in runs[:-1])


class AllocatorMachine(RuleBasedStateMachine):
    """Any order of allocations and frees; the oracle is a count of free units."""

    def __init__(self):
        super().__init__()
        self.allocator, self.held = small(), []

    @rule(size=st.integers(0, 2 * BLOCK) | st.integers(0, 3 * UNIT))
    def allocate(self, size):
        need = self.allocator.rounded(size)
        before = self.allocator.free_bytes
        runs = self.allocator.allocate(size)
        assert (runs is None) == (need > before)
        if runs is not None:
            assert self.allocator.free_bytes == before - need
            self.held.append(runs)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data):
        self.allocator.free(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def everything_belongs_to_somebody(self):
        self.allocator.check_integrity([run for runs in self.held for run in runs])


def test_any_order_of_allocations_keeps_the_law():
    case = AllocatorMachine.TestCase
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    case().runTest()


@pytest.mark.parametrize(("block", "unit"), [(100, 16), (0, 16)])
def test_blocks_are_made_of_units(block, unit):
    with pytest.raises(AssertionError):
        Allocator(0 if block == 0 else 1, block, unit)
