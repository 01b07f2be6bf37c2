"""Landing memory: reused when nothing refers to it any more, and never before."""

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv.client.landing import LARGE, SMALL, Landing
from worldkv.errors import InvalidInput

MB = 1 << 20


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_memory_is_used_again_once_it_is_let_go():
    pool = Landing(64 * MB)
    view = pool.take(10 * MB)
    first = address(view)
    assert pool.idle_bytes == 0
    del view
    assert pool.idle_bytes >= 10 * MB
    assert address(pool.take(10 * MB)) == first


@pytest.mark.parametrize(
    "keep",
    [
        lambda view: view[5:9],
        lambda view: view.toreadonly()[1:],
        lambda view: np.frombuffer(view, np.uint8),
        lambda view: np.frombuffer(view.toreadonly(), np.float16)[7:9].reshape(2, 1),
    ],
)
def test_memory_is_not_used_again_while_anything_refers_to_it(keep):
    pool = Landing(64 * MB)
    view = pool.take(4 * MB)
    first, held = address(view), keep(view)
    del view
    gc.collect()
    assert pool.idle_bytes == 0
    other = pool.take(4 * MB)
    assert address(other) != first
    del held
    assert pool.idle_bytes > 0


def test_what_rests_keeps_nothing_until_it_is_used_again():
    pool = Landing(64 * MB)
    views = [pool.take(4 * MB), pool.take(4 * MB)]
    del views[0]
    pool.rest()
    assert pool.idle_bytes == 0
    views.clear()
    assert pool.idle_bytes >= 4 * MB


def test_what_is_kept_is_bounded_and_the_longest_unused_goes_first():
    pool = Landing(8 * MB)
    views = [pool.take(4 * MB) for _ in range(4)]
    last = [address(view) for view in views[2:]]
    while views:
        del views[0]
    assert pool.idle_bytes == 8 * MB
    assert sorted(address(view) for view in [pool.take(4 * MB), pool.take(4 * MB)]) != sorted(last[:1])
    assert Landing(0).idle_bytes == 0
    with pytest.raises(InvalidInput):
        Landing(-1)


def test_a_block_much_too_large_is_left_for_what_needs_it():
    pool = Landing(200 * MB)
    large = pool.take(100 * MB)
    del large
    small = pool.take(SMALL)
    assert pool.idle_bytes == 100 * MB
    assert small.nbytes == SMALL


@given(st.lists(st.tuples(st.integers(0, 8 * MB), st.integers(0, 3)), max_size=20))
def test_no_two_frames_share_memory(steps):
    pool, held = Landing(16 * MB), []
    for n, (size, drop) in enumerate(steps):
        view = pool.take(size)
        assert view.nbytes == size
        assert not view.readonly
        if size:
            view[0] = view[-1] = n
        held.append((n, view))
        del view
        del held[: max(0, len(held) - drop)]
        assert all(view[0] == view[-1] == m for m, view in held if view.nbytes)
        assert pool.idle_bytes <= 16 * MB


def test_memory_may_come_back_from_any_thread():
    pool, held = Landing(64 * MB), []

    def churn() -> None:
        for _ in range(200):
            held.append(pool_take())
            held.pop(0)

    lock = threading.Lock()

    def pool_take() -> memoryview:
        with lock:  # taking is for one thread, letting go is for all
            return pool.take(SMALL)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held.clear()
    assert 0 < pool.idle_bytes <= 64 * MB


def test_memory_for_the_next_large_frame_is_warm_before_it_comes():
    pool = Landing(64 * MB)
    pool.expect(LARGE)
    touched()
    assert pool.idle_bytes == LARGE
    view = pool.take(LARGE)
    touched()
    assert pool.idle_bytes == LARGE
    view[0] = 1


@pytest.mark.parametrize(("keep", "size"), [(64 * MB, LARGE - 1), (LARGE - 1, LARGE)])
def test_what_is_small_or_more_than_is_kept_is_not_touched_ahead(keep, size):
    pool = Landing(keep)
    pool.expect(size)
    touched()
    assert pool.idle_bytes == 0


def test_a_closed_pool_keeps_nothing_and_takes_nothing_from_whoever_reads():
    pool = Landing(64 * MB)
    view = pool.take(LARGE)
    view[0], view[-1] = 1, 2
    lease: Any = view.obj
    block = weakref.ref(lease.base)
    del lease
    pool.take(LARGE)
    pool.close()
    assert pool.idle_bytes == 0
    assert (view[0], view[-1]) == (1, 2)
    del view
    assert block() is None


def touched() -> None:
    """Wait until nothing is touched ahead any more."""
    for thread in threading.enumerate():
        if thread.name == "worldkv-landing":
            thread.join()
