"""Tasks that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

_log = logging.getLogger(__name__)

REST_SECONDS = 1.0
"""Before a chore that a defect has ended is begun anew."""


def tell_defect(task: asyncio.Task[Any]) -> None:
    """Log by its name what such a task ended of, which none should: to be its done callback."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s failed", task.get_name(), exc_info=error)


async def kept_up(chore: Callable[[], Awaitable[None]]) -> None:
    """Do a chore to its end. After a defect, which is told, it is begun anew a little later."""
    while error := (await asyncio.gather(chore(), return_exceptions=True))[0]:
        _log.error("a chore was ended by a defect", exc_info=error)
        await asyncio.sleep(REST_SECONDS)
