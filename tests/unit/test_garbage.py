"""When a service looks for garbage, and among what."""

import gc
import subprocess
import sys
import weakref

from worldkv.service import give_back


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
from worldkv.service import begun

before = len(gc.get_objects())
begun()
assert gc.get_freeze_count() > 0.9 * before, (gc.get_freeze_count(), before)
assert len(gc.get_objects()) < 0.1 * before, (len(gc.get_objects()), before)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
