"""What goes on behind everybody's back, and ends of what it should not: that is in the log, by name."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.remembering import SPEC, Toy, memory_of, query, remember, tasks, until
from worldkv.actions import Action
from worldkv.pose import camera
from worldkv.store import Level
from worldkv.tasks import tell_defect

DEFECT = RuntimeError("a defect, on purpose")


async def fail(*_: object, **__: object) -> Any:
    raise DEFECT


def coding(memory: Toy) -> None:
    memory._coder.code = fail  # type: ignore[method-assign]


def putting_kv(memory: Toy) -> None:
    memory.store.errors["put kv"] = DEFECT


def putting_part(memory: Toy) -> None:
    memory.store.errors["put part"] = DEFECT


def telling(memory: Toy) -> None:
    add = memory.finder.add

    async def told(meta: Any, kept: bool = True) -> None:
        await (fail() if kept else add(meta, kept))

    memory.finder.add = told


def raising(memory: Toy) -> None:
    memory.store.errors["get part"] = DEFECT


def demoting(memory: Toy) -> None:
    memory.finder.least_useful = fail


def looking_ahead(memory: Toy) -> None:
    memory.finder.nearest = fail


@pytest.mark.parametrize(
    ("breaks", "name"),
    [
        (coding, "keep KV of"),
        (putting_kv, "keep KV of"),
        (putting_part, "keep "),
        (telling, "index "),
        (raising, "copy parts up"),
        (demoting, "keep the budget"),
        (looking_ahead, "ahead of chunk 2"),
    ],
)
async def test_a_defect_behind_a_memory_is_in_the_log(
    breaks: Callable[[Toy], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = memory_of(keep_seconds=0.0, queue_bytes=100 * SPEC.raw_bytes, budget_bytes=SPEC.raw_bytes, prefetch=True)
    await memory.recall(query(), (), fail)
    breaks(memory)
    await remember(memory, 0)
    await until(lambda: not tasks())
    memory.store.level = Level.TWO
    await remember(memory, 1)
    poses = np.stack([camera(0, 0, 0, 9 * i) for i in range(3)])
    await memory.ahead(2, poses, Action(turn=9.0), (), poses[:1], {0, 2})
    await until(lambda: not tasks())
    await memory.close()
    told = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert any(each.getMessage().startswith(name) for each in told), caplog.text
    assert all(each.name == "worldkv.tasks" and each.exc_info and each.exc_info[1] is DEFECT for each in told)


async def test_a_task_that_is_cancelled_or_done_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    cancelled, done = asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(asyncio.sleep(0))
    for task in (cancelled, done):
        task.add_done_callback(tell_defect)
    cancelled.cancel()
    await asyncio.wait([cancelled, done])
    assert not caplog.records
