"""What a process gives back of memory that it has freed, and when it looks for more."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from worldkv.heap import give_back


class Circle:
    def __init__(self) -> None:
        self.own = self


def test_memory_is_given_back_of_what_holds_itself_where_that_is_asked_for():
    gc.disable()
    try:
        circle = Circle()
        gone = weakref.ref(circle)
        del circle
        give_back()
        assert gone() is not None
        give_back(garbage=True)
        assert gone() is None
    finally:
        gc.enable()


def test_what_a_process_has_begun_with_is_looked_at_no_more():
    code = """
import gc
import numpy, grpc, google.protobuf
from worldkv.heap import begun

before = len(gc.get_objects())
begun()
assert gc.get_freeze_count() > 0.9 * before, (gc.get_freeze_count(), before)
assert len(gc.get_objects()) < 0.1 * before, (len(gc.get_objects()), before)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="nobody tells how much a process has")
def test_what_any_thread_has_freed_is_given_back():
    code = """
import re, threading
import services.kvstore.server
from worldkv.heap import give_back, one_arena

def own():
    return int(re.search(r"Private_Dirty: *([0-9]+)", open("/proc/self/smaps_rollup").read())[1]) >> 10

def work():
    bytearray(20 << 20)  # let go of at once: from now on what is smaller comes from an arena
    there = [bytearray(1 << 20) for _ in range(32)]
    there.clear()

one_arena()
before = own()
thread = threading.Thread(target=work)
thread.start()
thread.join()
kept = own()
give_back()
assert kept - before > 24, (before, kept)
assert own() - before < 4, (before, own())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
