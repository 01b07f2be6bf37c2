"""Memory that a process has freed: what of it the C library keeps, and when Python looks for more of it."""

from __future__ import annotations

import ctypes
import gc
import os

M_ARENA_MAX = -8
"""Of `mallopt`, in glibc's malloc.h."""


def one_arena() -> None:
    """Have all threads free memory to one place, where it can be returned to the system. Before any thread begins.

    glibc gives threads arenas of their own, and `malloc_trim` leaves the end of each but the first as large as it ever
    was. Who sets MALLOC_ARENA_MAX is let have it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 1)


def begun() -> None:
    """Look for garbage no more among what there is: what a process has begun with lives as long as it does.

    Python looks through everything it has, all threads waiting: a tenth of a second for a shard's hundred thousand
    objects of libraries, two to four for a generator's. It does so when what has outlived a while is a quarter of that,
    which with so much is seldom: until then what holds itself, as dead sessions do, holds its memory.
    """
    gc.collect()
    gc.freeze()


def give_back(garbage: bool = False) -> None:
    """Have the C library return free memory to the system, where it can: it would keep it for who comes next.

    garbage  whether to look for that first, which holds up all threads
    """
    if garbage:
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
