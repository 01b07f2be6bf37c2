"""Tasks that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

_log = logging.getLogger(__name__)


def tell_defect(task: asyncio.Task[Any]) -> None:
    """Log by its name what such a task ended of, which none should: to be its done callback."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s failed", task.get_name(), exc_info=error)
